"""The grid, one run of it, and whole seeds of it on every core."""

import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, NamedTuple

from threadpoolctl import threadpool_limits

import gc_core as gct
from examples.digits import data, training
from examples.study import network

WIDTHS = (16, 64, 256)
SIZES = (100, 400, 1438)
STEPS = 300
SEEDS = 20
RULES = {"SGDM": (gct.SGD, 0.1), "Adam": (gct.Adam, 0.003)}
PLACES = {"SGDM": (None, "gradient"), "Adam": (None, "gradient", "update")}


class Setting(NamedTuple):
    """What is the same on both sides of a comparison."""

    rule: str
    normalized: bool
    width: int
    images: int  # that are trained on

    @property
    def key(self) -> str:
        return f"{self.rule} {'BN' if self.normalized else 'plain'} width {self.width} images {self.images}"


SETTINGS = [Setting(*point) for point in itertools.product(RULES, (False, True), WIDTHS, SIZES)]


def train(setting: Setting, place: str | None, seed: int) -> dict[str, float]:
    """Train once. Seed by seed, every setting and place starts from the same split, and from the same weights and order
    where width and number of images are the same."""
    train_set, test_set = data.split(seed)
    train_set = data.Digits(train_set.x[: setting.images], train_set.y[: setting.images])
    params = network.initial_weights(seed, setting.width, setting.normalized)
    axes = {name: gct.fan_in_axes(w.shape, "out_last") if place else None for name, w in params.items()}
    rule, lr = RULES[setting.rule]
    optimizer = rule(params, axes, lr=lr, **({"gc_on": place} if place else {}))
    for batch in itertools.islice(stream(train_set, seed), STEPS):
        _, grads = network.loss_and_grads(params, batch.x, batch.y)
        optimizer.step(grads)
    scores = network.logits(params, test_set.x, network.statistics(params, train_set.x))
    return training.test_scores(scores, test_set.y)


def stream(digits: data.Digits, seed: int) -> Iterator[data.Digits]:
    """Batches without end."""
    for epoch in itertools.count():
        yield from data.batches(digits, seed, epoch)


def prepare() -> None:
    """In each process: these matrices are too small to share among threads, and Ctrl-C is for the one that waits."""
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def seed_of_grid(settings: list[Setting], seed: int) -> dict[str, Any]:
    """{setting: {place: {"test_accuracy", "test_loss"}}} of one seed."""
    return {
        setting.key: {place or "off": train(setting, place, seed) for place in PLACES[setting.rule]}
        for setting in settings
    }


def run(seeds: Iterable[int], on_seed: Callable[[int, dict[str, Any]], Any]) -> None:
    """Train the grid of these seeds, on every core; `on_seed` is given each as soon as it is done."""
    # Not forked: whoever calls may have threads.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"), initializer=prepare) as pool:
        futures = {pool.submit(seed_of_grid, SETTINGS, seed): seed for seed in seeds}
        try:
            for future in as_completed(futures):
                on_seed(futures[future], future.result())
        except BaseException:
            for process in list((pool._processes or {}).values()):  # Ctrl-C would wait for a whole grid
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def together(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Lines of single seeds as {setting: {place: {"test_accuracy": […by seed], "test_loss": […]}}}."""
    return {
        key: {
            place: {name: [line["runs"][key][place][name] for line in lines] for name in found}
            for place, found in places.items()
        }
        for key, places in lines[0]["runs"].items()
    }
