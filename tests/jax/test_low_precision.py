"""Weights in float16 and bfloat16: the updates that the transformations give lead to what gc_core would store."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import gc_core
import gc_jax as gct
from gc_core import low_precision as reference
from gc_jax import low_precision

WAYS = ("kahan", "stochastic")
DTYPES = (jnp.bfloat16, jnp.float16)


def test_roundings_are_those_of_the_reference():
    rng = np.random.default_rng(0)
    value = (rng.normal(size=500) * 10.0 ** np.arange(-30, 20).repeat(10)).astype(np.float32)
    value[:4] = np.nan, np.inf, -np.inf, -0.0
    bits = rng.integers(0, 1 << 16, 500, np.uint32)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        got = low_precision.rounded_stochastically(jnp.asarray(value), dtype, jnp.asarray(bits))
        want = reference.rounded_stochastically(value, dtype, bits)
        # XLA on a CPU flushes float32's subnormal numbers to zero.
        normal = (np.abs(value) > 1e-37) | ~np.isfinite(value)
        with np.errstate(over="ignore"):
            assert np.array_equal(np.asarray(got).astype(dtype)[normal], want[normal], equal_nan=True)


def steps(optimizer, params, grads, scan):
    """Steps inside one compiled function, or one after another."""

    def step(carry, grad):
        params, state = carry
        updates, state = optimizer.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, optimizer.init(params))
    if scan:
        return jax.jit(lambda carry: jax.lax.scan(step, carry, grads)[0])(carry)
    one = jax.jit(lambda carry, grad: step(carry, grad)[0])
    for i in range(grads["kernel"].shape[0]):
        carry = one(carry, jax.tree.map(lambda leaf, i=i: leaf[i], grads))
    return carry


@pytest.mark.parametrize("scan", [False, True], ids=["step by step", "in one function"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda one: one.__name__)
def test_compensated_weights_are_those_of_the_reference(dtype, scan):
    """Of steps that float32 has, so that nothing is rounded but what is stored; no compiler takes a rounding away."""
    rng = np.random.default_rng(1)
    w = (1 + rng.integers(0, 64, (34, 5)) / 64).astype(dtype)
    half = rng.integers(-4, 5, (6, 17, 5))
    grads = np.concatenate([half, -half], 1).astype(dtype)
    lr = 2.0**-13 if dtype == jnp.bfloat16 else 2.0**-15
    want = gc_core.SGD({"w": w}, {"w": 0}, lr=lr, momentum=0.0, low_precision="kahan")
    for grad in grads:
        want.step({"w": grad})
    optimizer = gct.sgd(lr, plan="out_last", low_precision="kahan")
    params, state = steps(optimizer, {"kernel": jnp.asarray(w), "bias": jnp.ones(5)}, {"kernel": jnp.asarray(grads), "bias": jnp.ones((6, 5))}, scan)  # fmt: skip # noqa: E501
    assert np.array_equal(params["kernel"], want.params["w"])
    assert np.array_equal(state.compensation["kernel"], want.kept["w"])
    assert state.compensation["bias"] is None and params["bias"].dtype == jnp.float32


@pytest.mark.parametrize("way", WAYS)
def test_a_large_step_from_near_zero_is_no_exception(way):
    params = {"kernel": jnp.array([[1e-6], [3e-3], [-2e-4]], jnp.bfloat16)}
    grads = {"kernel": jnp.array([[1.0], [-3.0], [5.0]], jnp.bfloat16)}
    optimizer = gct.sgd(1.0, plan="out_last", low_precision=way)
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    new = optax.apply_updates(params, updates)["kernel"].astype(jnp.float64 if jax.config.jax_enable_x64 else jnp.float32)  # fmt: skip # noqa: E501
    meant = np.float64([[1e-6], [3e-3], [-2e-4]]) - (np.float64([[1.0], [-3.0], [5.0]]) - 1)
    if way == "kahan":
        new = new + state.compensation["kernel"].astype(jnp.float32)
    # u = 2^-8 of the largest, once for the update and once for the sum; with the compensation u of that is left.
    assert np.abs(np.asarray(new) - meant).max() <= 4 * 2.0**-7 * (2.0**-8 if way == "kahan" else 1)
    assert updates["kernel"].dtype == jnp.bfloat16


def test_without_the_option_the_state_is_that_of_optax():
    params = {"kernel": jnp.ones((3, 2), jnp.bfloat16)}
    state = gct.adamw(1e-3, plan="out_last").init(params)
    assert jax.tree.structure(state) == jax.tree.structure(optax.adamw(1e-3).init(params))


def test_what_is_refused():
    params = {"kernel": jnp.ones((3, 2), jnp.bfloat16)}
    for options, error, said in (
        (dict(low_precision="Kahan"), ValueError, "low_precision must be one of 'kahan', 'stochastic'"),
        (dict(low_precision="stochastic", seed=None), TypeError, "seed must be an int"),
    ):
        with pytest.raises(error) as raised:
            gct.sgd(0.1, plan="out_last", **options)
        assert said in str(raised.value)
    optimizer = gct.sgd(0.1, plan="out_last", low_precision="kahan")
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(params, optimizer.init(params))
