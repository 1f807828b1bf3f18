"""report: how much of a gradient GC removes, against exact sums; and the recorder, the tables and the figures."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gc_torch as gct


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(3, 4, 3), nn.ReLU(), nn.ConvTranspose1d(4, 6, 2, groups=2), nn.Flatten(), nn.Linear(30, 5)
    ).to(dtype)


X = torch.randn(7, 3, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(7) % 5


def backward(model, x=X):
    model.zero_grad()
    F.cross_entropy(model(x.to(model[0].weight.dtype)).float(), Y).backward()
    return model


def exactly(vectors):
    """(norm, norm after, largest, largest after, removed) of weight vectors, with exact sums."""
    means = [math.fsum(vector) / len(vector) for vector in vectors]
    after = [g - mean for vector, mean in zip(vectors, means, strict=True) for g in vector]
    before = [g for vector in vectors for g in vector]
    removed = [mean for vector, mean in zip(vectors, means, strict=True) for _ in vector]
    norm, norm_after, norm_removed = (math.sqrt(math.fsum(x * x for x in xs)) for xs in (before, after, removed))
    return norm, norm_after, max(map(abs, before)), max(map(abs, after)), norm_removed


def vectors_of(model):
    grads = [model[i].weight.grad.double() for i in (0, 2, 4)]
    up = [grads[1][2 * g : 2 * g + 2, out].flatten() for g in range(2) for out in range(3)]
    return {"0.weight": grads[0].flatten(1), "2.weight": torch.stack(up), "4.weight": grads[2]}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_numbers(dtype):
    model = backward(network(dtype))
    report = gct.report(model)
    assert [row.name for row in report.rows] == ["0.weight", "2.weight", "4.weight"]
    for row in report.rows:
        vectors = vectors_of(model)[row.name].tolist()
        wanted = exactly(vectors)
        # Each number is kept in float32 and comes of sums over at most 150 elements; the mean of g carries an error of
        # its fan-in's roundings of the largest element into every other number.
        error = 2**-24 * (160 * wanted[0] + len(vectors[0]) * wanted[2] * math.sqrt(row.fan_in * len(vectors)))
        for got, want in zip(row[3:], wanted, strict=True):
            assert got == pytest.approx(want, rel=0, abs=error)
        share = wanted[4] ** 2 / wanted[0] ** 2
        assert row.share == pytest.approx(share, rel=0, abs=4 * error / wanted[0])
        assert 0.001 < share < 0.999  # so that a wrong axis would show
        assert row.fan_in == len(vectors[0]) and math.prod(row.shape) == len(vectors) * len(vectors[0])


def test_what_is_removed_and_what_stays_are_orthogonal():
    for row in gct.report(backward(network(torch.float64))).rows:
        assert math.hypot(row.norm_after, row.removed) == pytest.approx(row.norm, rel=1e-6)


def test_the_total_is_that_of_one_long_vector():
    model = backward(network(torch.float64))
    report = gct.report(model)
    sums = [exactly(vectors.tolist()) for vectors in vectors_of(model).values()]
    norm = math.sqrt(sum(one[0] ** 2 for one in sums))
    removed = math.sqrt(sum(one[4] ** 2 for one in sums))
    assert report.total.norm == pytest.approx(norm, rel=1e-6)
    assert report.total.share == pytest.approx((removed / norm) ** 2, rel=1e-5)
    assert report.total.largest == pytest.approx(max(one[2] for one in sums), rel=1e-6)
    assert report.total.shape == (36 + 24 + 150,)


def test_gradients_stay_as_they_are():
    model = backward(network())
    before = [p.grad.clone() for p in model.parameters()]
    gct.report(model)
    gct.Recorder(model)()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), before, strict=True))


def test_loss_scaling_leaves_the_shares():
    model = backward(network())
    shares = [row.share for row in gct.report(model).rows]
    for p in model.parameters():
        p.grad *= 1024
    assert [row.share for row in gct.report(model).rows] == shares


def test_after_gc_nothing_is_left_to_remove():
    model = network()
    attached = gct.attach(None, model, where="backward")
    report = gct.report(backward(model))
    assert all(row.share < 1e-12 for row in report.rows)
    attached.remove()
    assert all(row.share > 1e-3 for row in gct.report(backward(model)).rows)


def test_a_zero_gradient_and_an_infinite_one():
    layer = nn.Linear(3, 2)
    layer.weight.grad = torch.zeros(2, 3)
    assert gct.report(layer).rows[0].share == 0.0
    layer.weight.grad[0, 0] = math.inf
    assert math.isnan(gct.report(layer).rows[0].share)
    assert "nan" in gct.report(layer).to_text(80)


def test_overrides_and_plans():
    model = backward(network())
    names = [row.name for row in gct.report(model, {"0.*": None, "2.weight": None}).rows]
    assert names == ["4.weight"]
    plan = gct.plan(model, {"4.weight": 0})
    assert gct.report(model, plan=plan).rows[2].fan_in == 5


def test_parameters_without_a_gradient_are_named():
    model = backward(network())
    model[2].weight.grad = None
    report = gct.report(model)
    assert [row.name for row in report.rows] == ["0.weight", "4.weight"] and report.without_gradient == ("2.weight",)
    assert "Without a gradient: 2.weight." in " ".join(report.to_text(80).split())


@pytest.mark.filterwarnings("ignore::gc_core.GCWarning")  # one of them is a norm alone
@pytest.mark.parametrize(
    ("make", "options", "error", "words"),
    [
        (network, {}, ValueError, "none of the model's 3 centralized parameters has a gradient.*after backward"),
        (lambda: nn.LayerNorm(3), {}, ValueError, "the plan centralizes nothing of this model"),
        (lambda: [1], {}, TypeError, "model must be a torch.nn.Module; got list"),
        (network, dict(plan=3), TypeError, "plan must be what gc_torch.plan"),
        (network, dict(plan=gct.plan(network()), overrides={}), TypeError, "give overrides to the plan"),
        (network, dict(overrides={"x": 1}), ValueError, "'x' matches no parameter"),
    ],
)
def test_bad_calls(make, options, error, words):
    with pytest.raises(error, match=words):
        gct.report(make(), **options)


@pytest.mark.parametrize(("every", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_every_must_be_a_count(every, error):
    with pytest.raises(error, match="every must be an int >= 1"):
        gct.Recorder(network(), every=every)


# ---- To read, and as data


@pytest.mark.parametrize("width", range(40, 161, 3))
def test_the_table_fits_a_terminal(width):
    report = gct.report(backward(nn.Sequential(*network(), nn.Linear(5, 5))))
    rows = [*report.rows, report.rows[0]._replace(name="a.module.of.some.name." * 4 + "weight", norm=1e-33)]
    text = gct.Report(rows, ["one", "two"]).to_text(width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert str(report) == report.to_text()
    squeezed = text.replace("\n", "").replace(" ", "")
    assert "a.module.of.some.name." in squeezed and "allofthese" in squeezed
    assert f"{100 * report.rows[0].share:.3g}%" in squeezed and f"{report.rows[0].norm:.4g}" in squeezed
    if width >= 80:
        assert "3 weights" in text or "9 weights" in text


def test_the_rows_as_data():
    report = gct.report(backward(network()))
    dicts = json.loads(json.dumps(report.to_dicts()))
    assert [one["name"] for one in dicts] == ["0.weight", "2.weight", "4.weight"]
    assert dicts[0].keys() == {*gct.ReportRow._fields, "share"} and dicts[0]["share"] == report.rows[0].share


# ---- Over training


def train(recorder, optimizer, model, steps):
    for _ in range(steps):
        backward(model)
        optimizer.step()
    return recorder


def test_a_recorder_beside_an_optimizer():
    model = network()
    optimizer = gct.SGD(model, lr=0.1)
    recorder = gct.Recorder(model, every=2)
    optimizer.register_step_pre_hook(recorder)
    shares = []
    for _ in range(5):
        backward(model)
        shares.append(gct.report(model).rows[2].share)
        optimizer.step()
    assert [step for step, _ in recorder.reports] == [0, 2, 4]
    assert [one.rows[2].share for _, one in recorder.reports] == shares[::2]
    assert len({*shares}) == 5
    dicts = recorder.to_dicts()
    assert [one["step"] for one in dicts] == [0, 0, 0, 2, 2, 2, 4, 4, 4]
    assert json.loads(json.dumps(dicts)) == [{**one, "shape": list(one["shape"])} for one in dicts]


def test_a_recorder_as_a_callback_that_is_given_whatever():
    model = backward(network())
    recorder = gct.Recorder(model)
    recorder(), recorder("trainer", 3, None)
    assert len(recorder.reports) == 2


def test_before_attached_gc_it_sees_the_gradient_itself():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder, later = gct.Recorder(model), gct.Recorder(model)
    optimizer.register_step_pre_hook(recorder)
    gct.attach(optimizer, model)
    optimizer.register_step_pre_hook(later)
    train(recorder, optimizer, model, 1)
    assert recorder.reports[0][1].total.share > 1e-3 > 1e-12 > later.reports[0][1].total.share


# ---- Figures


def heights(axes):
    return [patch.get_width() for patch in axes.patches]


def test_the_figure_of_a_report():
    report = gct.report(backward(network()))
    figure = report.plot()
    share, norm, largest = figure.axes
    assert heights(share) == [100 * row.share for row in report.rows]
    assert [tick.get_text() for tick in share.get_yticklabels()] == [row.name for row in report.rows]
    assert share.get_ylim()[0] > share.get_ylim()[1]  # the first layer on top
    for axes, before, after in ((norm, "norm", "norm_after"), (largest, "largest", "largest_after")):
        points = [one.get_offsets()[:, 0].tolist() for one in axes.collections if len(one.get_offsets()) == 3]
        assert points == [[getattr(row, field) for row in report.rows] for field in (before, after)]
    figure.canvas.draw()


@pytest.mark.parametrize("name", [None, "4.weight"])
def test_the_figure_of_a_recorder(name):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = gct.Recorder(model)
    optimizer.register_step_pre_hook(recorder)
    train(recorder, optimizer, model, 4)
    figure = recorder.plot(name)
    norm, largest, share = figure.axes
    rows = [one.rows[2] if name else one.total for _, one in recorder.reports]
    assert [list(line.get_ydata()) for line in norm.lines] == [[r.norm for r in rows], [r.norm_after for r in rows]]
    assert list(largest.lines[1].get_ydata()) == [r.largest_after for r in rows]
    assert list(share.lines[0].get_ydata()) == [100 * r.share for r in rows]
    assert list(share.lines[0].get_xdata()) == [0, 1, 2, 3]
    figure.canvas.draw()


def test_a_figure_of_nothing_is_an_error():
    model = backward(network())
    recorder = gct.Recorder(model)
    with pytest.raises(ValueError, match=r"nothing was recorded of 'this model'; centralized are '0.weight'"):
        recorder.plot()
    recorder()
    with pytest.raises(ValueError, match=r"nothing was recorded of '4.bias'"):
        recorder.plot("4.bias")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        gct.report(backward(network())).plot()
