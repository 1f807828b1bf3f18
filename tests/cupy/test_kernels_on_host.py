"""kernels.cu, compiled as C++ and run thread by thread, against a restatement in extended precision.

The way to a kernel is the package's own (`kernels.prepare`), so that geometry and arguments are tested with it. Every
array lies between guards, which a kernel must not write to; what it reads there is NaN.
"""

import itertools
import mmap

import ml_dtypes
import numpy as np
import pytest

from tests.cupy import host, restatement
from tests.cupy.gc_cupy_on_numpy import kernels
from tests.cupy.restatement import assert_within

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}
COMPUTED_IN = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}
PARTS = {
    "centralize": ((), ("grad",)),
    "sgdm": (("w", "momentum_buffer"), ("w", "momentum_buffer")),
    "adam": (("w", "exp_avg", "exp_avg_sq"), ("w", "exp_avg", "exp_avg_sq")),
}
SGDM = dict(lr=0.1, momentum=0.9, dampening=0.0, nesterov=False, weight_decay=0.0, decoupled=False, gc_on="gradient")
ADAM = dict(
    lr=0.1, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.0, decoupled=False, amsgrad=False, gc_on="gradient", step=2
)  # fmt: skip
GUARD = 4096
FAN_INS = (1, 2, 3, 9, 27, 31, 32, 33, 1000, 4097)


def guarded(array, guard=np.nan):
    """A copy with guards on both sides, as (all of it, the array in it)."""
    whole = np.full(array.size + 2 * GUARD, guard, array.dtype)
    inside = whole[GUARD : GUARD + array.size].reshape(array.shape)
    inside[...] = array
    return whole, inside


def example(rule, shape, dtype, seed=0):
    """Arrays for a rule: gradient, weight and state, as after some steps; the gradients have means far from 0."""
    rng = np.random.default_rng(seed)
    arrays = {"grad": rng.normal(0.5, 1, shape)}
    if rule != "centralize":
        arrays["w"] = rng.normal(0.1, 1, shape)
    if rule == "sgdm":
        arrays["momentum_buffer"] = rng.normal(0, 1, shape)
    if rule == "adam":
        arrays["exp_avg"] = rng.normal(0, 1, shape)
        arrays["exp_avg_sq"] = rng.uniform(0.5, 2, shape)
        arrays["max_exp_avg_sq"] = rng.uniform(0.5, 2, shape)
    return {name: array.astype(DTYPES[dtype]) for name, array in arrays.items()}


def launched(module, rule, arrays, axis, options, in_place=False):
    """The results of one kernel by name, from a module like CuPy's, and how many lanes added up a mean."""
    memory = {name: guarded(array) for name, array in arrays.items()}
    state = {
        "centralize": (),
        "sgdm": ("momentum_buffer",),
        "adam": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    }[rule]
    names = ("grad",) if rule == "centralize" else ("w", *state)
    results = {name: memory[name] if in_place else guarded(np.full_like(arrays[name], np.nan), 77) for name in names}
    inputs = [memory[name][1] for name in (("grad",) if rule == "centralize" else ("w", "grad", *state))]
    outputs = [results[name][1] for name in names]
    if rule == "centralize":
        numbers, flags = (), ()
    elif rule == "sgdm":
        decays = kernels.decays(options["weight_decay"], options["decoupled"])
        numbers = (options["lr"], options["momentum"], 1 - options["dampening"], *decays)
        flags = (options["nesterov"], options["gc_on"] == "update")
    else:
        (beta1, beta2), t = options["betas"], options["step"] + 1
        decays = kernels.decays(options["weight_decay"], options["decoupled"])
        corrections = (1 / (1 - beta1**t), (1 - beta2**t) ** -0.5)
        numbers = (options["lr"], beta1, 1 - beta1, beta2, 1 - beta2, *corrections, options["eps"], *decays)
        flags = (options["amsgrad"], options["gc_on"] == "update")
    if rule == "adam" and not options["amsgrad"]:
        inputs[-1] = outputs[-1] = None
    launch = kernels.prepare(rule, axis, tuple(inputs), tuple(outputs), numbers, flags)
    if launch is not None:
        assert not launch.copies, "the kernel must be given these very arrays, or the guards guard nothing"
        module.get_function(launch.name)(launch.grid, launch.block, launch.arguments)
    for name, (whole, inside) in (*memory.items(), *results.items()):
        guards = np.concatenate([whole[:GUARD], whole[GUARD + inside.size :]]).astype(np.float32)
        assert (np.isnan(guards) | (guards == 77)).all(), f"{name} is written outside of its memory"
        assert np.isnan(guards).all() or not np.isnan(guards).any(), f"{name} is written outside of its memory"
    for name in memory:
        assert in_place or memory[name][1].tobytes() == arrays[name].tobytes(), f"{name} is changed"
    if rule == "adam" and not options["amsgrad"]:
        names = names[:-1]
    lanes = 0 if launch is None else launch.block[1 if kernels.fold(arrays["grad"].shape, axis).inner > 1 else 0]
    return {name: results[name][1] for name in names}, lanes


def check(module, rule, shape, axis, dtype, options=None):
    """A kernel's results are what the restatement allows: in place and not, and whoever's turn it is."""
    options = {**{"centralize": {}, "sgdm": SGDM, "adam": ADAM}[rule], **(options or {})}
    arrays = example(rule, shape, dtype)
    what = f"{rule}<{dtype}> {shape} {axis} {options}"
    first = None
    for order, in_place in ((0, False), (1, True), (2, False)):
        module.order = order
        got, lanes = launched(module, rule, arrays, axis, options, in_place)
        first = first or got
        for name, array in got.items():
            assert array.tobytes() == first[name].tobytes(), f"{what}: {name} depends on the order of the threads"
    # As (outer, fan-in, inner), where NumPy can do it by itself.
    _, outer, fan_in, inner = kernels.fold(shape, axis)
    seen = {name: array.reshape(outer, fan_in, inner) for name, array in arrays.items()}
    restated = getattr(restatement, rule)
    stored = [seen.get(name) for name in ("w", "grad")] + [
        seen[name] for name in ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq") if name in seen
    ]
    want = restated(
        *(array for array in stored if array is not None),
        **options,
        lanes=0 if axis is None else lanes,
        precision=COMPUTED_IN[dtype],
    )
    assert first.keys() == want.keys()
    for name, array in first.items():
        assert_within(array.reshape(outer, fan_in, inner), want[name], dtype, f"{what}: {name}")


@pytest.fixture(scope="module")
def module():
    return host.RawModule(code=kernels.SOURCE, name_expressions=kernels.NAMES, options=host.CHECKED)


@pytest.fixture(autouse=True)
def no_undefined_behaviour(capfd):
    yield
    assert "runtime error" not in capfd.readouterr().err


def test_gxx_has_nothing_to_say_about_the_kernels(module):
    assert module.log == ""


# ---- Shapes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", PARTS)
def test_rows_and_columns_of_every_length(module, rule, dtype):
    for fan_in in FAN_INS:
        for shape, axis in (((5, fan_in), 1), ((fan_in, 5), 0), ((2, fan_in, 3), 1)):
            check(module, rule, shape, (axis,), dtype)
    check(module, rule, (70, 3, 3, 3), (1, 2, 3), dtype)  # several rows a block, several blocks
    check(module, rule, (3, 3, 3, 70), (0, 1, 2), dtype)
    check(module, rule, (1,), (0,), dtype)


@pytest.mark.parametrize("shape", [(2, 100003), (100003, 2)], ids=["rows", "columns"])
def test_vectors_of_a_hundred_thousand(module, shape):
    for rule, dtype, options in (
        ("centralize", "float32", {}),
        ("sgdm", "bfloat16", {}),
        ("adam", "float32", dict(gc_on="update")),
    ):
        check(module, rule, shape, (int(shape[0] == 2),), dtype, options)


@pytest.mark.parametrize("rule", PARTS)
def test_without_gc_every_element_is_alone(module, rule):
    for shape in ((1,), (255,), (257,), (3, 1000)):
        check(module, rule, shape, None, "float32")


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
@pytest.mark.parametrize("rule", PARTS)
def test_nothing_is_launched_for_nothing(rule, shape):
    arrays = (np.ones(shape, np.float32),) * 3
    assert kernels.prepare(rule, (0,), arrays, arrays, (), ()) is None


# ---- Options


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gc_on", ["gradient", "update"])
def test_every_option_of_sgdm(module, gc_on, dtype):
    ways = ({}, dict(dampening=0.9), dict(nesterov=True), dict(momentum=0.0), dict(dampening=-0.5, momentum=1.5))
    decays = ({}, dict(weight_decay=0.3), dict(weight_decay=0.3, decoupled=True))
    for way, decay in itertools.product(ways, decays):
        for axis in ((1,), (0,), None):
            check(module, "sgdm", (6, 37), axis, dtype, {**way, **decay, "gc_on": gc_on})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gc_on", ["gradient", "update"])
def test_every_option_of_adam(module, gc_on, dtype):
    ways = ({}, dict(amsgrad=True), dict(betas=(0.0, 0.0)), dict(step=0), dict(step=10**6, lr=2.0))
    decays = ({}, dict(weight_decay=0.3), dict(weight_decay=0.3, decoupled=True))
    for way, decay in itertools.product(ways, decays):
        for axis in ((1,), (0,), None):
            check(module, "adam", (6, 37), axis, dtype, {**way, **decay, "gc_on": gc_on})


@pytest.mark.parametrize("rule", ["sgdm", "adam"])
def test_the_step_is_taken_of_rows_longer_than_the_chip_holds(module, rule):
    for dtype in ("float16", "float64"):
        options = dict(weight_decay=0.3, gc_on="update")
        check(module, rule, (2, 4999), (1,), dtype, options)
        check(module, rule, (4999, 2), (0,), dtype, options)


# ---- NaN and infinities


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("rule", PARTS)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_number_that_is_not_finite_spoils_its_own_vector(module, rule, axis, gc_on):
    options = {**{"centralize": {}, "sgdm": SGDM, "adam": ADAM}[rule]}
    if options:
        options["gc_on"] = gc_on
    for dtype, (bad, at) in itertools.product(DTYPES, ((np.nan, 0), (np.inf, 5), (-np.inf, 11))):
        arrays = example(rule, (12, 12), dtype)
        clean, _ = launched(module, rule, arrays, (axis,), options)
        index = (at, 3) if axis == 1 else (3, at)
        arrays["grad"][index] = bad
        spoilt, _ = launched(module, rule, arrays, (axis,), options)
        for name, array in spoilt.items():
            own = np.take(array, at, 1 - axis).astype(np.float32)
            others = np.delete(array, at, 1 - axis)
            assert others.tobytes() == np.delete(clean[name], at, 1 - axis).tobytes()
            if name in ("grad", "w") or gc_on == "gradient":
                assert not np.isfinite(own).any() or (rule == "adam" and name == "w"), (name, own)


def test_the_running_maximum_keeps_nan(module):
    for name in ("exp_avg_sq", "max_exp_avg_sq"):
        arrays = example("adam", (4, 8), "float32")
        arrays[name][2, 5] = np.nan
        got, _ = launched(module, "adam", arrays, (1,), {**ADAM, "amsgrad": True})
        assert np.isnan(got["max_exp_avg_sq"]).sum() == 1
        assert np.isnan(got["max_exp_avg_sq"][2, 5])


def test_infinite_weights_stay_what_they_are_without_decay(module):
    arrays = example("sgdm", (2, 4), "float32")
    arrays["w"][0, 0] = np.inf
    got, _ = launched(module, "sgdm", arrays, (1,), SGDM)
    assert np.isposinf(got["w"][0, 0])
    assert np.isfinite(got["w"]).sum() == 7


# ---- The half types


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_and_rounded_as_numpy_does(module, dtype):
    """All 65536 numbers are read and written, and w − lr g is rounded for many pairs of them, exact before it."""
    every = np.arange(65536, dtype=np.uint16).view(DTYPES[dtype])
    rng = np.random.default_rng(0)
    w, grad = (every[rng.integers(0, 65536, 200_000)] for _ in range(2))
    with np.errstate(all="ignore"):
        # Half of the pairs as near to each other in size as makes ties likely.
        grad[::2] = (w[::2].astype(np.float32) * rng.choice([2.0**-9, -(2.0**-12), 0.75], 100_000)).astype(grad.dtype)
        w, grad = np.concatenate([every, w]), np.concatenate([np.zeros_like(every), grad])
        want = (w.astype(np.float32) - grad.astype(np.float32)).astype(w.dtype)
    arrays = {"w": w, "grad": grad, "momentum_buffer": np.zeros_like(w)}
    got, _ = launched(module, "sgdm", arrays, None, {**SGDM, "lr": 1.0, "momentum": 0.0})
    nan = np.isnan(want.astype(np.float32))
    assert (got["w"][~nan] == want[~nan]).all()
    assert np.isnan(got["w"][nan].astype(np.float32)).all()


def test_bfloat16_nans_do_not_turn_into_numbers(module):
    """Rounding upwards would carry a NaN of all ones, a GPU's own, over to zero."""
    arrays = example("sgdm", (4,), "bfloat16")
    lr = np.array(0x7FFFFFFF, np.uint32).view(np.float32)[()]
    got, _ = launched(module, "sgdm", arrays, None, {**SGDM, "lr": lr})
    assert np.isnan(got["w"].astype(np.float32)).all()


# ---- Large arrays


def far_end(module, shape, axis):
    """Centralize in place the last vectors of an array of more than 2^31 elements, of which nothing else is touched."""
    size = int(np.prod(shape))
    before = 2**31  # where an index that has wrapped around would lead
    assert size > 2**31
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = np.frombuffer(mmap.mmap(-1, 2 * (before + size), flags=flags), np.float16)
    array = memory[before:].reshape(shape)
    launch = kernels.prepare("centralize", (axis,), (array,), (array,), (), ())
    last = array[-1]
    last[...] = np.arange(last.size).reshape(last.shape) % 7
    want = last.astype(np.float64) - last.mean(axis - 1, dtype=np.float64, keepdims=True)
    blocks = range(launch.grid[0] - 70, launch.grid[0])
    module.get_function(launch.name)(launch.grid, launch.block, launch.arguments, blocks=blocks)
    assert np.abs(last - want).max() <= 2.0**-9


@pytest.mark.parametrize(("shape", "axis"), [((524_300, 4097), 1), ((33_600, 32, 2000), 1)], ids=["rows", "columns"])
def test_more_than_two_to_the_31_elements(module, shape, axis):
    far_end(module, shape, axis)


# ---- Wrong kernels


def every_check(module):
    """A little of each test above, for kernels that are wrong."""
    for shape, axis in (((5, 33), (1,)), ((33, 5), (0,)), ((3, 33, 2), (1,)), ((2, 4999), (1,)), ((70, 9), (1,))):
        check(module, "centralize", shape, axis, "float32")
    check(module, "centralize", (2, 3000), (1,), "float16")
    check(module, "centralize", (600,), None, "bfloat16")
    for gc_on in ("gradient", "update"):
        decays = (dict(weight_decay=0.3), dict(weight_decay=0.3, decoupled=True))
        for decay in decays:
            for way in (dict(nesterov=True), dict(dampening=0.5)):
                check(module, "sgdm", (6, 37), (1,), "float32", {**decay, **way, "gc_on": gc_on})
            check(module, "adam", (6, 37), (1,), "float32", {**decay, "amsgrad": True, "gc_on": gc_on})
    check(module, "adam", (6, 37), (1,), "float32")
    check(module, "adam", (6, 37), (1,), "bfloat16")
    check(module, "adam", (2, 4999), (1,), "float32", dict(gc_on="update"))
    test_the_running_maximum_keeps_nan(module)
    test_infinite_weights_stay_what_they_are_without_decay(module)
    test_half_precision_is_read_and_rounded_as_numpy_does(module, "bfloat16")
    test_bfloat16_nans_do_not_turn_into_numbers(module)


FEW = (
    *(f"{rule}<{c}>" for rule in ("centralize", "sgdm", "adam") for c in ("float", "bfloat16")),
    "centralize<float16>",
)
BARRIER = "      __syncthreads();\n      if"
WRONG = {
    "no barrier in the sum": (BARRIER, "      if"),
    "no barrier before the mean is read": ("    __syncthreads();\n    mean", "    mean"),
    "a barrier that some threads miss": (BARRIER, "      if (lane < half) __syncthreads();\n      if"),
    "lanes of columns taken for neighbours": ("rows ? 1 : blockDim.x;", "1;"),
    "columns read as rows": ("vector / inner * inner * fan_in + vector % inner", "vector * fan_in"),
    "wrong stride along the fan-in": ("rule.load(first + j * inner);\n      sum", "rule.load(first + j);\n      sum"),
    "mean over one element more": ("/ fan_in", "/ (fan_in + 1)"),
    "mean over the whole block": ("/ fan_in", "/ (fan_in * places)"),
    "half of the lanes forgotten": ("int half = lanes / 2", "int half = lanes / 4"),
    "the end of a long row not added": ("j < end; j += lanes) sum +=", "j < 0; j += lanes) sum +="),
    "the end of a long row not written": ("j < end; j += lanes) {", "j < 0; j += lanes) {"),
    "elements of a long row taken twice": (
        "(long long)kept * lanes; j < end; j += lanes) sum", "lanes; j < end; j += lanes) sum"),
    "vectors past the last": ("vector < vectors ? fan_in : 0", "fan_in"),
    "no GC": ("if (centered)", "if (false)"),
    "GC where there is to be none": ("if (centered)", "if (true)"),
    "mean rounded to half precision": (
        "round_to(e.x - mean, out + at)", "T r; round_to(mean, &r); round_to(e.x - widen(r), out + at)"),
    "L2 after GC": (
        "    if (l2 != 0) e.x += l2 * e.w;\n    if (gc_on_update) advance(e);\n    return e;\n  }\n\n"
        "  __device__ void store(long long at, Element e, A mean) const {\n    e.x -= mean;\n",
        "    if (gc_on_update) advance(e);\n    return e;\n  }\n\n"
        "  __device__ void store(long long at, Element e, A mean) const {\n    e.x -= mean;\n    e.x += l2 * e.w;\n"),
    "no L2": ("if (l2 != 0) e.x += l2 * e.w;", ""),
    "no decoupled decay": ("if (decay != 0) e.x += decay * e.w;", ""),
    "decay of an infinite weight by 0": ("if (l2 != 0)", "if (true)"),
    "no Nesterov": ("nesterov ? e.x + momentum * e.m : e.m", "e.m"),
    "Nesterov with the old momentum": (
        "e.m = momentum * e.m + one_minus_dampening * e.x;\n    e.x = nesterov ? e.x + momentum * e.m",
        "A o = e.m; e.m = momentum * e.m + one_minus_dampening * e.x;\n    e.x = nesterov ? e.x + momentum * o"),
    "no dampening": ("one_minus_dampening * e.x", "e.x"),
    "GC always on the gradient": ("if (gc_on_update) advance(e);", ""),
    "the step taken twice": ("if (!gc_on_update) advance(e);", "advance(e);"),
    "AMSGrad ignored": ("amsgrad ? e.v_max : e.v", "e.v"),
    "the running maximum drops NaN": (" || e.v != e.v)", ")"),
    "the running maximum is not stored": ("if (amsgrad) round_to(e.v_max, new_v_max + at);", ""),
    "eps inside the root": (
        "sqrt(amsgrad ? e.v_max : e.v) * correction2 + eps", "sqrt((amsgrad ? e.v_max : e.v) + eps) * correction2"),
    "second moment from the first": ("one_minus_beta2 * e.x * e.x", "one_minus_beta2 * e.m * e.m"),
    "first correction missing": ("e.m * correction1", "e.m"),
    "second correction missing": ("* correction2 + eps", "+ eps"),
    "betas exchanged": ("e.m = beta1 * e.m", "e.m = beta2 * e.m"),
    "the step added": ("e.w - lr * e.x", "e.w + lr * e.x"),
    "momentum stored as read": ("round_to(e.m, new_m + at)", "new_m[at] = m[at]"),
    "bfloat16 cut off": ("(bits + 0x7fff + ((bits >> 16) & 1)) >> 16", "bits >> 16"),
    "bfloat16 rounded half up": ("0x7fff + ((bits >> 16) & 1)", "0x8000"),
    "bfloat16 without NaN": ("x != x ? (bits >> 16) | 0x40 : ", ""),
}  # fmt: skip


@pytest.mark.parametrize("why", WRONG)
def test_wrong_kernels_are_found_out(why):
    line, instead = WRONG[why]
    assert line in kernels.SOURCE, "this mutation no longer changes anything"
    wrong = host.RawModule(code=kernels.SOURCE.replace(line, instead), name_expressions=FEW, options="-Og")
    with pytest.raises(AssertionError):
        every_check(wrong)


def test_the_same_checks_pass_on_the_right_kernels(module):
    every_check(module)


def test_indices_of_32_bits_are_found_out():
    code = kernels.SOURCE.replace("const long long first =", "const int first =")
    wrong = host.RawModule(code=code, name_expressions=("centralize<float16>",))
    with pytest.raises(AssertionError):
        far_end(wrong, (524_300, 4097), 1)


def test_shared_memory_has_room_for_the_largest_block(module):
    assert f"partial[{kernels.MAX_THREADS}]" in kernels.SOURCE
    assert f"__launch_bounds__({kernels.MAX_THREADS})" in kernels.SOURCE
    shapes = itertools.product((1, 3, 40, 5000), (1, 5, 33, 5000, 10**6), (1, 2, 33, 5000))
    assert max(int(np.prod(kernels.geometry(*shape)[1])) for shape in shapes) == kernels.MAX_THREADS
