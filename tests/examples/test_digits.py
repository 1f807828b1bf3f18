"""The first training run: its gradient, its backends, its numbers, its figure, and how it stops."""

import importlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import typer
from rich.console import Console

import gc_core
import gc_core.adam
import gc_core.operator
import gc_core.sgdm
from examples.digits import command, data, figure, numpy_network, report, statistics, training

COMMAND = [sys.executable, "-m", "examples.digits"]
EPOCHS = 2


def train(network, method, seed=0, epochs=EPOCHS):
    return training.train(network, method, training.make_step(network, method), seed, epochs, lambda: None)


def all_curves(network=numpy_network, seeds=2, epochs=EPOCHS):
    return [{method.name: train(network, method, seed, epochs) for method in training.METHODS} for seed in range(seeds)]


def all_metrics(seeds=2, epochs=EPOCHS):
    return command.collect(all_curves(seeds=seeds, epochs=epochs), "numpy", numpy_network, seeds, epochs)


# ---- The gradient by hand


def test_the_gradient_by_hand_is_the_slope_of_the_loss():
    """Every one of 4546 derivatives against a central difference, in extended precision where there is one.

    With step h the difference is off by h²/6 of the third derivative and by the rounding of two losses over h; it is
    taken between points where the same units are active, since the loss has kinks where one wakes or dies.
    """
    rng = np.random.default_rng(0)
    h = np.longdouble(1e-4)
    batch = next(iter(data.batches(data.split(0)[0], 0, 0)))
    x, y = batch.x[:6].astype(np.longdouble), batch.y[:6].astype(np.longdouble)
    params = {name: w.astype(np.longdouble) for name, w in data.initial_weights(0).items()}
    for name in ("b1", "b2", "b3"):
        params[name] += rng.normal(0, 0.1, params[name].shape)
    _, grads = numpy_network.loss_and_grads(params, x, y)

    def at(name, index, step):
        moved = {**params, name: params[name].copy()}
        moved[name][index] += step
        inputs, _ = numpy_network._forward(moved, x)
        return numpy_network.loss_and_grads(moved, x, y)[0], [a > 0 for a in inputs[1:]]

    compared = 0
    for name, grad in grads.items():
        assert grad.shape == params[name].shape
        for index in np.ndindex(grad.shape):
            (above, active), (below, also) = at(name, index, h), at(name, index, -h)
            if all(np.array_equal(a, b) for a, b in zip(active, also, strict=True)):
                compared += 1
                # The third derivative is a sum of products of activations and weights below 3: 10 is beyond it.
                assert abs((above - below) / (2 * h) - grad[index]) < 10 * h**2, (name, index)
    assert compared > 0.98 * sum(grad.size for grad in grads.values())


# ---- The same on every backend


def backend(name):
    if name != "cupy":
        return importlib.import_module(f"examples.digits.{name}_network")
    # NumPy in the place of CuPy, with gc_cupy's kernels compiled for the host.
    gct = importlib.import_module("tests.cupy.gc_cupy_on_numpy")
    own = {
        function: getattr(numpy_network, function) for function in ("LAYOUT", "compiled", "logits", "loss_and_grads")
    }
    return SimpleNamespace(gct=gct, **own)


@pytest.fixture(scope="module")
def reference():
    """NumPy's loss curves, and by how much at most another backend may differ, by method.

    A rounding error made at some step grows on the way as one made at the start does. How that grows is seen by
    changing every initial weight by 2⁻³⁰ of itself. A step's gradient and update hold sums of at most 64 + 48 + 24 and
    64 (the batch) terms and some ten other operations, each of which is rounded by at most 2⁻⁵³ of its own magnitude.
    """
    curves = {method.name: np.array(train(numpy_network, method)["loss"]) for method in training.METHODS}
    growth = dict.fromkeys(curves, 0.0)
    start = data.initial_weights
    with pytest.MonkeyPatch.context() as patch:
        for attempt in range(3):
            signs = np.random.default_rng(attempt)

            def moved(seed, signs=signs):
                return {name: w * (1 + 2.0**-30 * signs.choice([-1, 1], w.shape)) for name, w in start(seed).items()}

            patch.setattr(data, "initial_weights", moved)
            for method in training.METHODS:
                apart = np.max(abs(np.array(train(numpy_network, method)["loss"]) - curves[method.name]))
                growth[method.name] = max(growth[method.name], float(apart) * 2.0**30)
    steps = len(curves["SGDM"])
    return curves, {name: growth[name] * steps * (64 + 48 + 24 + 64 + 10) * 2.0**-53 for name in curves}


@pytest.mark.parametrize("name", ["torch", "jax", "cupy"])
def test_the_loss_curves_of_all_backends_agree_to_rounding(name, reference):
    curves, bounds = reference
    network = backend(name)
    for method in training.METHODS:
        apart = np.max(abs(np.array(train(network, method)["loss"]) - curves[method.name]))
        assert apart <= bounds[method.name] < 1e-10, method.name


def test_a_wrong_axis_would_be_seen_in_the_loss_curve(reference):
    curves, bounds = reference
    sound = backend("torch")
    wrong = SimpleNamespace(**{**vars(sound), "gct": SimpleNamespace(**vars(sound.gct))})
    wrong.gct.fan_in_axes = lambda shape, layout: sound.gct.fan_in_axes(shape, "out_last")
    for method in training.METHODS:
        apart = np.max(abs(np.array(train(wrong, method)["loss"]) - curves[method.name]))
        assert apart > 1e-4 if method.gc_on else apart <= bounds[method.name]


def test_splits_and_batches_come_from_the_seed_alone():
    for seed in (0, 1):
        train_set, test_set = data.split(seed)
        assert len(train_set.x) == 1438 and len(test_set.x) == 359
        again = data.split(seed)
        assert np.array_equal(again[0].x, train_set.x)
        rows = {row.tobytes() for row in train_set.x}
        assert sum(row.tobytes() in rows for row in test_set.x) == 0  # no image is in both
        seen = [batch.x for batch in data.batches(train_set, seed, 0)]
        assert [len(x) for x in seen] == [64] * 22
        assert not np.array_equal(seen[0], next(iter(data.batches(train_set, seed, 1))).x)
    assert not np.array_equal(data.split(0)[0].x, data.split(1)[0].x)


# ---- What is measured, and the figure


def test_the_drift_and_the_shift_are_those_of_the_weights():
    start = data.initial_weights(0)
    moved = {name: w + (0.25 if name == "W2" else 0.0) for name, w in start.items() if w.ndim == 2}
    units = 48 + 24 + 10
    assert training.mean_drift(moved, start) == pytest.approx(0.25 * 24 / units)
    image = data.split(0)[1].x[0]
    wanted = training.GAMMA * start["W1"].sum(0)
    assert training.output_shift(start["W1"], image) == pytest.approx(wanted[: training.SHIFT_UNITS], abs=1e-12)


def test_gc_keeps_the_weight_means_and_the_output_shift():
    """γ 1ᵀw of 64 weights below 2 is off by some 64 · 64 roundings of it in 44 steps, which is below 1e-12."""
    for method in training.METHODS:
        curve = train(numpy_network, method)
        shift = np.array(curve["output_shift"])
        moved = np.max(abs(shift - shift[0]))
        if method.name in ("GC-SGDM", "GC-Adam (update)"):
            assert max(curve["mean_drift"]) < 1e-14 and moved < 1e-12
        else:
            assert curve["mean_drift"][-1] > 1e-3 and moved > 1e-2


def drawn(metrics):
    """What the figure shows: {(panel, method): its points}, read from the figure itself."""
    found = {}
    for panel in figure.compose(metrics).axes:
        for line in panel.get_lines():
            if line.get_gid():
                found.setdefault((panel.get_title(loc="left"), line.get_gid()), []).append(line.get_ydata())
    return found


PANELS = 7  # with lines; the eighth has dots
WITH_GC = {method.name for method in training.METHODS if method.gc_on}
BY_RULE = {rule: {method.name for method in training.METHODS if method.rule == rule} for rule in ("sgdm", "adam")}


def no_gc(g, axis):
    return g


def whole_tensor(g, axis):
    return g if axis is None else g - g.mean()


def wrong_axis(g, axis):
    return g if axis is None else g - g.mean(1 - axis[0], keepdims=True)


def sign(g, axis):
    return g if axis is None else g + g.mean(axis, keepdims=True)


def break_phi(patch, broken):
    for module in (gc_core.operator, gc_core.sgdm, gc_core.adam):
        patch.setattr(module, "center", broken)


def break_rule(patch, rule):
    own = getattr(gc_core, f"{rule}_update")
    other = {"sgdm": {"momentum": 0.8}, "adam": {"betas": (0.8, 0.999)}}[rule]
    patch.setattr(gc_core, f"{rule}_update", lambda *args, **options: own(*args, **options, **other))


@pytest.mark.parametrize(
    ("break_it", "how", "methods"),
    [
        *[(break_phi, broken, WITH_GC) for broken in (no_gc, whole_tensor, wrong_axis, sign)],
        *[(break_rule, rule, BY_RULE[rule]) for rule in ("sgdm", "adam")],
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_curve_of_the_figure_changes_if_the_reference_is_broken(break_it, how, methods, monkeypatch):
    """Φ is in the curves of the methods with GC, each rule in its own; together that is every curve there is."""
    sound = all_metrics(epochs=4)
    break_it(monkeypatch, how)
    broken = all_metrics(epochs=4)
    before, after = drawn(sound), drawn(broken)
    assert before.keys() == after.keys()
    assert len({panel for panel, _ in before}) == PANELS
    for (panel, method), points in before.items():
        changed = not all(np.array_equal(a, b) for a, b in zip(points, after[panel, method], strict=True))
        assert changed == (method in methods), (panel, method)
    for old, new in zip(sound["differences"], broken["differences"], strict=True):
        touched = {old["gc"], old["plain"]} & methods
        assert (old["test_loss_by_seed"] != new["test_loss_by_seed"]) == bool(touched)
        assert (old["test_accuracy_by_seed"] != new["test_accuracy_by_seed"]) == bool(touched)


def test_together_these_breaks_reach_every_method():
    assert WITH_GC | BY_RULE["sgdm"] | BY_RULE["adam"] == {method.name for method in training.METHODS}


# ---- Intervals and words


def test_the_interval_is_students():
    values = [0.3, -0.1, 0.7, 0.2, 0.05]
    wanted = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = statistics.interval(values)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert statistics.interval([1.0]).half_width is None


def test_differences_are_paired_by_seed():
    """Two methods whose seeds differ much and whose difference does not: only pairing shows it."""
    base = np.array([0.80, 0.90, 0.70, 0.95])
    curves = {
        name: {"test_accuracy": [[a + gain] for a in base], "test_loss": [[1 - a] for a in base]}
        for name, gain in (("SGDM", 0), ("GC-SGDM", 0.01), ("Adam", 0), ("GC-Adam (gradient)", 0),
                           ("GC-Adam (update)", -0.01))
    }  # fmt: skip
    more, same, less = (row["test_accuracy"] for row in statistics.differences(curves))
    assert more.mean == pytest.approx(1.0) and more.half_width < 1e-10
    verdicts = [report.verdict(found) for found in (more, same, less)]
    assert verdicts == ["higher", "no difference shown", "lower"]


def test_the_report_loses_nothing_on_a_narrow_terminal():
    texts = {width: io.StringIO() for width in (60, 200)}
    for width, text in texts.items():
        report.show(Console(width=width, file=text), all_metrics())
    assert "…" not in texts[60].getvalue()
    numbers = [re.findall(r"[\d.]+", text.getvalue()) for text in texts.values()]
    assert sorted("".join(numbers[0])) == sorted("".join(numbers[1]))


def test_the_report_fits_a_terminal_of_80_columns():
    metrics = all_metrics()
    text = io.StringIO()
    report.show(Console(width=80, file=text), metrics)
    text = text.getvalue()
    assert "…" not in text
    for method in training.METHODS:
        assert re.search(rf"^ +{re.escape(method.name)} +\d+\.\d+ ± \d", text, re.M), method.name
    assert "paired by seed" in text


def test_words_follow_the_numbers():
    little = {"mean": 0.0, "half_width": 0.3}
    rows = [
        {
            "gc": gc,
            "plain": plain,
            "test_accuracy": statistics.Interval(**little),
            "test_loss": statistics.Interval(1, 0.5),
        }
        for gc, plain in statistics.PAIRS
    ]
    summary = {
        name: {"gradient_norm": statistics.Interval(2.0, None), "mean_drift": statistics.Interval(0.1, None)}
        for pair in statistics.PAIRS
        for name in pair
    }
    *_, last = report.in_words(summary, rows)
    assert last.endswith("on these digits GC changes little.") and "0.30 points" in last
    rows[1]["test_accuracy"] = statistics.Interval(3.0, 0.3)
    *_, last = report.in_words(summary, rows)
    assert "changes little" in last and "too wide" in last


# ---- The command


def run(*options, cwd):
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    return subprocess.run([*COMMAND, *options], cwd=cwd, env=env, capture_output=True, text=True)


def test_a_run_leaves_numbers_and_a_figure_under_runs(tmp_path):
    done = run("--seeds", "2", "--epochs", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == "digits-numpy-1" and {file.name for file in folder.iterdir()} == {
        "metrics.json",
        "digits.png",
    }
    assert (folder / "digits.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["seeds"] == [0, 1] and not metrics["interrupted"]
    assert metrics["versions"]["gradient-centralization"] == gc_core.__version__
    for method in training.METHODS:
        loss = metrics["curves"][method.name]["loss"]
        assert loss[1] == train(numpy_network, method, seed=1, epochs=1)["loss"]
    assert str(folder.relative_to(tmp_path)) in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "tensorflow"}, ["--backend", "numpy, torch, jax, cupy", "'tensorflow'"]),
        ({"seeds": 0}, ["--seeds", "at least 1", "0"]),
        ({"epochs": -3}, ["--epochs", "at least 1", "-3"]),
    ],
)
def test_wrong_options_are_one_line(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(typer.Exit) as stopped:
        command.digits(**options)
    said = capsys.readouterr().err
    assert stopped.value.exit_code == 2 and len(said.splitlines()) == 1
    assert all(word in said for word in words)
    assert not list(tmp_path.iterdir())


ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from examples.digits.command import app
app()
"""


@pytest.mark.parametrize(("name", "missing"), [("torch", "torch"), ("jax", "jax"), ("jax", "optax"), ("cupy", "cupy")])
def test_a_backend_that_is_not_installed_says_what_to_install(name, missing, tmp_path):
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", ABSENT.format(missing), "--backend", name],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"needs {missing}, which is not installed" in done.stderr
    extra = {"cupy": "cupy-cuda13"}.get(name, name)
    assert f"-m pip install --constraint constraints.txt --editable '.[{extra}]'" in done.stderr


def test_cupy_without_a_gpu_says_so(monkeypatch, capsys):
    class NoDriver(Exception):
        pass

    def count():
        raise NoDriver("no CUDA-capable device")

    runtime = SimpleNamespace(getDeviceCount=count, CUDARuntimeError=NoDriver)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    with pytest.raises(typer.Exit) as stopped:
        command.load_network("cupy")
    assert stopped.value.exit_code == 2
    assert "NVIDIA GPU" in capsys.readouterr().err


def test_results_are_never_overwritten(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(typer.Exit):
        command.digits(seeds=1, epochs=1, out=tmp_path)
    assert "never overwritten" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


# ---- Ctrl-C


def press():
    os.kill(os.getpid(), signal.SIGINT)


def interrupted(monkeypatch, steps, out, seeds=3):
    """The command with Ctrl-C in the middle of the given training steps; each seed has 5 × 22 of them."""
    calls = iter(range(10**6))

    def loss_and_grads(params, x, y):
        if next(calls) in steps:
            press()
        return numpy_network.loss_and_grads(params, x, y)

    network = SimpleNamespace(**{**vars(numpy_network), "loss_and_grads": loss_and_grads, "__name__": "numpy"})
    monkeypatch.setattr(command, "load_network", lambda backend: network)
    with pytest.raises(typer.Exit) as stopped:
        command.digits(seeds=seeds, epochs=1, out=out)
    assert stopped.value.exit_code == 130


def test_ctrl_c_keeps_the_seeds_that_are_finished_and_says_so(tmp_path, monkeypatch, capfd):
    interrupted(monkeypatch, {2 * 110 + 40}, tmp_path / "out")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    said = capfd.readouterr()
    assert "2 of 3 seeds were finished" in said.err and "over 2 seeds" in said.out
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["interrupted"] and metrics["seeds"] == [0, 1]
    assert metrics["curves"]["Adam"]["loss"] == [
        train(numpy_network, training.METHODS[2], s, 1)["loss"] for s in (0, 1)
    ]
    assert (tmp_path / "out/digits.png").stat().st_size > 10_000


def test_ctrl_c_before_a_seed_is_finished_writes_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    interrupted(monkeypatch, {40}, None)
    assert "nothing is written" in capfd.readouterr().err
    assert not list((tmp_path / "runs").iterdir())


def test_ctrl_c_while_the_figure_is_drawn_lets_it_finish_and_a_second_one_does_not(tmp_path, monkeypatch, capfd):
    draw = figure.draw

    def pressed(times):
        def drawing(metrics, path):
            path.write_bytes(b"a half-written file")
            for _ in range(times):
                press()
            draw(metrics, path)

        return drawing

    monkeypatch.setattr(figure, "draw", pressed(1))
    interrupted(monkeypatch, set(), tmp_path / "once", seeds=1)
    assert "1 of 1 seeds were finished" in capfd.readouterr().err
    assert (tmp_path / "once/digits.png").read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr(figure, "draw", pressed(2))
    interrupted(monkeypatch, set(), tmp_path / "twice", seeds=1)
    assert "which holds: metrics.json." in capfd.readouterr().err
    assert [file.name for file in (tmp_path / "twice").iterdir()] == ["metrics.json"]


EARLY = """
import os, runpy, signal, sys, typer.core as core
make_context = core.TyperCommand.make_context
core.TyperCommand.make_context = lambda *a, **k: (os.kill(os.getpid(), signal.SIGINT), make_context(*a, **k))[1]
sys.argv = ["digits", "--seeds", "1", "--epochs", "1"]
runpy.run_module("examples.digits", run_name="__main__")
"""


def test_ctrl_c_while_the_options_are_read_is_not_silent(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", EARLY], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "Stopped.\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("moment", [0.7, 2.5])
def test_ctrl_c_at_a_random_moment_of_a_real_run(moment, tmp_path):
    """Whatever was reached by then: no traceback, and what is said is what is there."""
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        [*COMMAND, "--seeds", "100000", "--epochs", "1"],
        cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        time.sleep(moment * random.uniform(0.5, 1.5))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    folders = list((tmp_path / "runs").iterdir()) if (tmp_path / "runs").exists() else []
    if process.returncode == -signal.SIGINT or "Traceback" in said:
        # Python itself, before the first line of ours.
        assert not folders and "examples" not in said.partition("Traceback")[2], said
        return
    assert process.returncode == 130, said
    if kept := re.search(r"Stopped: (\d+) of 100000 seeds were finished", said):
        metrics = json.loads((folders[0] / "metrics.json").read_text())
        assert len(metrics["seeds"]) == int(kept[1])
    else:
        assert "Stopped" in said and not folders, said
