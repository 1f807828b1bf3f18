"""The Triton kernel against its restatement, in Triton's interpreter or, with GC_DEVICE=cuda, on a GPU."""

import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gc_torch
from gc_core.plan import Row
from gc_torch import kernels_gpu, table
from gc_torch import kernels_gpu_work as work
from tests.cupy.restatement import SMALLEST, UNITS, WIDE, Rounded
from tests.torch.triton_on_cpu import DEVICE

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy, about NaN
GUARD = (
    4608  # elements before and after every tensor, more than a block: nothing may write them, and reading them shows
)
GUARDS = 60000.0

SGD = dict(rule="sgd", lr=0.1, weight_decay=0.0, momentum=0.9, dampening=0.0)
ADAM = dict(rule="adam", lr=0.1, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
STATES = {"sgd": ("momentum_buffer",), "adam": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")}

# One of each kind of block, and of the sizes around their edges.
SHAPES = [
    ((0, 3), (1,)),
    ((5,), None),
    ((4096,), None),
    ((4097,), None),
    ((3, 2), (1,)),
    ((257, 9), (1,)),
    ((5, 16), (1,)),
    ((5, 17), (1,)),
    ((65, 64), (1,)),
    ((3, 4096), (1,)),
    ((2, 4097), (1,)),
    ((2, 6148), (1,)),
    ((33, 5), (0,)),
    ((129, 36), (0,)),
    ((2, 65, 33), (1,)),
    ((3, 9, 5), (0, 2)),
    ((2, 70, 7, 9), (1, 3)),
    ((3, 4, 40), (0, 2)),
    ((3, 2, 33), (0, 1, 2)),
    ((1030, 7), (1,)),
    ((9, 1025), (1,)),
    ((3, 4095), (1,)),
    ((2, 9001), (1,)),
    ((2, 8200), (1,)),
    ((1, 36868), (1,)),
    ((1029, 20), (0,)),
    ((4200, 4), (0,)),
    ((3, 2, 300), (0, 2)),
]


def number(bits):
    return getattr(kernels_gpu, bits).value


def option_bits(options):
    bits = number("ADAM") if options["rule"] == "adam" else 0
    if options.get("momentum"):
        bits |= number("MOMENTUM")
    if options["weight_decay"]:
        bits |= number("DECOUPLED" if options.get("decoupled") else "L2")
    for name in ("nesterov", "maximize", "amsgrad", "fresh"):
        bits |= number(name.upper()) if options.get(name) else 0
    return bits | (number("ON_UPDATE") if options.get("gc_on") == "update" else 0)


class Parameter:
    """A parameter, its gradient and its states, each between guards."""

    def __init__(self, shape, axes, options, dtype, state_dtype=None, shift=0, seed=0, permuted=None):
        generator = torch.Generator().manual_seed(seed)
        self.options, self.shape = options, shape
        self.buffers = {}
        self.states = STATES[options["rule"]]
        for name in ("w", "grad", *self.states):
            values = torch.randn(shape, generator=generator, dtype=torch.float64) + 0.5
            if name.endswith("sq"):
                values = values.square() + 0.01
            kind = dtype if name in ("w", "grad") else state_dtype or dtype
            buffer = torch.full((values.numel() + 2 * GUARD,), GUARDS, dtype=kind, device=DEVICE)
            inside = buffer[GUARD + shift : GUARD + shift + values.numel()]
            if permuted:
                values = values.permute(permuted).contiguous()
            inside.copy_(values.reshape(-1))
            view = inside.view(values.shape)
            if permuted:
                view = view.permute(np.argsort(permuted).tolist())
            self.buffers[name] = (buffer, inside.clone(), view, shift)
        self.step = torch.tensor(2.0, device=DEVICE)
        self.axes = axes
        self.geometry = table.geometry(self["w"], Row("", shape, shape, axes, ""))
        self.before = {name: self.numpy(name) for name in self.buffers}

    def __getitem__(self, name):
        return self.buffers[name][2]

    def numpy(self, name):
        return self[name].double().cpu().numpy().copy()

    def vectors(self, array):
        """The fan-in axes as the last, in one."""
        if not self.axes:
            return array.reshape(-1, 1)
        rest = [axis for axis in range(array.ndim) if axis not in self.axes]
        fan_in = int(np.prod([array.shape[axis] for axis in self.axes]))
        return np.transpose(array, [*rest, *self.axes]).reshape(-1, fan_in) if array.size else array.reshape(0, 1)

    def intact(self):
        """Whether nothing was written beside the tensors."""
        for buffer, inside, _, shift in self.buffers.values():
            untouched = buffer == torch.tensor(GUARDS, dtype=buffer.dtype)
            assert untouched[: GUARD + shift].all() and untouched[GUARD + shift + inside.numel() :].all()

    def bits(self):
        return {name: self.numpy(name).tobytes() for name in self.buffers} | {"step": self.step.item()}


def stepped(parameters, found_inf=None, grad_scale=None, lr=None, times=1):
    options = parameters[0].options
    columns = [[p["w"] for p in parameters], [p["grad"] for p in parameters]]
    for name in parameters[0].states:
        columns.append([p[name] for p in parameters])
    steps = [p.step for p in parameters] if options["rule"] == "adam" else None
    rows = table.rows(columns, steps, [p.geometry for p in parameters])
    numbers = {**options, "lr": options["lr"] if lr is None else lr}
    launcher = kernels_gpu.Steps()
    w, state = columns[0][0], columns[2][0]
    for _ in range(times):
        launcher.take(rows, DEVICE, w.dtype, state.dtype, option_bits(options), numbers, found_inf, grad_scale)
    for p in parameters:
        p.intact()
    return parameters


# ---- The restatement: the rules in extended precision, with every rounding of the kernel carried along.


def centered(x, fan_in):
    """A lane adds up at most 64 + M/64 elements before lanes are added pairwise, on a GPU and in the interpreter."""
    return x.centered(max(1, fan_in // (64 + fan_in // 64)))


def restated(p, options, precision, scale=None, lr=None):
    fan_in = p.vectors(p.before["w"]).shape[1]
    axes = p.axes if p.before["w"].size else None
    w, g, *s = (Rounded.stored(p.vectors(p.before[name]), precision) for name in ("w", "grad", *p.states))
    results = {}
    if scale is not None:
        one, many = (Rounded.stored(np.full(g.value.shape, x), precision) for x in (1.0, scale))
        g = results["grad"] = g * (one / many)
    if options.get("maximize"):
        g = Rounded(-g.value, g.error, precision)
    decay, on = options["weight_decay"], options.get("gc_on", "gradient") if axes else None
    if decay and not options.get("decoupled"):
        g = g + decay * w
    if on == "gradient":
        g = centered(g, fan_in)
    if options["rule"] == "sgd":
        d = g
        if mu := options["momentum"]:
            m = results["momentum_buffer"] = g if options.get("fresh") else mu * s[0] + (1 - options["dampening"]) * g
            d = g + mu * m if options.get("nesterov") else m
    else:
        beta1, beta2 = options["betas"]
        m = results["exp_avg"] = beta1 * s[0] + (1 - beta1) * g
        v = results["exp_avg_sq"] = beta2 * s[1] + ((1 - beta2) * g) * g
        if options.get("amsgrad"):
            v = results["max_exp_avg_sq"] = v.maximum(s[2])

        def correction(beta, root):
            # Of expm1(t·log β) the argument has two roundings, which reach the result at most whole; the series has
            # two more, the root, the quotient and their terms of second order three. On a GPU the same.
            exact = 1 / (1 - WIDE(beta) ** 3)
            exact = np.sqrt(exact) if root else exact
            return Rounded(exact, 8 * UNITS[precision] * exact, precision)

        d = (m * correction(beta1, False)) / (v.sqrt() * correction(beta2, True) + options["eps"])
        if p["w"].dtype in HALVES:  # there the division is off by 2 units in the last place (PTX: div.full), not 1/2
            d = Rounded(d.value, d.error + 4 * UNITS[precision] * abs(d.value), precision)
    if decay and options.get("decoupled"):
        d = d + decay * w
    if on == "update":
        d = centered(d, fan_in)
    return {"w": w - (options["lr"] if lr is None else lr) * d, **results}


NAMES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"}
HALVES = (torch.float16, torch.bfloat16)


def judge(p, scale=None, lr=None):
    """Every result of a step against the restatement."""
    precision = "float64" if p["w"].dtype == torch.float64 else "float32"
    for name, want in restated(p, p.options, precision, scale, lr).items():
        stored = NAMES[p[name].dtype]
        once = 0 if stored == precision else UNITS[stored] * (abs(want.value) + want.error) + WIDE(SMALLEST[stored])
        bound = want.error + once
        assert np.isfinite(bound).all(), f"{name}: the bound is infinite: nothing would be tested"
        off = abs(p.vectors(p.numpy(name)) - want.value)
        assert (off <= bound).all(), (
            f"{name} of {p.shape}, {p.axes}: {np.max(off / np.maximum(bound, 1e-300))} bounds off"
        )
    if p.options["rule"] == "adam":
        assert p.step.item() == 3


def check(shape, axes, options, dtype=torch.float32, **how):
    (p,) = stepped([Parameter(shape, axes, options, dtype, **how)])
    judge(p)
    return p


SGDS = [
    {**SGD, **rest, **decay, "gc_on": on}
    for rest in (
        dict(),
        dict(momentum=0.0),
        dict(dampening=0.5),
        dict(nesterov=True),
        dict(fresh=True),
        dict(maximize=True),
    )
    for decay in (dict(), dict(weight_decay=0.3))
    for on in ("gradient", "update")
]
ADAMS = [
    {**ADAM, **rest, **decay, "gc_on": on}
    for rest in (dict(), dict(amsgrad=True), dict(maximize=True), dict(betas=(0.0, 0.5), eps=1e-3))
    for decay in (dict(), dict(weight_decay=0.3), dict(weight_decay=0.3, decoupled=True))
    for on in ("gradient", "update")
]


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_every_kind_of_block(shape, axes):
    options = itertools.cycle(
        [ADAM, SGD, {**ADAM, "gc_on": "update", "weight_decay": 0.3, "decoupled": True}, {**SGD, "gc_on": "update"}]
    )
    for dtype, how in (
        (torch.float32, {}),
        (torch.float32, {"shift": 1}),
        (torch.float64, {}),
        (torch.bfloat16, {}),
        (torch.float16, {"state_dtype": torch.float32, "shift": 3}),
    ):
        check(shape, axes, next(options), dtype, **how)


@pytest.mark.parametrize("options", [*SGDS, *ADAMS], ids=lambda options: "-".join(map(str, options.values())))
def test_every_option(options):
    shapes = [((6, 37), (1,)), ((37, 8), (0,)), ((7,), None)]
    for p in stepped([Parameter(shape, axes, options, torch.float32) for shape, axes in shapes]):
        judge(p)
    check((6, 40), (1,), options, torch.bfloat16)


@pytest.mark.parametrize(
    ("dtype", "state_dtype"), [*((dtype, None) for dtype in NAMES), *((half, torch.float32) for half in HALVES)]
)
def test_every_dtype(dtype, state_dtype):
    for options, (shape, axes) in itertools.product(
        (SGD, {**ADAM, "amsgrad": True}), (((5, 48), (1,)), ((70, 8), (0,)))
    ):
        check(shape, axes, options, dtype, state_dtype=state_dtype)


def test_memory_in_another_order():
    """channels_last: the fan-in axes are contiguous all the same; and a transposed matrix."""
    for options in (ADAM, {**SGD, "gc_on": "update"}):
        p = check((6, 5, 3, 3), (1, 2, 3), options, permuted=(0, 2, 3, 1))
        assert p.geometry == (6, 1, 1, 45, 1) and not p["w"].is_contiguous()
        p = check((6, 40), (1,), options, permuted=(1, 0))
        assert p.geometry == (1, 40, 6, 1, 1)


def together(options, dtype=torch.float32):
    return [Parameter(shape, axes, options, dtype, shift=i % 2, seed=i) for i, (shape, axes) in enumerate(SHAPES)]


@pytest.mark.parametrize("options", [ADAM, {**SGD, "gc_on": "update"}])
def test_one_launch_gives_the_bits_of_many_and_so_does_a_second_one(options):
    first, second = stepped(together(options)), stepped(together(options))
    for i, (one, two) in enumerate(zip(first, second, strict=True)):
        judge(one)
        assert one.bits() == two.bits()
        shape, axes = SHAPES[i]
        (alone,) = stepped([Parameter(shape, axes, options, torch.float32, shift=i % 2, seed=i)])
        assert alone.bits() == one.bits()


def kinds_of(entries):
    """How many blocks of each kind, by name; those read an element at a time apart."""
    bounds = {name: getattr(work, name) for name in ("FLAT", "SPLIT", "COLUMNS", "LONG", "GROUPS", "ROWS", "PACKED", "WIDE", "RAGGED", "TALL")}  # fmt: skip
    found = {}
    for kind in (entries >> 56).tolist():
        name = max((name for name in bounds if bounds[name] <= kind % work.UNALIGNED), key=bounds.__getitem__)
        name += " unaligned" if kind >= work.UNALIGNED else ""
        found[name] = found.get(name, 0) + 1
    return found


def test_the_work_list_follows_from_the_shapes():
    seen = [p.geometry for p in together(SGD)]
    rows = np.array([[4096] * 3 + [0] * (table.OUTER - 3) + list(one) for one in seen])
    entries = work.work(rows, 4)
    assert sorted(np.unique(entries >> 32 & 0xFFFFFF)) == list(range(1, len(SHAPES)))  # the first one is empty
    assert len(np.unique(entries)) == len(entries)
    used = {name.removesuffix(" unaligned") for name in kinds_of(entries)}
    assert used == {"FLAT", "SPLIT", "COLUMNS", "LONG", "GROUPS", "ROWS", "PACKED", "WIDE", "RAGGED", "TALL"}
    assert work.SHORTEST << (work.PACKED - work.ROWS - 1) == work.TILE and work.KINDS <= work.UNALIGNED


def test_an_element_at_a_time_is_read_only_where_it_must_be():
    def kinds(itemsize, geometry, shift=0):
        row = np.array([[4096, 8192, 4096 * 3, *[0] * (table.OUTER - 3), *geometry]])
        row[0, table.GRAD] += shift
        return kinds_of(work.work(row, itemsize))

    assert kinds(4, (64, 1, 1, 12, 1)) == {"ROWS": 1}
    assert kinds(2, (64, 1, 1, 12, 1)) == {"PACKED": 1}
    assert kinds(4, (64, 1, 1, 12, 1), shift=4) == {"PACKED unaligned": 1}
    assert kinds(4, (513, 1, 1, 9, 1)) == {"PACKED": 2, "PACKED unaligned": 1}  # the last row ends at an odd place
    assert kinds(4, (1, 1, 1, 4100, 0)) == {"FLAT": 2}
    assert kinds(4, (1, 1, 1, 4097, 0)) == {"FLAT": 1, "FLAT unaligned": 1}
    assert kinds(4, (3, 1, 1, 4095, 1)) == {"RAGGED": 3}
    assert kinds(4, (3, 1, 1, 4095, 1), shift=4) == {"LONG unaligned": 3}
    assert kinds(4, (2, 1, 1, 40000, 1)) == kinds(4, (2, 1, 1, 40001, 1)) == {"LONG": 2}
    assert kinds(4, (1, 768, 32, 1, 1)) == {"TALL": 4}
    assert kinds(4, (1, 768, 33, 1, 1)) == {"COLUMNS unaligned": 5}
    assert kinds(4, (2, 9, 5, 16, 1)) == {"GROUPS": 10}


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("base", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("shape", [(70, 33), (3, 4500)])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_number_that_is_not_finite_spoils_its_own_vector(base, gc_on, shape, axis):
    options = {**base, "gc_on": gc_on}
    shape = shape if axis else shape[::-1]
    clean = check(shape, (axis,), options)
    for bad, at in ((np.nan, 0), (np.inf, shape[1 - axis] // 2), (-np.inf, shape[1 - axis] - 1)):
        p = Parameter(shape, (axis,), options, torch.float32)
        p["grad"][(at, 3) if axis else (3, at)] = bad
        stepped([p])
        for name in ("w", *p.states):
            got = p.vectors(p.numpy(name))
            rest = np.arange(len(got)) != at
            assert got[rest].tobytes() == p.vectors(clean.numpy(name))[rest].tobytes()
            if name == "w":
                # Adam's step along an infinite gradient is inf / inf, along the others of that vector −inf / inf.
                assert not np.isfinite(got[at]).any()


def test_the_running_maximum_keeps_nan():
    for name in ("exp_avg_sq", "max_exp_avg_sq"):
        p = Parameter((4, 8), (1,), {**ADAM, "amsgrad": True}, torch.float32)
        p[name][2, 5] = torch.nan
        stepped([p])
        assert np.argwhere(np.isnan(p.numpy("max_exp_avg_sq"))).tolist() == [[2, 5]]


def test_infinite_weights_stay_what_they_are_without_decay():
    p = Parameter((2, 4), (1,), SGD, torch.float32)
    p["w"][0, 0] = torch.inf
    stepped([p])
    assert np.isposinf(p.numpy("w")).sum() == 1 and np.isfinite(p.numpy("w")).sum() == 7


@pytest.mark.parametrize("options", [ADAM, {**SGD, "momentum": 0.9}], ids=["adam", "sgd"])
def test_a_gradscaler(options):
    scale = torch.tensor(3.0, device=DEVICE)
    for found in (0.0, 1.0):
        for dtype in (torch.float32, torch.float16):
            p = Parameter((6, 37), (1,), {**options, "maximize": True}, dtype)
            before = p.bits()
            stepped([p], found_inf=torch.tensor(found, device=DEVICE), grad_scale=scale)
            if found:
                assert p.bits() == before
            else:
                judge(p, scale=3.0)


def test_a_learning_rate_on_the_device():
    for dtype in (torch.float32, torch.float64):
        (p,) = stepped([Parameter((6, 37), (1,), ADAM, dtype)], lr=torch.tensor(0.25, dtype=dtype, device=DEVICE))
        judge(p, lr=0.25)


def test_parameters_that_share_memory_are_updated_one_after_another():
    """Two halves of one matrix, and all of it: as three steps in a row would."""
    options = {**SGD, "momentum": 0.0}
    one, other = Parameter((6, 40), (1,), options, torch.float32), Parameter((6, 40), (1,), options, torch.float32)
    for p, together in ((one, True), (other, False)):
        views = [(p["w"][:3], p["grad"][:3]), (p["w"][3:], p["grad"][3:]), (p["w"], p["grad"])]
        for some in [views] if together else [[view] for view in views]:
            w, grad = ([view[which] for view in some] for which in (0, 1))
            seen = [table.geometry(x, Row("", tuple(x.shape), tuple(x.shape), (1,), "")) for x in w]
            rows = table.rows([w, grad], None, seen)
            kernels_gpu.Steps().take(rows, DEVICE, torch.float32, torch.float32, option_bits(options), options)
    assert one.bits() == other.bits() and one.bits()["w"] != one.before["w"].tobytes()


def test_two_steps_in_a_row():
    """The second one has nothing to upload, and reads what the first one has left."""
    (p,) = stepped([Parameter((6, 37), (1,), {**SGD, "momentum": 0.0}, torch.float64)], times=2)
    g = p.before["grad"] - p.before["grad"].mean(1, keepdims=True)
    assert np.abs(p.numpy("w") - (p.before["w"] - 0.2 * g)).max() < 1e-14


def test_what_has_not_changed_is_not_uploaded_again(monkeypatch):
    sent = []
    upload = kernels_gpu.Steps._upload
    monkeypatch.setattr(kernels_gpu.Steps, "_upload", lambda self, *rest: sent.append(1) or upload(self, *rest))
    stepped([Parameter((6, 37), (1,), {**SGD, "momentum": 0.0}, torch.float32)], times=3)
    assert len(sent) == 2  # the table and the list of work


def test_no_more_is_kept_than_the_last_few_steps_need(monkeypatch):
    """Of a mixture of experts a step sees now these weights and now those."""
    made = []
    work_of = kernels_gpu.list_of_work.work
    monkeypatch.setattr(kernels_gpu.list_of_work, "work", lambda *rest: made.append(1) or work_of(*rest))
    launcher = kernels_gpu.Steps()
    experts = [Parameter((4, 5 + i), (1,), {**SGD, "momentum": 0.0}, torch.float32, seed=i) for i in range(8)]
    for turn in range(40):
        some = [experts[turn % 8], experts[turn * 3 % 8], experts[(turn * 5 + turn // 8) % 8]]
        rows = table.rows([[p["w"] for p in some], [p["grad"] for p in some]], None, [p.geometry for p in some])
        options = {**SGD, "momentum": 0.0}
        launcher.take(rows, DEVICE, torch.float32, torch.float32, option_bits(options), options)
        assert len(launcher._lists) <= kernels_gpu.LISTS
    before = len(made)
    for turn in range(kernels_gpu.LISTS * 5):  # so many that alternate are all known
        p = experts[turn % kernels_gpu.LISTS]
        rows = table.rows([[p["w"]], [p["grad"]]], None, [p.geometry])
        launcher.take(rows, DEVICE, torch.float32, torch.float32, option_bits(options), options)
    assert len(made) == before + kernels_gpu.LISTS


class OtherDevice(torch.Tensor):
    """A tensor that says it is on another device until it is brought over."""

    @staticmethod
    def __new__(cls, value):
        return torch.Tensor._make_subclass(cls, torch.tensor(value))

    @property
    def device(self):
        return torch.device("meta")

    def to(self, device, non_blocking=False):
        return torch.tensor(self.as_subclass(torch.Tensor).item(), device=device)


def test_a_scaler_of_another_device():
    p = Parameter((6, 37), (1,), ADAM, torch.float32)
    stepped([p], found_inf=OtherDevice(0.0), grad_scale=OtherDevice(4.0))
    judge(p, scale=4.0)
    before = p.bits()
    stepped([p], found_inf=OtherDevice(1.0), grad_scale=OtherDevice(4.0))
    assert p.bits() == before


def test_a_kernel_that_does_not_compile_has_changed_nothing(monkeypatch):
    """Neither the count of steps nor anything else: the next path can still take the step."""

    class Wrong:
        def warmup(self, *arguments, **options):
            raise RuntimeError("Failed to find C compiler")

    p = Parameter((6, 37), (1,), ADAM, torch.float32)
    before = p.bits()
    monkeypatch.setattr(kernels_gpu.kernels, "step", Wrong())
    with pytest.raises(RuntimeError, match="C compiler"):
        stepped([p])
    assert p.bits() == before


class Capture:
    """Stands in for a GPU whose stream is now captured and now not, with memory on the CPU."""

    def __init__(self, monkeypatch):
        self.now = False
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.now)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda *rest: None)
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
        monkeypatch.setattr(torch.Tensor, "to", lambda x, *rest, **options: x.clone())
        empty = torch.empty
        monkeypatch.setattr(
            torch, "empty",
            lambda *size, pin_memory=False, device=None, **rest: empty(*size, **rest),
        )  # fmt: skip

    def there(self, launcher, rows):
        return launcher._there(rows, torch.device("cuda", 0), torch.float32, False, self.now)


def test_several_graphs_can_be_captured_after_one_step(monkeypatch):
    """Each with gradients of its own, in its own memory."""
    capture, launcher = Capture(monkeypatch), kernels_gpu.Steps()
    rows = np.array([[4096, 8192, *[0] * (table.OUTER - 2), 1, 1, 1, 64, 0]])

    def moved(by):
        other = rows.copy()
        other[0, table.GRAD] += 1024 * by
        return other

    for _ in range(3):
        capture.now = False
        capture.there(launcher, rows)
        capture.now = True
        for graph in range(kernels_gpu.GRAPHS):
            found = capture.there(launcher, moved(1 + graph))
            assert found.there.tolist() == moved(1 + graph).ravel().tolist() and len(found.from_here) == 1
    mine = [tuple(one.from_here[0].tolist()) for one in launcher._captured]
    assert len({one.from_here[0].data_ptr() for one in launcher._captured}) == len(mine) == 3 * kernels_gpu.GRAPHS
    launcher._spare.clear()
    with pytest.raises(RuntimeError, match="needs one before it that is not captured"):
        capture.there(launcher, moved(90))


def test_nothing_is_compiled_during_a_capture():
    launches = [(kernels_gpu.kernels.step, (1,), 4, (), ("never seen before",))]
    with pytest.raises(RuntimeError, match="for which its kernel is compiled"):
        kernels_gpu._compile(launches, DEVICE, capturing=True)


def test_a_changed_address_is_uploaded():
    launcher = kernels_gpu.Steps()
    for seed in range(3):
        p = Parameter((6, 40), (1,), SGD, torch.float32, seed=seed, shift=seed)
        rows = table.rows([[p["w"]], [p["grad"]], [p["momentum_buffer"]]], None, [p.geometry])
        launcher.take(rows, DEVICE, torch.float32, torch.float32, option_bits(SGD), SGD)
        judge(p)


def test_bias_corrections_stay_exact_for_any_step():
    """1 − βᵗ in float32 itself would be off by 1e-5."""
    for t in (0, 9, 999, 10**6):
        p = Parameter((1, 8), None, {**ADAM, "eps": 0.0}, torch.float32)
        p.step.fill_(t)
        for name in ("w", "exp_avg"):
            p[name].zero_()
        p["exp_avg_sq"].fill_(1.0)
        p["grad"].fill_(1.0)
        stepped([p])
        t += 1
        m, v = WIDE("0.1"), WIDE("0.999") + WIDE("0.001")
        want = WIDE("0.1") * m / (1 - WIDE("0.9") ** t) * np.sqrt((1 - WIDE("0.999") ** t) / v)
        # Two corrections of 8 units each and some ten operations.
        assert abs(p.numpy("w") / -want - 1).max() < 32 * UNITS["float32"]


# ---- Wrong kernels


def few():
    """A little of each test above, for kernels that are wrong."""
    for shape, axes in (
        ((5, 33), (1,)),
        ((6, 40), (1,)),
        ((70, 36), (0,)),
        ((3, 9, 5), (0, 2)),
        ((2, 3, 40), (0, 2)),
        ((2, 4500), (1,)),
        ((2, 4501), (1,)),
        ((1, 36865), (1,)),
        ((513, 9), (1,)),
        ((600, 12), (0,)),
        ((4100, 4), (0,)),
        ((3, 2, 300), (0, 2)),
    ):
        check(shape, axes, ADAM)
        check(shape, axes, {**SGD, "gc_on": "update"})
    check((4099,), None, ADAM)
    for shape, axes in (((2, 4500), (1,)), ((1100, 12), (0,))):  # in two and three tiles
        check(shape, axes, {**SGD, "weight_decay": 0.3})
    for on in ("gradient", "update"):
        for decay in (dict(weight_decay=0.3), dict(weight_decay=0.3, decoupled=True)):
            check((6, 37), (1,), {**ADAM, **decay, "amsgrad": True, "gc_on": on})
            for way in (dict(nesterov=True), dict(dampening=0.5), dict(fresh=True), dict(maximize=True)):
                if not decay.get("decoupled"):
                    check((6, 37), (1,), {**SGD, **decay, **way, "gc_on": on})
    p = Parameter((6, 37), (1,), ADAM, torch.float32)
    judge(*stepped([p], grad_scale=torch.tensor(3.0, device=DEVICE)), scale=3.0)
    p = Parameter((6, 37), (1,), ADAM, torch.float32)
    before = p.bits()
    stepped([p], found_inf=torch.tensor(1.0, device=DEVICE))
    assert p.bits() == before
    p = Parameter((4, 8), (1,), {**ADAM, "amsgrad": True}, torch.float32)
    p["exp_avg_sq"][2, 5] = torch.nan
    stepped([p])
    assert np.isnan(p.numpy("max_exp_avg_sq")).sum() == 1


# ruff: noqa: E501
# fmt: off
WRONG = {
    "no GC in rows": ("e[0] - mean, n, OPTIONS, A)\n\n\n@triton.jit\ndef packed", "e[0], n, OPTIONS, A)\n\n\n@triton.jit\ndef packed"),
    "the mean over the padded row": ("length.to(A), A)\n    write(p, at", "ACROSS * 1.0, A)\n    write(p, at"),
    "no mask in the sum": ("tl.sum(tl.where(mask, e[0], 0.0), axis=1", "tl.sum(e[0] + 1e-3, axis=1"),
    "the last rows not masked": ("(row < _here(vectors, block * DOWN, DOWN)) & (column < length)", "(column < length) & (row >= 0)"),
    "packed vectors one place off": ("row * length + column, 0), 0)", "row * length + column + 1, 0), 0)"),
    "packed vectors summed with their padding": ("tl.where(inside, apart, 0.0)", "apart"),
    "packed vectors take the mean of a neighbour": ("tl.umulhi(2 * at.to(tl.uint32), magic)", "tl.umulhi(2 * at.to(tl.uint32) + 2, magic)"),
    "the last vectors of a tensor not masked": ("mask = at < _whole(down * length", "mask = at < _whole((down + 1) * length"),
    "of a wide vector the last tile not masked": ("mask = at < whole - k * TILE\n        x", "mask = at < TILE\n        x"),
    "a wide vector centred in tiles": ("total += tl.where(mask, x, 0.0)\n        kept = kept + ((x, w),)\n    total = tl.sum(total, axis=0)", "total = tl.where(mask, x, 0.0)\n        kept = kept + ((x, w),)\n    total = tl.sum(total, axis=0)"),
    "the ends of a ragged vector left out of its sum": ("total += tl.sum(tl.where(there, beside, 0.0), axis=0)", "total += 0.0"),
    "the ends of a ragged vector not written": ("end(q, place, there, beside", "end(q, place, there & (place < 0), beside"),
    "the end of a long vector forgotten": ("range(0, whole, PART):\n        mask = at < _whole(_here(whole, start", "range(0, whole - PART, PART):\n        mask = at < _whole(_here(whole, start"),
    "a long vector centred in tiles": ("total += tl.where(mask, e[0], 0.0)\n    beside", "total = tl.where(mask, e[0], 0.0)\n    beside"),
    "split vectors read as whole ones": ("at = (start + lane) // r2 * (inner * r2) + (start + lane) % r2\n        e = read(p, at, mask, n, OPTIONS, A)\n        write", "at = start + lane\n        e = read(p, at, mask, n, OPTIONS, A)\n        write"),
    "columns of the next matrix": ("within = column < _whole(_here(inner, start, LINE), VECTOR, True)", "within = column < LINE"),
    "rows of the next matrix": ("mask = (row < high - k * DOWN) & within\n        x", "mask = within & (row >= 0)\n        x"),
    "of tall columns the second tile for the first": ("kept[k][0] - mean, kept[k][1], n, OPTIONS, A, TILES <= _WITH_W)\n\n\n@triton.jit\ndef columns", "kept[0][0] - mean, kept[k][1], n, OPTIONS, A, TILES <= _WITH_W)\n\n\n@triton.jit\ndef columns"),
    "of very tall columns the last rows left out": ("for j in range(0, r1, DOWN):\n        mask", "for j in range(0, r1 - DOWN, DOWN):\n        mask"),
    "groups taken for columns": ("if GROUPED:\n        other", "if False:\n        other"),
    "the mean of groups over r1 only": ("(r1 * r2).to(A)", "r1.to(A)"),
    "L2 forgotten": ("x = tl.fma(n[1], w, x)\n    if ON_UPDATE & OPTIONS:\n        x, m, v, top", "x = x\n    if ON_UPDATE & OPTIONS:\n        x, m, v, top"),
    "L2 forgotten in what is begun": ("w = _load_weight(p, at, mask, OPTIONS, A)\n        x = tl.fma(n[1], w, x)", "w = _load_weight(p, at, mask, OPTIONS, A)"),
    "the weights of another tile": ("kept[k][0] - mean, kept[k][1]", "kept[k][0] - mean, kept[0][1]"),
    "no decoupled decay": ("if DECOUPLED & OPTIONS:\n        x = tl.fma", "if False:\n        x = tl.fma"),
    "not maximized": ("x = -x", "x = x"),
    "no Nesterov": ("x = tl.fma(n[2], m, x)", "x = m"),
    "no dampening": ("m = tl.fma(n[2], m, n[3] * x)\n        if NESTEROV", "m = tl.fma(n[2], m, x)\n        if NESTEROV"),
    "first step not fresh": ("if FRESH & OPTIONS:\n            m = x", "if FRESH & OPTIONS:\n            m = x * 0.5"),
    "AMSGrad ignored": ("root(top, A)", "root(m * m, A)"),
    "the running maximum drops NaN": (" | (v != v)", ""),
    "the step taken twice": ("if not (ON_UPDATE & OPTIONS):\n        x, m, v, top = advance", "if True:\n        x, m, v, top = advance"),
    "GC always on the gradient": ("    if ON_UPDATE & OPTIONS:\n        x, m, v, top", "    if False:\n        x, m, v, top"),
    "eps inside the root": ("tl.fma(root(top, A), n[7], n[8])", "root(top + n[8] + 1e-3, A) * n[7]"),
    "first correction missing": ("m * n[6]", "m * 1.0"),
    "second correction missing": ("tl.fma(root(top, A), n[7], n[8])", "root(top, A) + n[8]"),
    "corrections of the neighbour": ("tl.load(corrections + 2 * tensor)", "tl.load(corrections + 2 * tensor + 1)"),
    "the gradient left as it was": ("g.to(p[1].dtype.element_ty)", "(g * 3.0).to(p[1].dtype.element_ty)"),
    "found_inf not heeded": ("if tl.load(found_inf) != 0:\n            return\n    A:", "if tl.load(found_inf) < 0:\n            return\n    A:"),
    "steps counted in spite of found_inf": ("if tl.load(found_inf) != 0:\n            return\n    i =", "if tl.load(found_inf) < 0:\n            return\n    i ="),
    "the step not counted": ("mask=mask, other=0.0) + 1.0", "mask=mask, other=0.0)"),
    "betas exchanged": ("m = tl.fma(n[2], m, n[3] * x)\n        v", "m = tl.fma(n[4], m, n[5] * x)\n        v"),
    "second moment from the first": ("n[5] * x * x", "n[5] * m * m"),
    "series of expm1 too short": ("tl.static_range(9)", "tl.static_range(7)"),
}
# fmt: on


def page(name, text, folder):
    """A page of the package with another text, as a module beside it."""
    file = folder / f"{name}.py"
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(name):
    return Path(importlib.util.find_spec(f"gc_torch.{name}").origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("why", WRONG)
def test_wrong_kernels_are_found_out(why, monkeypatch, tmp_path):
    line, instead = WRONG[why]
    texts = {name: text_of(name) for name in ("kernels_gpu_rules", "kernels_gpu_blocks", "kernels_gpu_step")}
    assert any(line in text for text in texts.values()), "this mutation no longer changes anything"
    for name, text in texts.items():
        wrong = page(f"wrong_{name}", text.replace(line, instead), tmp_path)
        monkeypatch.setitem(sys.modules, f"gc_torch.{name}", wrong)
        monkeypatch.setattr(gc_torch, name, wrong)
    monkeypatch.setattr(kernels_gpu, "kernels", wrong)
    with pytest.raises(AssertionError):
        few()


def test_the_same_checks_pass_on_the_right_kernels():
    few()
