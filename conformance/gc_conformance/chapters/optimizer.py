"""Stateful optimizers: optimizer(kind, params, axes, **hyper) with step(grads) and params().

Always given: lr, and momentum ("sgd"), betas and eps ("adam", "adamw"), weight_decay ("adamw"). Given where they are
not the default: dampening, nesterov, weight_decay (L2), amsgrad, gc_on="update". The state is out of sight, so whole
runs are judged from a fresh one, and the bounds grow from step to step. A port whose "sgd" starts with an undamped
first step, as PyTorch's does, says so by sgd_first_step = "undamped".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import oracle
from ..bounds import Approx, decimals
from ..judge import agree, require, same
from ..port import MEMORY, Port
from ..registry import property
from ..result import Violation
from ..strategies import Training, trainings


def make(port: Port, case: Training) -> Any:
    params = {name: port.array(a.fresh()) for name, a in case.params.items()}
    return port.call("optimizer", case.kind, params, dict(case.axes), **case.hyper)


def step(port: Port, optimizer: Any, grads: dict[str, Any]) -> None:
    port.attempt("step", optimizer.step, grads)


def read(port: Port, optimizer: Any) -> dict[str, np.ndarray]:
    return {name: port.numpy(a) for name, a in port.attempt("params", optimizer.params).items()}


def fresh(port: Port, arrays: dict) -> dict[str, Any]:
    return {name: port.array(a.fresh()) for name, a in arrays.items()}


def expected(port: Port, case: Training, name: str) -> list[Approx]:
    """The weights of one parameter after each step."""
    w, grads = case.params[name].value, [g[name].value for g in case.grads]
    if case.kind == "sgd":
        undamped = port.sgd_first_step == "undamped"
        return oracle.sgdm_run(w, grads, w.dtype.name, axis=case.axes[name], undamped=undamped, **case.hyper)
    decoupled = case.kind == "adamw"
    return oracle.adam_run(w, grads, w.dtype.name, axis=case.axes[name], decoupled=decoupled, **case.hyper)


def check(port: Port, case: Training) -> None:
    """Every parameter is within its bound after every step."""
    want = {name: expected(port, case, name) for name in case.params}
    optimizer = make(port, case)
    for number, grads in enumerate(case.grads):
        step(port, optimizer, fresh(port, grads))
        got = read(port, optimizer)
        require(
            set(got) == set(case.params), f"params() has the names {sorted(got)}, and must have {sorted(case.params)}"
        )
        for name in case.params:
            agree(got[name], want[name][number], f"{name} after step {number + 1}, at ")


@property("optimizer.sgd", basic=True, needs="optimizer", share=0.5, cases=trainings("sgd"))
def sgd(port: Port, case: Training) -> None:
    """SGD with momentum, of the centralized gradient."""
    check(port, case)


@property("optimizer.adam", basic=True, needs="optimizer", share=0.5, cases=trainings("adam"))
def adam(port: Port, case: Training) -> None:
    """Adam of the centralized gradient."""
    check(port, case)


@property("optimizer.adamw", basic=True, needs="optimizer", share=0.5, cases=trainings("adamw"))
def adamw(port: Port, case: Training) -> None:
    """AdamW of the centralized gradient: lr * weight_decay of w is taken away, outside of GC."""
    check(port, case)


@property(
    "optimizer.gradients_are_centralized",
    needs="optimizer",
    share=0.5,
    cases=trainings("sgd", "adam", "adamw", kinds=("large mean",), count=(1, 1)),
)
def gradients_are_centralized(port: Port, case: Training) -> None:
    """Every parameter with axes has its gradient centralized, over those axes."""
    check(port, case)


@property(
    "optimizer.no_axes_no_gc",
    needs="optimizer",
    share=0.5,
    cases=lambda port: trainings("sgd", "adam", "adamw")(port).map(
        lambda case: Training(case.kind, case.params, case.grads, dict.fromkeys(case.axes), case.hyper)
    ),
)
def no_axes_no_gc(port: Port, case: Training) -> None:
    """With None for its axes a parameter is updated by the plain optimizer, whatever its rank."""
    check(port, case)


@property(
    "optimizer.biases_left_alone",
    needs="optimizer",
    since=2,
    share=0.5,
    cases=trainings("sgd", "adam", "adamw", bias=True),
)
def biases_left_alone(port: Port, case: Training) -> None:
    """A bias, which has no fan-in axes, is updated by the plain optimizer, beside weights that have GC."""
    check(port, case)


@property(
    "optimizer.dampening",
    needs="optimizer",
    share=0.5,
    cases=trainings("sgd", momentum=0.875, dampening=0.5, count=(1, 3)),
)
def dampening(port: Port, case: Training) -> None:
    """The gradient enters the momentum buffer times 1 - dampening; the first one as the port declares."""
    check(port, case)


@property(
    "optimizer.nesterov",
    needs="optimizer",
    share=0.5,
    cases=trainings("sgd", momentum=0.875, nesterov=True, count=(1, 3)),
)
def nesterov(port: Port, case: Training) -> None:
    """Nesterov's step looks ahead."""
    check(port, case)


@property("optimizer.no_momentum", needs="optimizer", share=0.5, cases=trainings("sgd", momentum=0.0))
def no_momentum(port: Port, case: Training) -> None:
    """With momentum 0 it is plain SGD of the centralized gradient."""
    check(port, case)


@property("optimizer.l2_decay", needs="optimizer", share=0.5, cases=trainings("sgd", "adam", weight_decay=0.125))
def l2_decay(port: Port, case: Training) -> None:
    """The weight decay of SGD and Adam is L2: added to the gradient, before GC."""
    check(port, case)


@property("optimizer.adamw_without_decay", needs="optimizer", share=0.5, cases=trainings("adamw", weight_decay=0.0))
def adamw_without_decay(port: Port, case: Training) -> None:
    """AdamW with a decay of 0 is Adam."""
    check(port, case)


@property(
    "optimizer.betas_and_eps",
    needs="optimizer",
    share=0.5,
    cases=trainings("adam", "adamw", betas=(0.5, 0.75), eps=0.5),
)
def betas_and_eps(port: Port, case: Training) -> None:
    """betas and eps are used as given."""
    check(port, case)


@property(
    "optimizer.amsgrad",
    needs="optimizer",
    share=0.5,
    cases=trainings("adam", "adamw", amsgrad=True, betas=(0.5, 0.5), count=(2, 4)),
)
def amsgrad(port: Port, case: Training) -> None:
    """AMSGrad divides by the largest second moment so far."""
    check(port, case)


@property(
    "optimizer.gc_on_update", needs="optimizer", share=0.5, cases=trainings("sgd", "adam", "adamw", gc_on="update")
)
def gc_on_update(port: Port, case: Training) -> None:
    """gc_on="update" centralizes the step instead of the gradient."""
    check(port, case)


@property("optimizer.many_steps", needs="optimizer", share=0.2, cases=trainings("sgd", "adam", "adamw", count=(8, 8)))
def many_steps(port: Port, case: Training) -> None:
    """State and step count are kept from step to step."""
    check(port, case)


@property(
    "optimizer.parameters_apart",
    needs="optimizer",
    share=0.5,
    cases=trainings("sgd", "adam", "adamw", alike=True, count=(2, 3)),
)
def parameters_apart(port: Port, case: Training) -> None:
    """Parameters share no state, of the same shape or not."""
    check(port, case)


TWO = "STEP; print(optimizer.params()); other.step(grads); print(other.params())"
OVERWRITTEN = "STEP; [g.__setitem__(..., 77) for g in grads.values()]; print(optimizer.params())"


@property(
    "optimizer.instances_apart", needs="optimizer", share=0.5, cases=trainings("sgd", "adam", "adamw", count=(2, 2))
)
def instances_apart(port: Port, case: Training) -> None:
    """Two optimizers share no state."""
    want = {name: expected(port, case, name) for name in case.params}
    one, other = make(port, case), make(port, case)
    for number, grads in enumerate(case.grads):
        for optimizer in (one, other):
            step(port, optimizer, fresh(port, grads))
            for name, got in read(port, optimizer).items():
                what = f"{name} of one of two optimizers after step {number + 1}, at "
                agree(got, want[name][number], what, TWO)


def _turned(case: Training) -> Training:
    """Gradients and axes in another order than the parameters."""
    grads = tuple(dict(reversed(g.items())) for g in case.grads)
    return Training(case.kind, case.params, grads, dict(reversed(case.axes.items())), case.hyper)


@property(
    "optimizer.names_decide",
    needs="optimizer",
    share=0.5,
    cases=lambda port: trainings("sgd", "adam", "adamw", alike=True, count=(2, 2))(port).map(_turned),
)
def names_decide(port: Port, case: Training) -> None:
    """Gradients and axes belong to parameters by name, not by their order in a dict."""
    check(port, case)


@property(
    "optimizer.grads_unchanged",
    needs=("optimizer", MEMORY),
    share=0.5,
    cases=trainings("sgd", "adam", "adamw", weight_decay=0.125, count=(2, 2)),
)
def grads_unchanged(port: Port, case: Training) -> None:
    """The gradients given to step are not changed, at once or by a later step."""
    optimizer, kept = make(port, case), []
    for grads in case.grads:
        given = fresh(port, grads)
        kept.append((given, grads))
        step(port, optimizer, given)
    for given, grads in kept:
        for name, array in given.items():
            same(port.numpy(array), grads[name].value, f"the gradient of {name} after {len(kept)} steps", "grads")


@property(
    "optimizer.no_aliasing",
    needs=("optimizer", MEMORY),
    share=0.5,
    cases=trainings("sgd", "adam", "adamw", count=(2, 3)),
)
def no_aliasing(port: Port, case: Training) -> None:
    """Gradients may be overwritten after a step, as training loops do: the state holds none of them."""
    want = {name: expected(port, case, name) for name in case.params}
    optimizer = make(port, case)
    for number, grads in enumerate(case.grads):
        given = fresh(port, grads)
        step(port, optimizer, given)
        for array in given.values():
            try:
                array[...] = 77
            except Exception:  # immutable
                continue
        for name, got in read(port, optimizer).items():
            what = f"{name} after step {number + 1}, earlier gradients being overwritten, at "
            agree(got, want[name][number], what, OVERWRITTEN)


@property("optimizer.keeps_shape_and_dtype", needs="optimizer", share=0.5, cases=trainings("sgd", "adam", "adamw"))
def keeps_shape_and_dtype(port: Port, case: Training) -> None:
    """Parameters keep their shape and dtype."""
    optimizer = make(port, case)
    for grads in case.grads:
        step(port, optimizer, fresh(port, grads))
    for name, got in read(port, optimizer).items():
        want = case.params[name]
        if (got.shape, got.dtype.name) != (want.shape, want.dtype):
            raise Violation(f"{name} is {got.dtype.name} {got.shape}, and must be {want.dtype} {want.shape}")


@property(
    "optimizer.sgd_keeps_means", needs="optimizer", share=0.5, cases=trainings("sgd", weight_decay=0.125, count=(3, 5))
)
def sgd_keeps_means(port: Port, case: Training) -> None:
    """SGD with GC and L2 decay never changes the mean of a weight vector."""
    optimizer = make(port, case)
    for grads in case.grads:
        step(port, optimizer, fresh(port, grads))
    for name, got in read(port, optimizer).items():
        if (over := oracle.axes_of(case.axes[name], got.ndim)) is not None:
            moved = abs((decimals(got) - decimals(case.params[name].value)).sum(over))
            allowed = expected(port, case, name)[-1].error.sum(over)
            require(bool(np.all(moved <= allowed)), f"the mean of a weight vector of {name} has moved")
