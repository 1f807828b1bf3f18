"""SGDM: sgdm_init and sgdm_update, step by step.

    g <- grad + weight_decay w        unless decoupled
    g <- centralize(g)                if gc_on == "gradient"
    m <- momentum m + (1 - dampening) g ;   d <- g + momentum m if nesterov else m
    d <- d + weight_decay w           if decoupled
    d <- centralize(d)                if gc_on == "update"
    w <- w - lr d

Every step is judged from the state that the port itself returned before it, so that errors do not add up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from .. import oracle
from ..judge import agree, require, same
from ..port import MEMORY, Port
from ..registry import property
from ..result import Violation
from ..strategies import LAYOUTS, SHAPES, Array, Steps, steps

NEEDS = ("sgdm_init", "sgdm_update")


def buffer(port: Port, state: Any) -> np.ndarray:
    if not hasattr(state, "momentum_buffer"):
        raise Violation(f"the state is a {type(state).__name__}, and must have the field momentum_buffer")
    return port.numpy(state.momentum_buffer)


def update(port: Port, case: Steps, w: Any, grad: Any, state: Any) -> tuple[Any, Any]:
    result = port.call("sgdm_update", w, grad, state, axis=case.axis, **case.hyper)
    require(isinstance(result, tuple) and len(result) == 2, "sgdm_update must return (w, state)")
    return result


def check_steps(port: Port, case: Steps) -> None:
    """Every weight and every momentum buffer of the run is within its bound."""
    w = port.array(case.w.fresh())
    state = port.call("sgdm_init", w)
    for number, grad in enumerate(case.grads, 1):
        was, m = port.numpy(w), buffer(port, state)
        if not np.isfinite(was.astype(float)).all():
            return  # float16 has overflowed
        w, state = update(port, case, w, port.array(grad.fresh()), state)
        want_w, want_m = oracle.sgdm(was, grad.value, m, case.w.dtype, axis=case.axis, **case.hyper)
        agree(buffer(port, state), want_m, f"momentum_buffer after step {number}, at ")
        agree(port.numpy(w), want_w, f"w after step {number}, at ")


@property("sgdm.init", needs="sgdm_init", cases=steps("sgdm"))
def init(port: Port, case: Steps) -> None:
    """The momentum buffer starts as zeros like w."""
    m = buffer(port, port.call("sgdm_init", port.array(case.w.fresh())))
    same(m, np.zeros_like(case.w.value, order="C"), "momentum_buffer of sgdm_init(w)", "port.sgdm_init(w)")


@property("sgdm.rule", basic=True, needs=NEEDS, cases=steps("sgdm", vary=("momentum",)))
def rule(port: Port, case: Steps) -> None:
    """m <- momentum m + centralize(g), w <- w - lr m."""
    check_steps(port, case)


@property("sgdm.gradient_is_centralized", needs=NEEDS, cases=steps("sgdm", kinds=("large mean",), momentum=0.0))
def gradient_is_centralized(port: Port, case: Steps) -> None:
    """The gradient is centralized before anything else is done with it."""
    check_steps(port, case)


@property("sgdm.defaults", needs=NEEDS, cases=steps("sgdm", count=(2, 3)))
def defaults(port: Port, case: Steps) -> None:
    """What is not given is momentum 0.9, no dampening, no Nesterov, no decay, GC on the gradient."""
    check_steps(port, case)


@property("sgdm.learning_rate", needs=NEEDS, cases=steps("sgdm", count=(1, 1), shapes=((3, 2), (2, 3, 4))))
def learning_rate(port: Port, case: Steps) -> None:
    """The learning rate scales the step once, and is not part of the momentum buffer."""
    check_steps(port, case)


@property("sgdm.zero_learning_rate", needs=NEEDS, cases=steps("sgdm", lr=0.0, count=(1, 2)))
def zero_learning_rate(port: Port, case: Steps) -> None:
    """With a learning rate of zero the weights stay and the momentum still gathers."""
    check_steps(port, case)


@property("sgdm.momentum", needs=NEEDS, cases=steps("sgdm", momentum=0.5, count=(2, 4)))
def momentum(port: Port, case: Steps) -> None:
    """The buffer remembers: each step keeps `momentum` of it."""
    check_steps(port, case)


@property("sgdm.no_momentum", needs=NEEDS, cases=steps("sgdm", momentum=0.0, count=(1, 3)))
def no_momentum(port: Port, case: Steps) -> None:
    """With momentum 0 each step is its own gradient's."""
    check_steps(port, case)


@property("sgdm.dampening", needs=NEEDS, cases=steps("sgdm", dampening=0.5, vary=("momentum",)))
def dampening(port: Port, case: Steps) -> None:
    """The new gradient enters the buffer times 1 - dampening, on the first step too."""
    check_steps(port, case)


@property("sgdm.algorithm_1", needs=NEEDS, cases=steps("sgdm", momentum=0.875, dampening=0.875, count=(2, 4)))
def algorithm_1(port: Port, case: Steps) -> None:
    """With dampening = momentum it is the paper's Algorithm 1: m <- beta m + (1 - beta) centralize(g)."""
    check_steps(port, case)


@property("sgdm.nesterov", needs=NEEDS, cases=steps("sgdm", nesterov=True, momentum=0.5, vary=("weight_decay",)))
def nesterov(port: Port, case: Steps) -> None:
    """Nesterov steps along g + momentum m, g being the centralized gradient."""
    check_steps(port, case)


@property("sgdm.l2_decay", needs=NEEDS, cases=steps("sgdm", weight_decay=0.125, vary=("momentum",)))
def l2_decay(port: Port, case: Steps) -> None:
    """L2 decay is added to the gradient before GC, so it is centralized too."""
    check_steps(port, case)


@property(
    "sgdm.decoupled_decay", needs=NEEDS, cases=steps("sgdm", weight_decay=0.125, decoupled=True, vary=("momentum",))
)
def decoupled_decay(port: Port, case: Steps) -> None:
    """Decoupled decay takes lr * weight_decay of w, outside of GC and of the momentum buffer."""
    check_steps(port, case)


@property(
    "sgdm.gc_on_update",
    needs=NEEDS,
    cases=steps("sgdm", gc_on="update", vary=("momentum", "weight_decay", "decoupled"), kinds=("large mean", "normal")),
)
def gc_on_update(port: Port, case: Steps) -> None:
    """gc_on="update" centralizes the step, decay included, and leaves the gradient and the buffer as they are."""
    check_steps(port, case)


@property(
    "sgdm.no_axis",
    needs=NEEDS,
    cases=steps("sgdm", axis=None, shapes=((5,), *SHAPES), vary=("momentum", "nesterov", "weight_decay", "gc_on")),
)
def no_axis(port: Port, case: Steps) -> None:
    """With axis=None it is plain SGD."""
    check_steps(port, case)


@property(
    "sgdm.all_options",
    needs=NEEDS,
    cases=steps("sgdm", count=(1, 4), vary=("momentum", "dampening", "nesterov", "weight_decay", "decoupled", "gc_on")),
)
def all_options(port: Port, case: Steps) -> None:
    """All options work together."""
    check_steps(port, case)


@property(
    "sgdm.memory_layouts", needs=(*NEEDS, MEMORY), cases=steps("sgdm", layouts=tuple(LAYOUTS), vary=("weight_decay",))
)
def memory_layouts(port: Port, case: Steps) -> None:
    """Weights and gradients may lie in memory in different ways."""
    check_steps(port, case)


@property(
    "sgdm.empty",
    needs=NEEDS,
    cases=lambda port: st.sampled_from(port.real_dtypes).map(
        lambda dtype: Steps(
            "sgdm", Array(f"np.zeros((3, 0), {dtype!r})"), (Array(f"np.zeros((3, 0), {dtype!r})"),), (1,), {"lr": 0.5}
        )
    ),
)
def empty(port: Port, case: Steps) -> None:
    """An empty weight takes an empty step."""
    with port.may_refuse("empty arrays"):
        check_steps(port, case)


@property(
    "sgdm.inputs_unchanged",
    needs=(*NEEDS, MEMORY),
    cases=steps("sgdm", count=(2, 3), vary=("momentum", "nesterov", "weight_decay", "decoupled", "gc_on")),
)
def inputs_unchanged(port: Port, case: Steps) -> None:
    """Neither w, nor any gradient, nor any earlier state is changed."""
    inputs_stay(port, case, "sgdm", update, ("momentum_buffer",))


KEPT = "given = (w, g, state); STEP; print('given:', given)"


def inputs_stay(port: Port, case: Steps, rule: str, update: Any, fields: tuple[str, ...]) -> None:
    """Run the steps, keep everything that was handed in or out, and compare it with what it was then."""
    w = port.array(case.w.fresh())
    state = port.call(f"{rule}_init", w, **case.init_options)
    kept: list[tuple[str, Any, np.ndarray]] = []

    def keep(what: str, array: Any) -> None:
        if array is not None:
            kept.append((what, array, port.numpy(array)))

    for number, grad in enumerate(case.grads, 1):
        g = port.array(grad.fresh())
        keep(f"w before step {number}", w)
        keep(f"grad of step {number}", g)
        for name in fields:
            keep(f"{name} before step {number}", getattr(state, name, None))
        w, state = update(port, case, w, g, state)
    for what, array, before in kept:
        same(port.numpy(array), before, f"{what}, after {len(case.grads)} steps", KEPT)


@property(
    "sgdm.no_aliasing",
    needs=(*NEEDS, MEMORY),
    cases=steps("sgdm", count=(1, 2), vary=("momentum", "gc_on")),
    share=2,
)
def no_aliasing(port: Port, case: Steps) -> None:
    """Overwriting the gradient or the old weights after a step changes neither the state nor the new weights."""
    no_sharing(port, case, "sgdm", update, ("momentum_buffer",))


def no_sharing(port: Port, case: Steps, rule: str, update: Any, fields: tuple[str, ...]) -> None:
    """After each step overwrite what went in; what came out must stay. Immutable arrays cannot alias."""
    w = port.array(case.w.fresh())
    state = port.call(f"{rule}_init", w, **case.init_options)
    for number, grad in enumerate(case.grads, 1):
        g, old = port.array(grad.fresh()), w
        w, state = update(port, case, w, g, state)
        results = {"w": w, **{name: getattr(state, name, None) for name in fields}}
        before = {name: port.numpy(a) for name, a in results.items() if a is not None}
        for array in (g, old):
            try:
                array[...] = 77
            except Exception:  # immutable
                continue
        for name, was in before.items():
            same(
                port.numpy(results[name]),
                was,
                f"{name} of step {number}, after its inputs were overwritten",
                "old = w; STEP; g[...] = old[...] = 77; print(w, state)",
            )


@property(
    "sgdm.keeps_shape_and_dtype",
    needs=NEEDS,
    cases=steps("sgdm", shapes=(*SHAPES, (1, 1), (5,)), vary=("momentum", "weight_decay"), axis=None),
)
def keeps_shape_and_dtype(port: Port, case: Steps) -> None:
    """Weights and momentum buffer keep the shape and dtype of w."""
    shapes_stay(port, case, "sgdm", update, ("momentum_buffer",))


def shapes_stay(port: Port, case: Steps, rule: str, update: Any, fields: tuple[str, ...]) -> None:
    """Shape, dtype and device of all that comes out are those of w."""
    w = start = port.array(case.w.fresh())
    state = port.call(f"{rule}_init", w, **case.init_options)
    for grad in case.grads:
        w, state = update(port, case, w, port.array(grad.fresh()), state)
        for name, array in {"w": w, **{name: getattr(state, name, None) for name in fields}}.items():
            if array is None:
                continue
            got = port.numpy(array)
            require(got.shape == case.w.shape, f"{name} has shape {got.shape}, and must have {case.w.shape}")
            require(got.dtype.name == case.w.dtype, f"{name} has dtype {got.dtype.name}, and must have {case.w.dtype}")
            was, now = (str(getattr(a, "device", "")) for a in (start, array))
            require(was == now, f"{name} is on device {now}, and must be on {was}")
