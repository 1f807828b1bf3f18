"""Weights in float16 and bfloat16 that train: compensated summation and stochastic rounding, as in `gc_core`.

Optax adds updates to weights, and the sum is rounded to the nearest. So the update that is given is the one whose sum
is the weight that is meant, in the dtype that updates have anyway. Inside a jitted function XLA may leave roundings
out; `jax.lax.reduce_precision` is the one it keeps.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gc_jax.arrays import widen

_BITS = {"float16": (5, 10), "bfloat16": (8, 7)}  # of exponent and significand


class KahanState(NamedTuple):
    """What compensated summation remembers: the optimizer's own state, and what rounding has cut off.

    >>> KahanState._fields
    ('inner_state', 'compensation')
    """

    inner_state: Any
    compensation: Any  # like the weights; None for one that is wider than 16 bits


class StochasticState(NamedTuple):
    """What stochastic rounding remembers: the optimizer's own state, the key, and the number of steps.

    >>> StochasticState._fields
    ('inner_state', 'key', 'count')
    """

    inner_state: Any
    key: jax.Array  # as of `jax.random.PRNGKey`
    count: jax.Array


def init(way: str, seed: int | jax.Array, inner: Any, params: Any) -> KahanState | StochasticState:
    """The state before the first step."""
    if way == "kahan":
        return KahanState(inner, jax.tree.map(lambda p: jnp.zeros_like(p) if is_low(p) else None, params))
    return StochasticState(inner, jax.random.PRNGKey(seed), jnp.zeros((), jnp.int32))


def exact(way: str, state: Any, params: Any) -> Any:
    """The weights that the stored ones stand for, in float32."""
    compensations = state.compensation if way == "kahan" else jax.tree.map(lambda p: None, params)
    return jax.tree.map(_joined, params, compensations)


def stored(way: str, state: Any, inner: Any, updates: Any, dtypes: Any, wide: Any, params: Any) -> tuple[Any, Any]:
    """The updates that lead from the stored weights to those that are to be stored, and the new state.

    Args:
        state: before the step.
        inner: the optimizer's own, after it.
        updates: in float32.
        dtypes: of the updates that are given.
        wide: from `exact`.
        params: the stored weights.
    """
    leaves, treedef = jax.tree.flatten(updates)
    dtype, x, w = (treedef.flatten_up_to(tree) for tree in (dtypes, wide, params))
    if way == "kahan":
        pairs = [_kahan(*one) for one in zip(leaves, dtype, x, w, strict=True)]
        new, left = ([pair[i] for pair in pairs] for i in (0, 1))
        return treedef.unflatten(new), KahanState(inner, treedef.unflatten(left))
    count = state.count + 1
    key = jax.random.fold_in(state.key, count)
    new = [_stochastic(*one, jax.random.fold_in(key, i)) for i, one in enumerate(zip(leaves, dtype, x, w, strict=True))]
    return treedef.unflatten(new), StochasticState(inner, state.key, count)


def is_low(x: Any) -> bool:
    """Whether a leaf has anything to gain."""
    return jnp.dtype(x.dtype).name in _BITS


def rounded_stochastically(value: jax.Array, dtype: Any, bits: jax.Array) -> jax.Array:
    """`gc_core.low_precision.rounded_stochastically`, in float32: each number as one of its two neighbours in dtype.

    Args:
        value: float32, any shape.
        dtype: float16 or bfloat16.
        bits: uint32 from 0 to 65535, of the same shape.

    >>> value = jnp.full(4, 1 + 2**-9, jnp.float32)  # a quarter of the way from 1 to the next one
    >>> rounded_stochastically(value, jnp.bfloat16, jnp.arange(4, dtype=jnp.uint32) << 14)
    Array([1.       , 1.       , 1.       , 1.0078125], dtype=float32)
    """
    word = lax.bitcast_convert_type(value, jnp.uint32)
    if jnp.dtype(dtype).name == "bfloat16":  # the upper half of a float32
        up = lax.bitcast_convert_type((word + bits) & jnp.uint32(0xFFFF0000), jnp.float32)
    else:
        power = lax.bitcast_convert_type(word & jnp.uint32(0x7F800000), jnp.float32)  # of 2, the largest up to |value|
        unit = jnp.maximum(power, 2.0**-14) * 2.0**-10
        up = jnp.copysign(jnp.floor(jnp.abs(value) / unit + (bits >> 3) * 2.0**-13) * unit, value)
    return jnp.where(jnp.isfinite(value), up, value)


def _nearest(x: jax.Array, dtype: Any) -> jax.Array:
    """Rounded to a dtype, in float32."""
    name = jnp.dtype(dtype).name
    if name not in _BITS:
        return x
    rounded = lax.reduce_precision(x, *_BITS[name])
    if name == "float16":  # it knows no subnormal numbers, and compensations are among them
        rounded = jnp.where(jnp.abs(x) < 2.0**-14, jnp.round(x * 2.0**24) * 2.0**-24, rounded)
    return rounded


def _joined(p: Any, compensation: Any) -> Any:
    wide = widen(jnp.asarray(p))
    if compensation is None:
        return wide
    return _nearest(wide, p.dtype) + _nearest(widen(compensation), p.dtype)


def _kahan(update: Any, dtype: Any, x: Any, p: Any) -> tuple[Any, Any]:
    if not is_low(p):
        return update.astype(dtype), None
    update, w = _to(_nearest(x + update, p.dtype), dtype, p), x + update
    left = w - _nearest(_nearest(widen(p), p.dtype) + update, p.dtype)
    return update.astype(dtype), _nearest(jnp.where(jnp.isfinite(left), left, 0), p.dtype).astype(p.dtype)


def _stochastic(update: Any, dtype: Any, x: Any, p: Any, key: jax.Array) -> Any:
    if not is_low(p):
        return update.astype(dtype)
    bits = jax.random.bits(key, p.shape, jnp.uint16).astype(jnp.uint32)
    return _to(rounded_stochastically(x + update, p.dtype, bits), dtype, p).astype(dtype)


def _to(target: Any, dtype: Any, p: Any) -> Any:
    """The update that leads there, as the dtype can hold it."""
    return _nearest(target - _nearest(widen(p), p.dtype), dtype)
