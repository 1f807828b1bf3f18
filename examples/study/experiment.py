"""The grid, one run of it, and all of them on every core."""

import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterator
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


def run(seeds: int, on_run: Callable[[int], Any]) -> dict[str, Any]:
    """{setting: {place: {"test_accuracy": […by seed], "test_loss": […]}}}."""
    tasks = [(setting, place, seed) for seed in range(seeds) for setting in SETTINGS for place in PLACES[setting.rule]]
    # Not forked: whoever calls may have threads.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"), initializer=prepare) as pool:
        try:
            futures = {pool.submit(train, *task): task for task in tasks}
            done = {}
            for future in as_completed(futures):
                done[futures[future]] = future.result()
                on_run(len(tasks))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # otherwise Ctrl-C would wait for all of them
            raise
    return {
        setting.key: {
            place or "off": {
                name: [done[setting, place, seed][name] for seed in range(seeds)]
                for name in ("test_accuracy", "test_loss")
            }
            for place in PLACES[setting.rule]
        }
        for setting in SETTINGS
    }
