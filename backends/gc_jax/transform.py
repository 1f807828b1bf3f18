"""Gradient Centralization for Optax: `centralize_gradients`, and its `sgd`, `adam` and `adamw` with GC inside.

Optax has a `centralize` of its own. It averages over the axes 1, 2, … of every array: the fan-in of a weight stored out
first, as PyTorch's and Equinox's are. A Flax kernel is stored out last, (in, out), and there axis 1 is the output:

>>> import jax.numpy as jnp
>>> import optax
>>> grads = {"kernel": jnp.array([[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]])}  # 3 inputs, 2 outputs
>>> wrong, _ = optax.centralize().update(grads, optax.EmptyState())
>>> right, _ = centralize_gradients("out_last").update(grads, optax.EmptyState())
>>> wrong["kernel"].sum(0)  # each column feeds one output: it should sum to 0, and its direction is destroyed
Array([-40.5,  40.5], dtype=float32)
>>> right["kernel"].sum(0)
Array([0., 0.], dtype=float32)

It also centralizes embeddings and whatever else has two axes. Here the layout, or better a plan, must be given.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gc_core import checks
from gc_core.layouts import UNKNOWN, rule_of
from gc_core.plan import Plan, Row
from gc_jax import compat
from gc_jax.adam import bias_correction
from gc_jax.arrays import JAX, widen
from gc_jax.layers import UNCLEAR
from gc_jax.operator import center
from gc_jax.plan import named_leaves
from gc_jax.plan import plan as make_plan

Mask = Any | Callable[[optax.Params], Any]


def centralize_gradients(plan_or_layout: Plan | str) -> optax.GradientTransformation:
    """GC as a link of an Optax chain: Φ of each weight's gradient, all else as it comes.

    Formula, for each row of the plan that has axes::

        Φ(g) = g − mean(g) over these axes

    In front of an optimizer it is the paper's GC. Put L2 decay (`optax.add_decayed_weights`) before it: then the mean
    of every weight vector is conserved under SGD.

    Args:
        plan_or_layout: from `gc_jax.plan`, for the tree that is optimized or one that holds its leaves (the trees of
            `masked` and `multi_transform` are such). Or a layout, "out_first" or "out_last": the plan is then made from
            the names of the tree, when it comes.

    Returns:
        An `optax.GradientTransformation` without state. Half precision is computed in float32 and rounded once.

    Raises:
        TypeError: it is neither a Plan nor a string; later, where GC would act, for what is not a floating-point array.
        ValueError: an unknown layout; later, if the tree does not fit the plan, or a layout finds no weight in it.

    >>> import jax.numpy as jnp
    >>> optimizer = optax.chain(centralize_gradients("out_last"), optax.lion(1e-3))
    >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), equation 1.
    """
    _check(plan_or_layout)

    def init(params):
        _rows(plan_or_layout, params)
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params
        return _centralized(updates, plan_or_layout), state

    return optax.GradientTransformation(init, update)


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: Any = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    *,
    plan: Plan | str,
    gc_on: str | None = "gradient",
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask | None = None,
    decoupled: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """`optax.sgd` with GC, and with weight decay where GC wants it.

    Formula, with λ = weight_decay, μ = momentum, η = learning_rate::

        g ← g + λ w                     if λ and not decoupled
        g ← Φ(g)                        if gc_on = "gradient"
        m ← μ m + g
        d ← g + μ m if nesterov else m
        d ← d + λ w                     if λ and decoupled
        d ← Φ(d)                        if gc_on = "update"
        update = −η d

    Args:
        learning_rate, momentum, nesterov, accumulator_dtype: as in `optax.sgd`.
        plan: a plan or a layout, see `centralize_gradients`.
        gc_on: "gradient" (the paper), "update" (the step is centralized instead), or None: no GC.
        weight_decay: a number or a schedule; None: no decay.
        mask: the leaves that decay, as in `optax.add_decayed_weights`.
        decoupled: False: L2, added to the gradient; True: added to the step.

    Returns:
        A transformation that gives and keeps what `optax.sgd` does: its state has the same structure, unless there is
        decay. Half precision is computed in float32, and what it gives and keeps is rounded once.

    Raises:
        TypeError, ValueError: as `centralize_gradients`, and for a number or a switch that the rule does not allow.

    >>> import jax.numpy as jnp
    >>> optimizer = sgd(0.5, momentum=0.9, plan="out_last")
    >>> params = {"kernel": jnp.array([[1.0], [1.0], [4.0]])}
    >>> grads = {"kernel": jnp.array([[3.0], [0.0], [0.0]])}
    >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)["kernel"].ravel()
    Array([0. , 1.5, 4.5], dtype=float32)

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 1.
    """
    checks.flag("nesterov", nesterov)
    checks.flag("decoupled", decoupled)
    if nesterov and (momentum is None or (isinstance(momentum, (int, float)) and momentum == 0)):
        raise ValueError(f"nesterov needs a momentum > 0; got momentum={momentum!r}")
    if momentum is not None:
        checks.number("momentum", momentum, low=0.0, framework=JAX)
    if weight_decay is not None:
        _decay(weight_decay)
    decay = [] if weight_decay is None else [optax.add_decayed_weights(weight_decay, mask)]
    direction = optax.identity() if momentum is None else optax.trace(momentum, nesterov, accumulator_dtype)
    before, after = ([], decay) if decoupled else (decay, [])
    return _with_gc(before, direction, after, learning_rate, plan, gc_on)


def adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    plan: Plan | str,
    gc_on: str | None = "gradient",
) -> optax.GradientTransformationExtraArgs:
    """`optax.adam` with GC. For L2 decay put `optax.add_decayed_weights` in front of it, as with Optax's own.

    Formula, with η = learning_rate::

        g ← Φ(g)                        if gc_on = "gradient"
        t ← t + 1
        m ← b1 m + (1 − b1) g
        v ← b2 v + (1 − b2) g⊙g
        d ← (m / (1 − b1ᵗ)) / (√(v / (1 − b2ᵗ) + eps_root) + eps)
        d ← Φ(d)                        if gc_on = "update"
        update = −η d

    Args:
        learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov: as in `optax.adam`.
        plan: a plan or a layout, see `centralize_gradients`.
        gc_on: "gradient" (the paper), "update" (the step is centralized instead), or None: no GC.

    Returns:
        A transformation that gives and keeps what `optax.adam` does, with a state of the same structure. Half precision
        is computed in float32, and what it gives and keeps is rounded once; 1 − b2ᵗ is computed without the
        cancellation that costs Optax's own 1e-5 in the first steps.

    Raises:
        TypeError, ValueError: as `centralize_gradients`, and for a number or a switch that the rule does not allow.

    >>> import jax.numpy as jnp
    >>> optimizer = adam(0.5, plan="out_last")
    >>> params = {"kernel": jnp.array([[1.0], [1.0], [4.0]])}
    >>> grads = {"kernel": jnp.array([[4.0], [1.0], [1.0]])}
    >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)["kernel"].ravel()
    Array([0.5, 1.5, 4.5], dtype=float32)

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2.
    """
    direction = _scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov)
    return _with_gc([], direction, [], learning_rate, plan, gc_on)


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
    *,
    nesterov: bool = False,
    plan: Plan | str,
    gc_on: str | None = "gradient",
) -> optax.GradientTransformationExtraArgs:
    """`optax.adamw` with GC.

    Formula: that of `adam`, with λ = weight_decay and one more line::

        d ← as in adam
        d ← d + λ w                     where mask lets it
        d ← Φ(d)                        if gc_on = "update"
        update = −η d

    Args:
        learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov: as in `optax.adamw`.
        plan: a plan or a layout, see `centralize_gradients`.
        gc_on: "gradient" (the paper), "update" (the step is centralized instead), or None: no GC.

    Returns:
        A transformation that gives and keeps what `optax.adamw` does, with a state of the same structure; numbers as in
        `adam`.

    Raises:
        TypeError, ValueError: as `centralize_gradients`, and for a number or a switch that the rule does not allow.

    >>> import jax.numpy as jnp
    >>> optimizer = adamw(0.5, weight_decay=0.5, plan="out_last")
    >>> params = {"kernel": jnp.array([[2.0], [4.0]])}
    >>> grads = {"kernel": jnp.array([[2.0], [4.0]])}
    >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)["kernel"].ravel()
    Array([2. , 2.5], dtype=float32)

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2, with the decay of AdamW.
    """
    _decay(weight_decay)
    direction = _scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov)
    return _with_gc([], direction, [optax.add_decayed_weights(weight_decay, mask)], learning_rate, plan, gc_on)


# ---- What the three share


def _with_gc(before, direction, after, learning_rate, plan, gc_on) -> optax.GradientTransformationExtraArgs:
    """before (L2 decay), direction (of the step), after (decoupled decay) and −learning_rate, with Φ in its place."""
    _check(plan)
    _number_or_schedule("learning_rate", learning_rate)
    checks.place(gc_on, optional=True)
    last = optax.scale_by_learning_rate(learning_rate)
    if gc_on == "gradient":
        direction = _on_centralized(direction, plan)
    if gc_on == "update":
        last = _on_centralized(last, plan)
    return _widened(optax.chain(*before, direction, *after, last))


def _number_or_schedule(name: str, value: Any) -> None:
    if not callable(value):
        checks.number(name, value, low=0.0, framework=JAX)


def _decay(weight_decay: Any) -> None:
    _number_or_schedule("weight_decay", weight_decay)
    if callable(weight_decay) and not compat.decay_can_be_scheduled():
        raise TypeError(
            f"weight_decay must be a number with Optax {optax.__version__}, and is a schedule, which Optax takes since "
            "0.2.5: pip install 'optax>=0.2.5', or optax.inject_hyperparams"
        )


def _on_centralized(transform, plan) -> optax.GradientTransformation:
    """The transformation of Φ(updates). A link of its own would give the state of the chain another structure."""

    def init(params):
        _rows(plan, params)
        return transform.init(params)

    def update(updates, state, params=None):
        return transform.update(_centralized(updates, plan), state, params)

    return optax.GradientTransformation(init, update)


def _widened(transform) -> optax.GradientTransformationExtraArgs:
    """The transformation with half precision computed in float32, and what it gives and keeps rounded once."""
    transform = optax.with_extra_args_support(transform)

    def update(updates, state, params=None, **extra):
        dtypes = _dtypes(updates)
        if params is not None:  # float32 weights with half gradients get the update that they can hold
            dtypes = jax.tree.map(jnp.promote_types, dtypes, _dtypes(params))
        wide = (jax.tree.map(lambda leaf: widen(jnp.asarray(leaf)), tree) for tree in (updates, state, params))
        new, new_state = transform.update(*wide, **extra)
        return _rounded(new, dtypes), _rounded(new_state, _dtypes(state))

    return optax.GradientTransformationExtraArgs(transform.init, update)


def _scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov) -> optax.GradientTransformation:
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


# ---- The plan, and the tree that it is for


def _check(plan: Any) -> None:
    if isinstance(plan, str):
        rule_of(plan)
    elif not isinstance(plan, Plan):
        raise TypeError(
            f'plan must be a plan, gc_jax.plan(params, layout), or a layout, "out_first" or "out_last"; got {plan!r}'
        )


def _centralized(updates: Any, plan: Plan | str) -> Any:
    leaves, treedef = jax.tree.flatten(updates)
    return treedef.unflatten([_phi(leaf, row) for leaf, row in zip(leaves, _rows(plan, updates), strict=True)])


def _phi(leaf: Any, row: Row | None) -> Any:
    if row is None or row.axes is None:
        return leaf
    grad = jnp.asarray(leaf)
    checks.array(JAX, f"the gradient of {row.name!r}", grad)
    return center(widen(grad).reshape(row.view), row.axes).reshape(row.shape).astype(grad.dtype)


def _rows(plan: Plan | str, tree: Any) -> list[Row | None]:
    """The row of each leaf of a tree; None for a leaf that is not a floating-point array."""
    for node in jax.tree.leaves(tree, is_leaf=_is_sparse):
        if _is_sparse(node):
            raise TypeError(f"GC needs dense gradients; got {type(node).__qualname__}: call its todense() first")
    leaves = [(name, leaf) for name, _, leaf in named_leaves(tree)]
    by_name = _planned(plan, tree) if isinstance(plan, str) else plan
    places = [str(i) for i in range(len(by_name))]
    if [name for name, _ in leaves] == places and by_name.keys().isdisjoint(places):
        by_name = dict(zip(places, by_name.values(), strict=True))  # Keras gives its variables as a list
    return [_row(by_name, name, leaf) for name, leaf in leaves]


def _row(by_name: Mapping[str, Row], name: str, leaf: Any) -> Row | None:
    row = by_name.get(name)
    if row is None:
        if not jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact):
            return None
        raise ValueError(f"the plan has no row for {name!r}: make it for this tree; its rows are {_some(by_name)}")
    if row.shape != tuple(jnp.shape(leaf)):
        raise ValueError(
            f"the plan is for {name!r} of shape {row.shape}; got shape {jnp.shape(leaf)}. If that is a shard of it (in "
            "a shard_map), take the step outside, on whole arrays: XLA adds the sum that a split fan-in needs"
        )
    return row


def _planned(layout: str, tree: Any) -> Mapping[str, Row]:
    if not any(jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact) for leaf in jax.tree.leaves(tree)):
        return {}
    plan = make_plan(tree, layout)
    unknown = [row for row in plan.rows if row.why in (UNKNOWN, UNCLEAR) and len(row.shape) > 1]
    if unknown and all(row.axes is None for row in plan.rows):
        # Otherwise GC would be off without a word.
        raise ValueError(
            f"a layout is not enough: nothing in this tree says that it is a weight stored so ({_some(plan)}); "
            f"give a plan, gc_jax.plan(params, {layout!r}, overrides={{{unknown[0].name!r}: axes}})"
        )
    return plan


def _some(names: Iterable[str]) -> str:
    return textwrap.shorten(", ".join(map(repr, names)), 200, placeholder=" …")


def _is_sparse(node: Any) -> bool:
    return type(node).__module__.startswith("jax.experimental.sparse")
