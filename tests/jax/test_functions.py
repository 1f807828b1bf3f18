"""centralize, sgdm_update and adam_update: against the contract's formulas written out in NumPy's long double."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import gc_core
import gc_jax as gct
from tests.jax.releases import enable_x64

LONG = np.longdouble
# Unit roundoff, and half of the smallest subnormal.
ROUNDOFF = {"bfloat16": (2.0**-8, 2.0**-134), "float16": (2.0**-11, 2.0**-25), "float32": (2.0**-24, 2.0**-126)}
ROUNDOFF["float64"] = (2.0**-53, 2.0**-1022)

CASES = [  # shape, axis; out first and out last, and neither
    ((), None),
    ((5,), None),
    ((5,), 0),
    ((4, 3), 1),
    ((4, 3), 0),
    ((3, 2, 4), (0, 1)),
    ((3, 2, 4), (-2, 2)),
    ((2, 3, 4, 2), (1, 2, 3)),
    ((4, 2, 3, 2), (0, 1, 2)),
    ((4, 2, 3, 2), -3),
    ((2, 2, 3, 2, 3), (1, 2, 3, 4)),
    ((3, 2, 2, 2, 3), (0, 1, 2, 3)),
    ((0, 3), 0),
    ((3, 0), 1),
]


def fan_in(shape, axis):
    return 1 if axis is None else math.prod(shape[a] for a in (axis if isinstance(axis, tuple) else (axis,)))


def draw(seed, shape, dtype="float32"):
    """Normal numbers around a mean of their own, as JAX and as exact long double."""
    values = (np.random.default_rng(seed).normal(size=shape) + seed % 3).astype(getattr(ml_dtypes, dtype, dtype))
    return gct.from_numpy(np.asarray(values)), np.asarray(values).astype(np.float64).astype(LONG)


def exact(array):
    return gct.to_numpy(array).astype(np.float64).astype(LONG)


def phi(g, axis):
    return g if axis is None or not g.size else g - g.sum(axis, keepdims=True) / LONG(fan_in(g.shape, axis))


def close(got, wanted, bound, dtype):
    """|got − wanted| is at most the error of the computation and of one rounding to the dtype."""
    u, tiny = ROUNDOFF[dtype]
    assert got.dtype == dtype
    assert got.shape == wanted.shape
    bound = bound + tiny + (u * (abs(wanted) + bound) if dtype in ("bfloat16", "float16") else 0)
    assert (abs(exact(got) - wanted) <= bound).all(), (abs(exact(got) - wanted) - bound).max()


def roundoff_of_work(dtype):
    return ROUNDOFF["float64" if dtype == "float64" else "float32"][0]


def peak(*arrays):
    return max((float(abs(a).max()) for a in arrays if a.size), default=0.0)


# ---- The rules, written out


def sgdm(w, g, m, axis, lr, momentum=0.9, dampening=0.0, nesterov=False, weight_decay=0.0, decoupled=False, gc_on=None):
    if not decoupled:
        g = g + weight_decay * w
    if gc_on == "gradient":
        g = phi(g, axis)
    m = momentum * m + (1 - dampening) * g
    d = g + momentum * m if nesterov else m
    if decoupled:
        d = d + weight_decay * w
    return w - lr * (phi(d, axis) if gc_on == "update" else d), m


def check_sgdm(update, shape, axis, dtype, **options):
    (w, w_), (g, g_), (m, m_) = (draw(seed, shape, dtype) for seed in (1, 2, 3))
    got, state = update(w, g, gct.SGDMState(m), axis=axis, **options)
    numbers = {name: LONG(value) if isinstance(value, float) else value for name, value in options.items()}
    w_, m_ = sgdm(w_, g_, m_, axis, **numbers)
    # Each sum of M numbers of size G is off by at most (M + 1) u G, each other operation by u of its result; nothing
    # below is larger than 4 times the largest input, and no rule has more than 16 operations.
    bound = roundoff_of_work(dtype) * (fan_in(shape, axis) + 16) * 4 * peak(exact(w), g_, exact(m))
    close(state.momentum_buffer, m_, bound, dtype)
    close(got, w_, bound, dtype)


def adam(w, g, m, v, v_max, t, axis, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False, gc_on=None):
    b1, b2 = map(LONG, betas)
    if not decoupled:
        g = g + weight_decay * w
    if gc_on == "gradient":
        g = phi(g, axis)
    t = t + 1
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g * g
    if v_max is not None:
        v_max = np.maximum(v_max, v)
    root = np.sqrt(v if v_max is None else v_max) / np.sqrt(1 - b2**t)
    d = (m / (1 - b1**t)) / (root + eps)
    size = abs(d)
    if decoupled:
        d = d + weight_decay * w
    return w - lr * (phi(d, axis) if gc_on == "update" else d), m, v, v_max, g, size


def check_adam(update, shape, axis, dtype, t=7, **options):
    (w, w_), (g, g_), (m, m_), (v, v_) = (draw(seed, shape, dtype) for seed in (1, 2, 3, 4))
    # The second moment stays away from 0: there Adam is ill-conditioned, and no port can be held to digits.
    v, v_ = abs(v) + 1, None
    v_ = exact(v)
    v_max = v * 1.001 if options.get("amsgrad") else None
    state = gct.AdamState(jnp.int32(t), m, v, v_max)
    got, new = update(w, g, state, axis=axis, **options)

    numbers = {name: LONG(value) if isinstance(value, float) else value for name, value in options.items()}
    amsgrad = numbers.pop("amsgrad", False)
    v_max_ = exact(v_max) if amsgrad else None
    want_w, want_m, want_v, want_max, ghat, size = adam(w_, g_, m_, v_, v_max_, t, axis, **numbers)
    u = roundoff_of_work(dtype)
    size_g = peak(g_, w_)
    error_g = u * (fan_in(shape, axis) + 4) * 2 * size_g
    error_m = error_g + 4 * u * (peak(m_) + 2 * size_g)
    error_v = 2 * peak(ghat) * error_g + 4 * u * (peak(v_) + peak(ghat) ** 2)
    # v >= 0.99, the bias corrections are off by 4 u, and 12 operations follow.
    error_d = error_m / LONG(1 - 0.9 ** (t + 1)) * 1.1 + peak(size) * (error_v + 16 * u)
    error_d = error_d * 2 + (fan_in(shape, axis) + 4) * u * 4 * (peak(size) + size_g)
    close(new.exp_avg, want_m, error_m, dtype)
    close(new.exp_avg_sq, want_v, error_v, dtype)
    if amsgrad:
        close(new.max_exp_avg_sq, want_max, error_v, dtype)
    else:
        assert new.max_exp_avg_sq is None
    close(got, want_w, error_d + 2 * u * peak(w_), dtype)
    assert (new.step.dtype, new.step.shape, int(new.step)) == (jnp.int32, (), t + 1)


SGDM = [
    {"lr": 0.1, "gc_on": "gradient"},
    {"lr": 0.1, "gc_on": "update"},
    {"lr": 0.1, "momentum": 0.0, "gc_on": "gradient"},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.9, "gc_on": "gradient"},
    {"lr": 0.1, "dampening": -0.5, "gc_on": "update"},
    {"lr": 0.1, "nesterov": True, "weight_decay": 0.2, "gc_on": "gradient"},
    {"lr": 0.1, "nesterov": True, "weight_decay": 0.2, "decoupled": True, "gc_on": "gradient"},
    {"lr": 0.1, "nesterov": True, "weight_decay": 0.2, "decoupled": True, "gc_on": "update"},
    {"lr": 0.1, "weight_decay": 0.2, "gc_on": "update"},
    {"lr": 0.0, "weight_decay": 0.2, "decoupled": True, "gc_on": "update"},
]
ADAM = [
    {"lr": 0.1, "gc_on": "gradient"},
    {"lr": 0.1, "gc_on": "update"},
    {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.1, "gc_on": "gradient"},
    {"lr": 0.1, "betas": (0.9, 0.0), "gc_on": "update"},
    {"lr": 0.1, "betas": (0.0, 0.999), "eps": 0.0, "gc_on": "gradient"},
    {"lr": 0.1, "weight_decay": 0.2, "amsgrad": True, "gc_on": "gradient"},
    {"lr": 0.1, "weight_decay": 0.2, "decoupled": True, "gc_on": "gradient"},
    {"lr": 0.1, "weight_decay": 0.2, "decoupled": True, "amsgrad": True, "gc_on": "update"},
    {"lr": 0.1, "weight_decay": 0.2, "gc_on": "update"},
]
STATIC = ("axis", "nesterov", "decoupled", "amsgrad", "gc_on")


def traced(update):
    """The update compiled with every number traced."""

    def run(w, g, state, *, axis, **options):
        fixed = {"axis": axis, **{name: options.pop(name) for name in STATIC if name in options}}
        return jax.jit(lambda w, g, state, numbers: update(w, g, state, **numbers, **fixed))(w, g, state, options)

    return run


@pytest.mark.parametrize(("shape", "axis"), CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_centralize(shape, axis, dtype):
    with enable_x64(dtype == "float64"):
        g, g_ = draw(2, shape, dtype)
        bound = ROUNDOFF[dtype][0] * (fan_in(shape, axis) + 4) * 2 * peak(g_)
        close(gct.centralize(g, axis), phi(g_, axis), bound, dtype)
        assert (exact(g) == g_).all()


@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_rules_for_every_shape(shape, axis):
    check_sgdm(traced(gct.sgdm_update), shape, axis, "float32", **SGDM[5])
    check_adam(traced(gct.adam_update), shape, axis, "float32", **ADAM[5])


@pytest.mark.parametrize(
    ("wrap", "dtype"),
    [
        *((lambda update: update, dtype) for dtype in ("bfloat16", "float16", "float32", "float64")),
        *((traced, dtype) for dtype in ("bfloat16", "float32")),
    ],
    ids=["bfloat16", "float16", "float32", "float64", "traced-bfloat16", "traced-float32"],
)
def test_rules_for_every_option(wrap, dtype):
    with enable_x64(dtype == "float64"):
        for options in SGDM:
            check_sgdm(wrap(gct.sgdm_update), (3, 2, 4), (0, 1), dtype, **options)
        for options in ADAM:
            check_adam(wrap(gct.adam_update), (3, 2, 4), (0, 1), dtype, **options)


@pytest.mark.parametrize("t", [0, 1, 999, 10**6])
def test_adam_at_any_step(t):
    for wrap in (traced, lambda update: update):
        check_adam(wrap(gct.adam_update), (3, 4), 1, "float32", t=t, **ADAM[1])


def swapped(places, **options):
    return {**options, "gc_on": places[options["gc_on"]]}


OTHER = {"gradient": "update", "update": "gradient"}
WRONG = {
    "no GC": lambda f, *a, axis, **o: f(*a, axis=None, **o),
    "the output axis": lambda f, *a, axis, **o: f(*a, axis=2, **o),
    "one axis of two": lambda f, *a, axis, **o: f(*a, axis=1, **o),
    "the whole tensor": lambda f, *a, axis, **o: f(*a, axis=(0, 1, 2), **o),
    "GC at the other place": lambda f, *a, **o: f(*a, **swapped(OTHER, **o)),
    "the other decay": lambda f, *a, decoupled=False, **o: f(*a, decoupled=not decoupled, **o),
    "no decay": lambda f, *a, weight_decay=0.0, **o: f(*a, **o),
    "lr twice": lambda f, *a, lr, **o: f(*a, lr=lr * lr, **o),
}
WRONG_SGDM = {
    "no momentum": lambda f, *a, momentum=0.9, nesterov=False, **o: f(*a, momentum=0.0, **o),
    "no Nesterov": lambda f, *a, nesterov=False, **o: f(*a, **o),
    "no dampening": lambda f, *a, dampening=0.0, **o: f(*a, **o),
}
WRONG_ADAM = {
    "no amsgrad": lambda f, *a, amsgrad=False, **o: f(*a, **o),
    "the other betas": lambda f, *a, betas=(0.9, 0.999), **o: f(*a, betas=betas[::-1], **o),
    "no eps": lambda f, *a, eps=0.0, **o: f(*a, eps=0.0, **o),
    "a step behind": lambda f, w, g, s, **o: f(w, g, s._replace(step=s.step - 1), **o),
}


@pytest.mark.parametrize("wrong", WRONG | WRONG_SGDM | WRONG_ADAM)
def test_a_wrong_rule_is_seen(wrong):
    def rejected(check, update, options):
        try:
            check(partial((WRONG | WRONG_SGDM | WRONG_ADAM)[wrong], update), (3, 2, 4), (0, 1), "float32", **options)
        except (AssertionError, ValueError):
            return True
        return False

    if wrong not in WRONG_ADAM:
        assert any(rejected(check_sgdm, gct.sgdm_update, options) for options in SGDM)
    if wrong not in WRONG_SGDM:
        assert any(rejected(check_adam, gct.adam_update, options) for options in ADAM)


# ---- Numbers


@pytest.mark.parametrize("beta2", [0.999, 0.9999])
def test_bias_correction_does_not_cancel(beta2):
    # The first step from zero with eps 0 has size lr, whatever the gradient: m and v are corrected exactly.
    w, g = jnp.zeros(1), jnp.ones(1)
    for wrap in (traced, lambda update: update):
        got, _ = wrap(gct.adam_update)(w, g, gct.adam_init(w), lr=1.0, axis=None, betas=(0.9, beta2), eps=0.0)
        assert abs(float(got[0]) + 1) <= 16 * 2.0**-24
    # What 1 - beta^t costs in float32: it is this that the bound must be able to see.
    direct = 1 - np.float32(beta2) ** np.float32(1)
    assert abs(math.sqrt(float(direct) / (1 - beta2)) - 1) > 16 * 2.0**-24


def test_a_step_that_is_an_int_is_corrected_in_double():
    w, g = jnp.zeros(1), jnp.ones(1)
    state = gct.AdamState(0, jnp.zeros(1), jnp.zeros(1))
    got, new = gct.adam_update(w, g, state, lr=1.0, axis=None, eps=0.0)
    assert abs(float(got[0]) + 1) <= 4 * 2.0**-24
    assert new.step.dtype == jnp.int32


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_elements_stay_in_their_weight_vector(bad):
    grad = np.ones((3, 4), np.float32)
    grad[1, 2] = bad
    got = gct.to_numpy(gct.centralize(jnp.asarray(grad), 1))
    assert not np.isfinite(got[1]).any()
    assert (got[[0, 2]] == 0).all()


def test_half_precision_keeps_a_small_spread_on_a_large_mean():
    # Spread 1 around 256: bfloat16 has a spacing of 2 there, so a mean rounded to it is off by up to the spread.
    grad = np.array([[256, 256, 258, 256, 256]], ml_dtypes.bfloat16)
    got = exact(gct.centralize(gct.from_numpy(grad), 1))
    close(gct.centralize(gct.from_numpy(grad), 1), phi(grad.astype(LONG), 1), 8 * 2.0**-24 * 258, "bfloat16")
    rounded = grad - grad.astype(np.float32).mean(1, keepdims=True).astype(ml_dtypes.bfloat16)
    assert abs(rounded.astype(LONG) - got).max() > 0.3


def test_complex_numbers_are_centralized_as_complex_numbers():
    grad = np.array([[1 + 2j, 3 - 1j, 2 + 2j]], np.complex64)
    got = gct.to_numpy(gct.centralize(jnp.asarray(grad), 1))
    assert np.allclose(got, grad - np.complex64(2 + 1j), atol=4 * 2.0**-24 * 4)
    assert got.dtype == np.complex64
    w, state = gct.sgdm_update(
        jnp.asarray(grad), jnp.asarray(grad), gct.sgdm_init(jnp.asarray(grad)), lr=np.float64(1.0), axis=1
    )
    assert w.dtype == state.momentum_buffer.dtype == jnp.complex64
    assert np.allclose(gct.to_numpy(w), 2 + 1j, atol=8 * 2.0**-24 * 4)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_no_kind_of_number_widens_a_result(x64, dtype):
    with enable_x64(x64):
        w, g = jnp.ones((2, 3), dtype), jnp.ones((2, 3), dtype)
        for number in (np.float64, np.float32, jnp.asarray, jnp.float32, np.array, lambda value: value):
            new, state = gct.sgdm_update(
                w, g, gct.sgdm_init(w), lr=number(0.1), axis=1, momentum=number(0.5), weight_decay=number(0.1)
            )
            assert (new.dtype, state.momentum_buffer.dtype) == (dtype, dtype)
            betas = (number(0.5), number(0.75))
            new, state = gct.adam_update(w, g, gct.adam_init(w), lr=number(0.1), axis=1, betas=betas, eps=number(1e-8))
            assert {new.dtype, state.exp_avg.dtype, state.exp_avg_sq.dtype} == {jnp.dtype(dtype)}
            assert state.step.dtype == jnp.int32


# ---- Under JAX's transformations


def data(dtype="float32"):
    rng = np.random.default_rng(0)
    return (jnp.asarray(rng.normal(size=(4, 3)), dtype) for _ in range(2))


def test_jit_vmap_and_scan_give_what_a_loop_gives():
    w, g = data()
    steps = [g * k for k in range(1, 6)]
    step = partial(gct.adam_update, lr=0.1, axis=0, weight_decay=0.1)

    def loop(w):
        state = gct.adam_init(w)
        for grad in steps:
            w, state = step(w, grad, state)
        return w

    def scan(w):
        def body(carry, grad):
            return step(carry[0], grad, carry[1]), None

        return jax.lax.scan(body, (w, gct.adam_init(w)), jnp.stack(steps))[0][0]

    wanted = loop(w)
    for run in (jax.jit(loop), scan, jax.jit(scan), lambda w: jax.vmap(scan)(jnp.stack([w, w + 1]))[0]):
        assert np.allclose(run(w), wanted, rtol=0, atol=5 * 64 * 2.0**-24)


def test_grad_of_centralize_is_the_projection_again():
    w, g = data()
    got = jax.grad(lambda g: (gct.centralize(g, 0) * w).sum())(g)
    assert np.allclose(got, gct.centralize(w, 0), atol=8 * 2.0**-24)


def test_grad_goes_through_an_update_and_to_its_numbers():
    w, g = data()

    def loss(lr, beta1):
        new, _ = gct.adam_update(w, g, gct.adam_init(w), lr=lr, axis=0, betas=(beta1, 0.999), eps=1e-3)
        return (new**2).sum()

    by_lr, by_beta = jax.grad(loss, argnums=(0, 1))(0.1, 0.9)
    h = 1e-2
    slope = (loss(0.1 + h, 0.9) - loss(0.1 - h, 0.9)) / (2 * h)  # exact: the loss is a parabola in lr
    assert abs(by_lr - slope) <= 1e-3 * abs(slope)
    assert np.isfinite(by_beta)


def test_a_donated_state_is_reused_and_every_buffer_is_its_own():
    w, g = data()
    for init, update in (
        (gct.sgdm_init, gct.sgdm_update),
        (gct.adam_init, gct.adam_update),
        (partial(gct.adam_init, amsgrad=True), partial(gct.adam_update, amsgrad=True)),
    ):
        step = jax.jit(partial(update, lr=0.1, axis=0), donate_argnums=(0, 2))
        ours, state = w + 0, init(w)
        wanted, _ = update(w, g, init(w), lr=0.1, axis=0)
        new, _ = step(ours, g, state)
        assert ours.is_deleted()
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
        assert np.allclose(new, wanted, atol=16 * 2.0**-24)


def test_without_axes_the_result_is_still_a_new_array():
    grad = jnp.ones((2, 2))
    result = gct.centralize(grad, None)
    grad.delete()
    assert (np.asarray(result) == 1).all()


def test_a_maximum_that_is_not_used_is_still_a_new_array():
    w, g = data()
    state = gct.adam_init(w, amsgrad=True)
    _, new = gct.adam_update(w, g, state, axis=0)
    state.max_exp_avg_sq.delete()
    assert (np.asarray(new.max_exp_avg_sq) == 0).all()


def test_nothing_is_compiled_again_from_step_to_step():
    w, g = data()
    traces = []

    @jax.jit
    def step(w, g, state, lr, betas):
        traces.append(1)
        return gct.adam_update(w, g, state, lr=lr, axis=0, betas=betas)

    state = gct.adam_init(w)
    for k in range(4):
        w, state = step(w, g, state, 0.1 / (k + 1), (0.9, 0.99 + k / 1000))
    assert len(traces) == 1


# ---- Arrays in and out


def test_dtypes_follow_x64():
    assert gct.dtypes == ("float16", "bfloat16", "float32", "complex64")
    with enable_x64(True):
        assert gct.dtypes == ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


def test_numpy_arrays_keep_their_dtype_or_are_refused():
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.complex64, np.int32):
        array = np.arange(6).reshape(2, 3).astype(dtype)
        back = gct.to_numpy(gct.from_numpy(array))
        assert back.dtype == array.dtype
        assert (back == array).all()
    with pytest.raises(TypeError, match=r"float64.*jax_enable_x64"):
        gct.from_numpy(np.ones(2))
    with enable_x64(True):
        assert gct.from_numpy(np.ones(2)).dtype == jnp.float64
        assert gct.from_numpy(np.ones(2, ">f8")).dtype == jnp.float64


def test_arrays_share_no_memory_with_numpy():
    array = np.ones(1024, np.float32)
    ours = gct.from_numpy(array)
    array[:] = 2
    assert (gct.to_numpy(ours) == 1).all()
    gct.to_numpy(ours)[:] = 3
    assert (gct.to_numpy(ours) == 1).all()


def test_from_and_to_numpy_refuse_what_they_are_not_for():
    with pytest.raises(TypeError, match="NumPy array"):
        gct.from_numpy([1.0])
    for dtype in (object, "U1", np.longdouble):
        array = np.zeros(2, dtype)
        with pytest.raises(TypeError, match=f"array is {re.escape(str(array.dtype))}, which JAX does not have"):
            gct.from_numpy(array)
    with pytest.raises(TypeError, match="JAX array"):
        gct.to_numpy(np.ones(2))
    with pytest.raises(TypeError, match="JAX array with values"):
        jax.jit(gct.to_numpy)(jnp.ones(2))


def test_the_shared_names_are_those_of_the_reference():
    for name in ("fan_in_axes", "SGDMState", "AdamState", "Plan", "Row", "View"):
        assert getattr(gct, name) is getattr(gc_core, name)


# ---- Errors


W = np.ones((2, 3), np.float32)


def call(function, **changes):
    w = jnp.asarray(W)
    arguments = {"w": w, "grad": w, "lr": 0.1, "axis": 1}
    if function is gct.centralize:
        arguments = {"grad": w, "axis": 1}
    elif function is gct.sgdm_update:
        arguments["state"] = gct.sgdm_init(w)
    else:
        arguments["state"] = gct.adam_init(w)
    return function(**{**arguments, **changes})


ANYWHERE = [
    ({"grad": W}, TypeError, "grad must be a JAX array; got numpy.ndarray"),
    ({"grad": [1.0]}, TypeError, "grad must be a JAX array; got builtins.list"),
    ({"grad": "int32"}, TypeError, "floating-point array; got an array of int32"),
    ({"grad": "bool"}, TypeError, "floating-point array; got an array of bool"),
    ({"grad": "float8_e4m3fn"}, TypeError, "floating-point array; got an array of float8_e4m3fn"),
    ({"axis": 2}, ValueError, "axis 2 is out of range"),
    ({"axis": -3}, ValueError, "axis -3 is out of range"),
    ({"axis": (0, -2)}, ValueError, "each axis once"),
    ({"axis": ()}, ValueError, "at least one axis"),
    ({"axis": [1]}, TypeError, "axis must be an int, a tuple of ints or None"),
    ({"axis": 1.0}, TypeError, "axis must be an int, a tuple of ints or None"),
    ({"axis": True}, TypeError, "axis must be an int, a tuple of ints or None"),
]
UPDATES = [
    ({"w": W}, TypeError, "w must be a JAX array"),
    ({"grad": "(3, 2)"}, ValueError, "grad has shape"),
    ({"grad": "float16"}, ValueError, "grad has dtype float16"),
    ({"state": None}, TypeError, "state must be the"),
    ({"lr": -1.0}, ValueError, "lr must be a finite number >= 0"),
    ({"lr": math.nan}, ValueError, "lr must be"),
    ({"lr": math.inf}, ValueError, "lr must be"),
    ({"lr": "0.1"}, TypeError, "lr must be"),
    ({"lr": True}, TypeError, "lr must be"),
    ({"lr": "array of 2"}, TypeError, "lr must be"),
    ({"lr": "array of bool"}, TypeError, "lr must be .* bool"),
    ({"weight_decay": -0.1}, ValueError, "weight_decay must be"),
    ({"decoupled": 1}, TypeError, "decoupled must be True or False"),
    ({"gc_on": "both"}, ValueError, "gc_on must be one of"),
    ({"gc_on": None}, TypeError, "gc_on must be one of"),
    ({"momentun": 0.9}, TypeError, "momentun"),
]
ONLY_SGDM = [
    ({"momentum": -0.1}, ValueError, "momentum must be"),
    ({"dampening": math.inf}, ValueError, "dampening must be"),
    ({"nesterov": True, "momentum": 0.0}, ValueError, "nesterov needs a momentum"),
    ({"nesterov": True, "dampening": 0.5}, ValueError, "nesterov needs dampening 0"),
    ({"nesterov": None}, TypeError, "nesterov must be True or False"),
]
ONLY_ADAM = [
    ({"betas": 0.9}, TypeError, "betas must be two numbers"),
    ({"betas": (0.9,)}, ValueError, "betas must be two numbers"),
    ({"betas": (0.9, 1.0)}, ValueError, "betas.1. must be"),
    ({"betas": (-0.1, 0.9)}, ValueError, "betas.0. must be"),
    ({"eps": -1e-8}, ValueError, "eps must be"),
    ({"amsgrad": True}, ValueError, "amsgrad needs state.max_exp_avg_sq"),
    ({"w": "complex64"}, TypeError, "w is complex"),
    ({"state": "float step"}, TypeError, "state.step must be"),
    ({"state": "negative step"}, ValueError, "state.step must be"),
]
BAD = [
    *((f, *case) for f in (gct.centralize, gct.sgdm_update, gct.adam_update) for case in ANYWHERE),
    *((f, *case) for f in (gct.sgdm_update, gct.adam_update) for case in UPDATES),
    *((gct.sgdm_update, *case) for case in ONLY_SGDM),
    *((gct.adam_update, *case) for case in ONLY_ADAM),
]


def made(value):
    """Arrays cannot be made before a test runs: the table has words for them."""
    w = jnp.asarray(W)
    return {
        "(3, 2)": lambda: w.T,
        "array of 2": lambda: jnp.ones(2),
        "array of bool": lambda: jnp.array(True),
        "float step": lambda: gct.AdamState(jnp.float32(0), w, w),
        "negative step": lambda: gct.AdamState(-1, w, w),
    }.get(value, lambda: w.astype(value) if hasattr(jnp, value) or value == "bool" else value)()


@pytest.mark.parametrize(
    ("function", "changes", "error", "text"),
    BAD,
    ids=[f"{f.__name__}-{list(c)}-{k}" for k, (f, c, *_) in enumerate(BAD)],
)
def test_a_bad_call_says_what_is_wrong(function, changes, error, text):
    changes = {name: made(value) if isinstance(value, str) else value for name, value in changes.items()}
    call(function)
    with pytest.raises(error, match=text):
        call(function, **changes)


@pytest.mark.parametrize("name", STATIC)
def test_a_traced_switch_says_that_it_is_static(name):
    functions = {
        "nesterov": [gct.sgdm_update],
        "amsgrad": [gct.adam_update],
        "axis": [gct.centralize, gct.sgdm_update, gct.adam_update],
    }
    for function in functions.get(name, [gct.sgdm_update, gct.adam_update]):
        with pytest.raises(TypeError, match=f"{name} is traced.*static"):
            jax.jit(lambda value, function=function: call(function, **{name: value}))(1)
    if name == "axis":
        with pytest.raises(TypeError, match="axis is traced"):
            jax.jit(lambda value: call(gct.centralize, axis=(0, value)))(1)


def test_sparse_gradients_are_refused_by_name():
    from jax.experimental import sparse

    with pytest.raises(TypeError, match=r"BCOO"):
        gct.centralize(sparse.BCOO.fromdense(jnp.ones((2, 3))), 1)
    with pytest.raises(TypeError, match=r"BCOO"):
        gct.centralize_gradients("out_last").update({"kernel": sparse.BCOO.fromdense(jnp.ones((2, 3)))}, None)


def test_axis_has_no_default():
    with pytest.raises(TypeError, match="axis"):
        gct.centralize(jnp.ones((2, 3)))
    with pytest.raises(TypeError, match="axis"):
        gct.sgdm_update(jnp.ones(2), jnp.ones(2), gct.sgdm_init(jnp.ones(2)), lr=0.1)
