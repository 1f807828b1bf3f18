"""The Triton kernel against its restatement, in Triton's interpreter or, with GC_DEVICE=cuda, on a GPU."""

import importlib.util
import itertools

import numpy as np
import pytest
import torch

from gc_core.plan import Row
from gc_torch import kernels_gpu, table
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


def stepped(parameters, module=kernels_gpu, found_inf=None, grad_scale=None, lr=None, times=1):
    options = parameters[0].options
    columns = [[p["w"] for p in parameters], [p["grad"] for p in parameters]]
    for name in parameters[0].states:
        columns.append([p[name] for p in parameters])
    steps = [p.step for p in parameters] if options["rule"] == "adam" else None
    rows = table.rows(columns, steps, [p.geometry for p in parameters])
    numbers = {**options, "lr": options["lr"] if lr is None else lr}
    launcher = module.Steps()
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
        g = results["grad"] = g / Rounded.stored(np.full(g.value.shape, scale), precision)
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


def check(shape, axes, options, dtype=torch.float32, module=kernels_gpu, **how):
    (p,) = stepped([Parameter(shape, axes, options, dtype, **how)], module)
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


def test_the_work_list_follows_from_the_shapes():
    rows = table.rows([[p["w"] for p in together(SGD)]] * 3, None, [p.geometry for p in together(SGD)])
    entries, _ = kernels_gpu.work(rows, 4)
    assert sorted(np.unique(entries >> 32 & 0xFFFFFF)) == list(range(1, len(SHAPES)))  # the first one is empty
    assert len(np.unique(entries)) == len(entries)
    used = {int(kind) for kind in entries >> 56}
    assert {kernels_gpu.FLAT, kernels_gpu.LONG, kernels_gpu.COLUMNS, kernels_gpu.GROUPS, kernels_gpu.SPLIT} <= used
    assert kernels_gpu.SHORTEST.value << (kernels_gpu.LAST.value - kernels_gpu.ROWS) == kernels_gpu.TILE.value


def test_aligned_blocks_begin_at_16_bytes():
    for itemsize, fan_in, aligned in ((4, 12, True), (4, 10, False), (2, 12, False), (2, 16, True), (8, 10, True)):
        row = np.array([[0, 1024, 2048, 0, 0, 0, 64, 1, 1, fan_in, 1]])
        assert (kernels_gpu.work(row, itemsize)[1] > 0) == aligned
        row[0, table.GRAD] += itemsize
        assert kernels_gpu.work(row, itemsize)[1] == 0


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


def few(module):
    """A little of each test above, for kernels that are wrong."""
    for shape, axes in (
        ((5, 33), (1,)),
        ((70, 36), (0,)),
        ((3, 9, 5), (0, 2)),
        ((2, 3, 40), (0, 2)),
        ((2, 4500), (1,)),
    ):
        check(shape, axes, ADAM, module=module)
        check(shape, axes, {**SGD, "gc_on": "update"}, module=module)
    check((4099,), None, ADAM, module=module)
    for on in ("gradient", "update"):
        for decay in (dict(weight_decay=0.3), dict(weight_decay=0.3, decoupled=True)):
            check((6, 37), (1,), {**ADAM, **decay, "amsgrad": True, "gc_on": on}, module=module)
            for way in (dict(nesterov=True), dict(dampening=0.5), dict(fresh=True), dict(maximize=True)):
                if not decay.get("decoupled"):
                    check((6, 37), (1,), {**SGD, **decay, **way, "gc_on": on}, module=module)
    p = Parameter((6, 37), (1,), ADAM, torch.float32)
    judge(*stepped([p], module, grad_scale=torch.tensor(3.0, device=DEVICE)), scale=3.0)
    p = Parameter((6, 37), (1,), ADAM, torch.float32)
    before = p.bits()
    stepped([p], module, found_inf=torch.tensor(1.0, device=DEVICE))
    assert p.bits() == before
    p = Parameter((4, 8), (1,), {**ADAM, "amsgrad": True}, torch.float32)
    p["exp_avg_sq"][2, 5] = torch.nan
    stepped([p], module)
    assert np.isnan(p.numpy("max_exp_avg_sq")).sum() == 1


# ruff: noqa: E501
# fmt: off
WRONG = {
    "no GC in rows": ("_write(p, at, mask, e, e[0] - mean, n, OPTIONS, A)", "_write(p, at, mask, e, e[0], n, OPTIONS, A)"),
    "the mean over the padded row": ("length.to(A), A)\n    _write(p, at", "ACROSS * 1.0, A)\n    _write(p, at"),
    "no mask in the sum": ("tl.sum(tl.where(mask, e[0], 0.0), axis=1", "tl.sum(e[0] + 1e-3, axis=1"),
    "the last rows not masked": ("(row < vectors - block * DOWN) & (column < length)", "(column < length)"),
    "the end of a long vector forgotten": ("range(0, length, STRETCH)", "range(0, length - STRETCH, STRETCH)"),
    "a long vector centred in stretches": ("        total += tl.where(mask, e[0], 0.0)\n    mean = _divide(tl.sum(total, axis=0)",
                                           "        total = tl.where(mask, e[0], 0.0)\n    mean = _divide(tl.sum(total, axis=0)"),
    "split vectors read as whole ones": ("at = lane if WHOLE else", "at = start + lane if True else"),
    "columns of the next matrix": ("within = column < columns - start", "within = column < LINE"),
    "rows of the next matrix": ("mask = (row < r1 - j) & within", "mask = within & (row >= 0)"),
    "groups taken for columns": ("if GROUPED:\n        other", "if False:\n        other"),
    "the mean of groups over r1 only": ("(r1 * r2).to(A)", "r1.to(A)"),
    "L2 forgotten": ("x = x + n[1] * w\n    if ON_UPDATE", "x = x\n    if ON_UPDATE"),
    "no decoupled decay": ("if DECOUPLED & OPTIONS", "if False"),
    "not maximized": ("x = -x", "x = x"),
    "no Nesterov": ("x = x + n[2] * m\n        else", "x = m\n        else"),
    "no dampening": ("m = n[2] * m + n[3] * x\n        if NESTEROV", "m = n[2] * m + x\n        if NESTEROV"),
    "first step not fresh": ("if FRESH & OPTIONS:\n            m = x", "if FRESH & OPTIONS:\n            m = x * 0.5"),
    "AMSGrad ignored": ("_root(top, A)", "_root(v, A)"),
    "the running maximum drops NaN": (" | (v != v)", ""),
    "the step taken twice": ("if not (ON_UPDATE & OPTIONS):", "if True:"),
    "GC always on the gradient": ("    if ON_UPDATE & OPTIONS:\n        x, m, v, top", "    if False:\n        x, m, v, top"),
    "eps inside the root": ("_root(top, A) * n[7] + n[8]", "_root(top + n[8] + 1e-3, A) * n[7]"),
    "first correction missing": ("m * n[6]", "m"),
    "second correction missing": ("_root(top, A) * n[7]", "_root(top, A)"),
    "the gradient left as it was": ("g.to(p[1]", "(g * 3.0).to(p[1]"),
    "found_inf not heeded": ("if tl.load(found_inf) != 0:\n            return\n    A:", "if tl.load(found_inf) < 0:\n            return\n    A:"),
    "steps counted in spite of found_inf": ("if tl.load(found_inf) != 0:\n            return\n    i =", "if tl.load(found_inf) < 0:\n            return\n    i ="),
    "the step not counted": ("mask=mask, other=0.0) + 1.0", "mask=mask, other=0.0)"),
    "betas exchanged": ("m = n[2] * m + n[3] * x\n        v", "m = n[4] * m + n[5] * x\n        v"),
    "second moment from the first": ("n[5] * x * x", "n[5] * m * m"),
    "series of expm1 too short": ("tl.static_range(9)", "tl.static_range(7)"),
}
# fmt: on


@pytest.fixture(scope="module")
def source():
    spec = importlib.util.find_spec("gc_torch.kernels_gpu")
    with open(spec.origin, encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize("why", WRONG)
def test_wrong_kernels_are_found_out(why, source, tmp_path):
    line, instead = WRONG[why]
    assert line in source, "this mutation no longer changes anything"
    file = tmp_path / "wrong.py"
    file.write_text(source.replace(line, instead), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("wrong", file)
    wrong = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(wrong)
    with pytest.raises(AssertionError):
        few(wrong)


def test_the_same_checks_pass_on_the_right_kernels():
    few(kernels_gpu)
