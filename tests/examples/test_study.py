"""The study: its network, that its page and figure are those of its numbers, and that its numbers can be repeated."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from examples.digits import data
from examples.digits.statistics import Interval
from examples.study import __main__ as command
from examples.study import experiment, figure, network, page

DOCS = Path(__file__).parents[2] / "docs"
LINES = [json.loads(line) for line in (DOCS / "results/digits.jsonl").read_text().splitlines()]
METRICS = {"seeds": len(LINES), "versions": LINES[0]["versions"], "runs": experiment.together(LINES)}


def torch_logits(params, x):
    for layer in (1, 2):
        x = x @ params[f"W{layer}"]
        if f"g{layer}" in params:
            x = functional.batch_norm(x, None, None, params[f"g{layer}"], params[f"b{layer}"], training=True)
        else:
            x = x + params[f"b{layer}"]
        x = functional.relu(x)
    return x @ params["W3"] + params["b3"]


@pytest.mark.parametrize("normalized", [False, True])
def test_the_gradient_by_hand_is_torchs(normalized):
    batch = next(iter(data.batches(data.split(0)[0], 0, 0)))
    rng = np.random.default_rng(0)
    params = {name: w + rng.normal(0, 0.1, w.shape) for name, w in network.initial_weights(0, 16, normalized).items()}
    loss, grads = network.loss_and_grads(params, batch.x, batch.y)
    leaves = {name: torch.tensor(w, requires_grad=True) for name, w in params.items()}
    scores = torch_logits(leaves, torch.tensor(batch.x))
    wanted = functional.cross_entropy(scores, torch.tensor(batch.y))
    wanted.backward()
    # Sums of at most 64 terms below 10, three deep, divided by deviations above 0.1: 64³ roundings of 2⁻⁵³ are 3e-11.
    assert loss == pytest.approx(wanted.item(), abs=1e-11)
    assert grads.keys() == params.keys() and ("g1" in grads) == normalized
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, leaves[name].grad.numpy(), rtol=0, atol=3e-11)
    # Tested on the batch it was trained on, with that batch's own statistics, the network gives the same outputs.
    found = network.logits(params, batch.x, network.statistics(params, batch.x))
    np.testing.assert_allclose(found, scores.detach().numpy(), rtol=0, atol=3e-11)


def test_page_and_figure_are_those_of_the_numbers():
    assert (DOCS / "digits.md").read_text() == page.write(METRICS)
    points = [
        container.lines[0].get_ydata()[0] for panel in figure.compose(METRICS).axes for container in panel.containers
    ]
    assert sorted(points) == sorted(d.accuracy.mean for d in page.differences(METRICS["runs"]))
    assert (DOCS / "pictures/digits.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("setting", [experiment.SETTINGS[1], experiment.SETTINGS[-8]], ids=lambda setting: setting.key)
def test_the_numbers_can_be_repeated(setting):
    """Another BLAS rounds otherwise, and 300 steps let that grow; a result of another seed differs far more."""
    for place in experiment.PLACES[setting.rule]:
        kept = METRICS["runs"][setting.key][place or "off"]
        again = experiment.train(setting, place, 1)
        assert again["test_loss"] == pytest.approx(kept["test_loss"][1], rel=1e-4)
        assert again["test_accuracy"] == pytest.approx(kept["test_accuracy"][1], abs=1.5 / 359)
        assert again["test_loss"] != pytest.approx(kept["test_loss"][0], rel=1e-3)


def test_the_numbers_are_complete_and_of_this_grid():
    assert METRICS["runs"].keys() == {setting.key for setting in experiment.SETTINGS}
    for setting in experiment.SETTINGS:
        places = METRICS["runs"][setting.key]
        assert places.keys() == {place or "off" for place in experiment.PLACES[setting.rule]}
        assert all(len(values) == METRICS["seeds"] for found in places.values() for values in found.values())


def test_words_follow_the_intervals():
    found = [Interval(1.0, 0.5), Interval(-1.0, 0.5), Interval(-1.0, 0.5), Interval(0.1, 0.5)]
    assert page.counted(found, "higher") == "1 better, 2 worse, 1 neither"
    assert page.counted(found, "lower") == "2 better, 1 worse, 1 neither"
    assert page.shown(Interval(-1.0, 0.5), "{:+.2f}") == "**−1.00 ± 0.50**"
    assert page.shown(Interval(0.25, 0.5), "{:+.2f}") == "+0.25 ± 0.50"


def test_a_small_run_goes_on_where_it_was_stopped(monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "SETTINGS", experiment.SETTINGS[:1])
    trained = []
    run = experiment.run

    def counted(seeds, on_seed):
        trained.append(list(seeds))
        run(seeds, on_seed)

    monkeypatch.setattr(experiment, "run", counted)
    setting = experiment.SETTINGS[0]
    command.train([1], tmp_path)
    assert not (tmp_path / "digits.md").exists()
    with pytest.raises(KeyError):  # the page is of the whole grid, and this is one setting of it
        command.study(2, tmp_path)
    assert trained == [[1], [0]]
    for seed, line in command.lines(tmp_path).items():
        assert line["runs"] == experiment.seed_of_grid([setting], seed)
