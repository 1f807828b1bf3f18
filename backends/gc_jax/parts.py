"""What `gc_jax.sgd`, `adam` and `adamw` are made of: Optax's own parts, with Φ in its place and in enough precision."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gc_core import checks
from gc_core.plan import Plan
from gc_jax import compat, low_precision
from gc_jax.adam import bias_correction
from gc_jax.arrays import JAX, widen
from gc_jax.rows import arrays_of, centralized, check, check_tree, like_updates, of_the_same_shapes, rows_of


def number_or_schedule(name: str, value: Any, low: float | None = 0.0) -> None:
    """Refuse what is neither a schedule nor a number of at least `low`."""
    if not callable(value):
        checks.number(name, value, low=low, framework=JAX)


def decay_or_schedule(weight_decay: Any) -> None:
    """Refuse what this Optax cannot take as a decay."""
    number_or_schedule("weight_decay", weight_decay)
    if callable(weight_decay) and not compat.decay_can_be_scheduled():
        raise TypeError(
            f"weight_decay must be a number with Optax {optax.__version__}, and is a schedule, which Optax takes since "
            "0.2.5: pip install 'optax>=0.2.5', or optax.inject_hyperparams"
        )


def with_gc(
    before: list,
    direction: Any,
    after: list,
    learning_rate: Any,
    plan: Plan | str,
    gc_on: str | None,
    way: str | None,
    seed: int | jax.Array,
) -> optax.GradientTransformationExtraArgs:
    """before (L2 decay), direction (of the step), after (decoupled decay) and −learning_rate, with Φ in its place.

    way, seed: of rounding to low precision.
    """
    check(plan)
    checks.low_precision(way)
    if not isinstance(seed, jax.Array):  # as inject_hyperparams makes it of every number
        seed = checks.seed(seed)
    number_or_schedule("learning_rate", learning_rate, low=None)
    checks.place(gc_on, optional=True)
    last = optax.scale_by_learning_rate(learning_rate)
    if gc_on == "gradient":
        direction = _on_centralized(direction, plan)
    if gc_on == "update":
        last = _on_centralized(last, plan)
    whole = optax.chain(*before, direction, *after, last)
    return _widened(whole, None if gc_on is None else plan, way, seed)


def _on_centralized(transform: Any, plan: Plan | str) -> optax.GradientTransformation:
    """The transformation of Φ(updates). A link of its own would give the state of the chain another structure."""

    def update(updates, state, params=None):
        return transform.update(centralized(updates, plan), state, params)

    return optax.GradientTransformation(transform.init, update)


def _widened(transform: Any, plan: Plan | str | None, way: str | None, seed: int | jax.Array) -> Any:
    """The transformation with half precision computed in float32, and what it gives and keeps rounded once.

    The updates lead: what of the parameters has none (the functions in an Equinox model) is left out. With a `way`, the
    weights to which the updates lead are those of page `low_precision`.
    """
    transform = optax.with_extra_args_support(transform)

    def init(params):
        if plan is not None:
            check_tree(plan, params)
        params = arrays_of(params)
        inner = transform.init(params)
        return inner if way is None else low_precision.init(way, seed, inner, params)

    def update(updates, state, params=None, **extra):
        if plan is not None:
            rows_of(plan, updates)  # so that a tree that does not fit is refused in these words
        if way is not None and params is None:
            raise ValueError(f"low_precision={way!r} needs the parameters: update(grads, state, params)")
        params = like_updates(updates, params)
        of_the_same_shapes(updates, state)
        dtypes = _dtypes(updates)
        if params is not None:  # float32 weights with half gradients get the update that they can hold
            dtypes = jax.tree.map(jnp.promote_types, dtypes, _dtypes(params))
        inner = state if way is None else state.inner_state
        wide = [jax.tree.map(lambda leaf: widen(jnp.asarray(leaf)), tree) for tree in (updates, inner, params)]
        if way is not None:
            wide[2] = low_precision.exact(way, state, params)
        new, new_inner = transform.update(*wide, **extra)
        new_inner = _rounded(new_inner, _dtypes(inner))
        if way is None:
            return _rounded(new, dtypes), new_inner
        return low_precision.stored(way, state, new_inner, new, dtypes, wide[2], params)

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, but for its bias corrections."""
    checks.flag("nesterov", nesterov)
    for name, value, below in (("b1", b1, 1.0), ("b2", b2, 1.0), ("eps", eps, None), ("eps_root", eps_root, None)):
        checks.number(name, value, low=0.0, below=below, framework=JAX)
    init = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype).init

    def update(updates, state, params=None):
        del params
        t = optax.safe_increment(state.count)
        mu = compat.update_moment(updates, state.mu, b1, 1)
        nu = compat.update_moment_per_elem_norm(updates, state.nu, b2, 2)

        def corrected(moment, beta, t):
            return moment / bias_correction(beta, t, jnp.finfo(moment.dtype).dtype)

        def direction(g, m, v):
            m_hat = corrected(m, b1, t)
            if nesterov:
                m_hat = b1 * corrected(m, b1, optax.safe_increment(t)) + (1 - b1) * corrected(g, b1, t)
            return m_hat / (jnp.sqrt(corrected(v, b2, t) + eps_root) + eps)

        return jax.tree.map(direction, updates, mu, nu), optax.ScaleByAdamState(t, mu, nu)

    return optax.GradientTransformation(init, update)


def _dtypes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).dtype, tree)


def _rounded(tree: Any, dtypes: Any) -> Any:
    return jax.tree.map(lambda leaf, dtype: leaf if leaf.dtype == dtype else leaf.astype(dtype), tree, dtypes)
