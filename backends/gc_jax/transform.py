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

from collections.abc import Callable
from typing import Any

import optax

from gc_core import checks
from gc_core.layouts import Layout
from gc_core.plan import Plan
from gc_jax.arrays import JAX
from gc_jax.parts import decay_or_schedule, scale_by_adam, with_gc
from gc_jax.rows import centralized, check, check_tree

Mask = Any | Callable[[optax.Params], Any]


def centralize_gradients(plan_or_layout: Plan | Layout) -> optax.GradientTransformation:
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
        ValueError: an unknown layout; later, if the tree does not fit the plan, if a layout finds no weight in it, or
            is to judge a part of a tree (under `masked` or `multi_transform`) or a flat one (under `optax.flatten`).

    >>> import jax.numpy as jnp
    >>> optimizer = optax.chain(centralize_gradients("out_last"), optax.lion(1e-3))
    >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), equation 1.
    """
    check(plan_or_layout)

    def init(params):
        check_tree(plan_or_layout, params)
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params
        return centralized(updates, plan_or_layout), state

    return optax.GradientTransformation(init, update)


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: Any = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    *,
    plan: Plan | Layout,
    gc_on: checks.Place | None = "gradient",
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask | None = None,
    decoupled: bool = False,
    low_precision: checks.Way | None = None,
    seed: int = 0,
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
        low_precision: how weights in float16 and bfloat16 are rounded when Optax adds the updates to them. None: to the
            nearest. "kahan": compensated summation, whose state, `KahanState`, has an array more for each weight.
            "stochastic": up or down at random; the state is a `StochasticState`. Weights of other dtypes need neither,
            and have nothing of it. Then `update` needs the parameters. See docs/precision.md.
        seed: of the random numbers, an int.

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
    if nesterov and momentum is None:
        raise ValueError("nesterov needs a momentum; got momentum=None")
    if momentum is not None:
        checks.number("momentum", momentum, low=0.0, framework=JAX)
    if weight_decay is not None:
        decay_or_schedule(weight_decay)
    decay = [] if weight_decay is None else [optax.add_decayed_weights(weight_decay, mask)]
    direction = optax.identity() if momentum is None else optax.trace(momentum, nesterov, accumulator_dtype)
    before, after = ([], decay) if decoupled else (decay, [])
    return with_gc(before, direction, after, learning_rate, plan, gc_on, low_precision, seed)


def adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    plan: Plan | Layout,
    gc_on: checks.Place | None = "gradient",
    low_precision: checks.Way | None = None,
    seed: int = 0,
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
        low_precision, seed: see `sgd`.

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
    direction = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov)
    return with_gc([], direction, [], learning_rate, plan, gc_on, low_precision, seed)


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
    plan: Plan | Layout,
    gc_on: checks.Place | None = "gradient",
    low_precision: checks.Way | None = None,
    seed: int = 0,
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
        low_precision, seed: see `sgd`.

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
    decay_or_schedule(weight_decay)
    direction = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov)
    return with_gc(
        [], direction, [optax.add_decayed_weights(weight_decay, mask)], learning_rate, plan, gc_on, low_precision, seed
    )
