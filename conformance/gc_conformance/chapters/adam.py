"""Adam: adam_init and adam_update, step by step.

    g <- grad + weight_decay w        unless decoupled
    g <- centralize(g)                if gc_on == "gradient"
    t <- t + 1 ;  m <- beta1 m + (1 - beta1) g ;  v <- beta2 v + (1 - beta2) g g ;  with amsgrad: vmax <- max(vmax, v)
    d <- (m / (1 - beta1^t)) / (sqrt(v or vmax) / sqrt(1 - beta2^t) + eps)
    d <- d + weight_decay w           if decoupled
    d <- centralize(d)                if gc_on == "update"
    w <- w - lr d

Every step is judged from the state that the port itself returned before it. m and v are judged tightly; the error of a
centralized gradient is carried on to w through 1 / (sqrt(v) + eps), which on nearly constant rows is a whole step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from .. import oracle
from ..bounds import Approx, working
from ..judge import agree, claimed, require, same
from ..port import MEMORY, Port
from ..registry import property
from ..result import Violation
from ..strategies import LAYOUTS, SHAPES, Array, Steps, steps
from .sgdm import inputs_stay, no_sharing, shapes_stay

NEEDS = ("adam_init", "adam_update")
FIELDS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def read(port: Port, state: Any) -> tuple[int, np.ndarray, np.ndarray, np.ndarray | None]:
    for name in ("step", *FIELDS):
        if not hasattr(state, name):
            raise Violation(f"the state is a {type(state).__name__}, and must have the field {name}")
    largest = None if state.max_exp_avg_sq is None else port.numpy(state.max_exp_avg_sq)
    return count(port, state), port.numpy(state.exp_avg), port.numpy(state.exp_avg_sq), largest


def count(port: Port, state: Any) -> int:
    step = state.step if isinstance(state.step, int) else port.numpy(state.step)
    require(np.ndim(step) == 0 and int(step) == step, f"step is {step!r}, and must be an integer")
    return int(step)


def update(port: Port, case: Steps, w: Any, grad: Any, state: Any) -> tuple[Any, Any]:
    result = port.call("adam_update", w, grad, state, axis=case.axis, **case.hyper)
    require(isinstance(result, tuple) and len(result) == 2, "adam_update must return (w, state)")
    return result


def check_steps(port: Port, case: Steps, judged: tuple[str, ...] = ("w", *FIELDS)) -> None:
    """Every weight and every field of the state, of those judged, is within its bound at every step."""
    w = port.array(case.w.fresh())
    state = port.call("adam_init", w, **case.init_options)
    options = {k: v for k, v in case.hyper.items() if k != "amsgrad"}
    for number, grad in enumerate(case.grads, 1):
        was, before = port.numpy(w), read(port, state)
        require(before[0] == number - 1, f"step is {before[0]} after {number - 1} steps")
        if not all(np.isfinite(a.astype(float)).all() for a in (was, *before[1:]) if a is not None):
            return  # the squares have overflowed
        w, state = update(port, case, w, port.array(grad.fresh()), state)
        after = read(port, state)
        require(
            (after[3] is not None) == bool(case.init_options),
            "max_exp_avg_sq must be there with amsgrad, and be None without",
        )
        want = oracle.adam(was, grad.value, *before, case.w.dtype, axis=case.axis, **options)
        for name, got, exact in zip(("w", *FIELDS), (port.numpy(w), *after[1:]), want, strict=True):
            if name in judged and got is not None and exact is not None:
                agree(got, exact, f"{name} after step {number}, at ")
    require(count(port, state) == len(case.grads), f"step is {count(port, state)} after {len(case.grads)} steps")


@property("adam.init", needs="adam_init", cases=steps("adam"))
def init(port: Port, case: Steps) -> None:
    """The state starts with step 0 and zeros like w, without max_exp_avg_sq."""
    step, m, v, largest = read(port, port.call("adam_init", port.array(case.w.fresh())))
    require(step == 0, f"step of adam_init(w) is {step}, and must be 0", "port.adam_init(w)")
    require(largest is None, "max_exp_avg_sq of adam_init(w) must be None", "port.adam_init(w)")
    for name, field in (("exp_avg", m), ("exp_avg_sq", v)):
        same(field, np.zeros_like(case.w.value, order="C"), f"{name} of adam_init(w)", "port.adam_init(w)")


@property("adam.rule", basic=True, needs=NEEDS, cases=steps("adam"))
def rule(port: Port, case: Steps) -> None:
    """Algorithm 2 of the paper: Adam of the centralized gradient."""
    check_steps(port, case)


@property("adam.first_moment", needs=NEEDS, cases=steps("adam", kinds=("large mean", "normal")))
def first_moment(port: Port, case: Steps) -> None:
    """exp_avg averages the centralized gradient."""
    check_steps(port, case, judged=("exp_avg",))


@property("adam.second_moment", needs=NEEDS, cases=steps("adam", kinds=("large mean", "normal")))
def second_moment(port: Port, case: Steps) -> None:
    """exp_avg_sq averages the square of the centralized gradient, not of the raw one."""
    check_steps(port, case, judged=("exp_avg_sq",))


@property("adam.step_counts", needs=NEEDS, cases=steps("adam", count=(1, 4), shapes=((3, 2), (2, 3, 4))))
def step_counts(port: Port, case: Steps) -> None:
    """step counts the updates."""
    check_steps(port, case, judged=())


@property("adam.first_step", needs=NEEDS, cases=steps("adam", count=(1, 1), kinds=("normal",)))
def first_step(port: Port, case: Steps) -> None:
    """On the first step the bias corrections are 1 - beta, and the step is g / (|g| + eps)."""
    check_steps(port, case)


@property(
    "adam.bias_correction",
    needs=NEEDS,
    cases=steps("adam", count=(3, 6), shapes=((3, 2), (2, 3, 4)), kinds=("normal",)),
)
def bias_correction(port: Port, case: Steps) -> None:
    """Step t divides m by 1 - beta1^t and sqrt(v) by sqrt(1 - beta2^t)."""
    check_steps(port, case)


@property(
    "adam.bias_correction_is_exact",
    needs=NEEDS,
    cases=steps(
        "adam",
        count=(3, 6),
        shapes=((3, 2), (2, 3, 4)),
        kinds=("normal",),
        dtypes=("float32", "float64"),
        axis=None,
        lr=1.0,
        betas=(0.984375, 1 - 2.0**-13),
    ),
)
def bias_correction_is_exact(port: Port, case: Steps) -> None:
    """Bias corrections lose nothing to cancellation: -expm1(t log beta), or float64, and not 1 - beta^t in float32.

    From the port's own new m and v, with w = 0 and lr = 1, only the bias corrections and six operations stand between
    the state and w: some 35 roundoffs, 2e-6 of w in float32. With beta2 = 1 - 2^-13 a 1 - beta2^t in float32 is off by
    up to 2^-25 / (t 2^-13), a step by half of that: 1e-5 and more of w. Both betas are exact in every dtype.
    """
    claimed(case, "float32 or float64")
    w = port.array(np.zeros_like(case.w.value))
    state = port.call("adam_init", w)
    for number, grad in enumerate(case.grads, 1):
        w = port.array(np.zeros_like(case.w.value))
        w, state = update(port, case, w, port.array(grad.fresh()), state)
        _, m, v, _ = read(port, state)
        precision = working(case.w.dtype)
        moments = (Approx.exact(a, precision).widened(1) for a in (m, v))
        d = oracle.adam_direction(*moments, number, case.hyper["betas"], 1e-8)
        agree(port.numpy(w), -d, f"w after step {number}, from w = 0, at ")


@property("adam.betas", needs=NEEDS, cases=steps("adam", betas=(0.5, 0.75), count=(2, 4), kinds=("normal",)))
def betas(port: Port, case: Steps) -> None:
    """betas[0] is for the first moment, betas[1] for the second."""
    check_steps(port, case)


@property("adam.zero_betas", needs=NEEDS, cases=steps("adam", betas=(0.0, 0.0), kinds=("normal",)))
def zero_betas(port: Port, case: Steps) -> None:
    """Betas of zero remember nothing: each step is g / (|g| + eps)."""
    check_steps(port, case)


@property("adam.eps", needs=NEEDS, cases=steps("adam", eps=0.5, kinds=("normal",), count=(1, 4)))
def eps(port: Port, case: Steps) -> None:
    """eps is added to sqrt(v) after its bias correction: not inside the root, not scaled."""
    check_steps(port, case)


@property(
    "adam.zero_gradient",
    needs=NEEDS,
    cases=lambda port: st.sampled_from(port.real_dtypes).map(
        lambda dtype: Steps(
            "adam",
            Array(f"np.ones((2, 3), {dtype!r})"),
            (Array(f"np.zeros((2, 3), {dtype!r})"),) * 2,
            (1,),
            {"lr": 0.5},
        )
    ),
)
def zero_gradient(port: Port, case: Steps) -> None:
    """A gradient of zero leaves the weights where they are: eps keeps 0 / 0 away."""
    check_steps(port, case)


@property("adam.learning_rate", needs=NEEDS, cases=steps("adam", count=(1, 2), kinds=("normal",)))
def learning_rate(port: Port, case: Steps) -> None:
    """The learning rate scales the step once."""
    check_steps(port, case)


@property("adam.zero_learning_rate", needs=NEEDS, cases=steps("adam", lr=0.0))
def zero_learning_rate(port: Port, case: Steps) -> None:
    """With a learning rate of zero the weights stay and the moments still gather."""
    check_steps(port, case)


@st.composite
def _bare(draw, port: Port) -> Steps:
    case = draw(steps("adam", count=(2, 3), kinds=("normal", "large mean"), lr=1e-3, betas=(0.9, 0.999))(port))
    return Steps("adam", case.w, case.grads, case.axis, {})


@property("adam.defaults", needs=NEEDS, cases=_bare)
def defaults(port: Port, case: Steps) -> None:
    """What is not given is lr 1e-3, betas (0.9, 0.999), eps 1e-8, no decay, no AMSGrad, GC on the gradient."""
    check_steps(port, case)


@property("adam.l2_decay", needs=NEEDS, cases=steps("adam", weight_decay=0.125, kinds=("normal",)))
def l2_decay(port: Port, case: Steps) -> None:
    """L2 decay is added to the gradient before GC, so it is centralized and enters both moments."""
    check_steps(port, case)


@property(
    "adam.decoupled_decay",
    needs=NEEDS,
    cases=steps("adam", weight_decay=0.125, decoupled=True, kinds=("normal",), count=(1, 4)),
)
def decoupled_decay(port: Port, case: Steps) -> None:
    """Decoupled decay (AdamW) takes lr * weight_decay of w: not centralized, not bias-corrected, not divided by v."""
    check_steps(port, case)


@property(
    "adam.gc_on_update",
    needs=NEEDS,
    cases=steps("adam", gc_on="update", vary=("weight_decay", "decoupled"), kinds=("large mean", "normal")),
)
def gc_on_update(port: Port, case: Steps) -> None:
    """gc_on="update" centralizes the step, decay included, and leaves the gradient and both moments as they are."""
    check_steps(port, case)


@st.composite
def _falling(draw, port: Port) -> Steps:
    """Gradients that shrink: the maximum of v lies in the past."""
    case = draw(steps("adam", amsgrad=True, count=(3, 3), kinds=("normal",), betas=(0.5, 0.5))(port))
    scaled = (Array(f"({g.expression} / {10**n}).astype({g.dtype!r})") for n, g in enumerate(case.grads))
    return Steps("adam", case.w, tuple(scaled), case.axis, case.hyper)


@property("adam.amsgrad", needs=NEEDS, cases=_falling)
def amsgrad(port: Port, case: Steps) -> None:
    """AMSGrad divides by the largest v so far."""
    check_steps(port, case, judged=("w",))


@property("adam.amsgrad_state", needs=NEEDS, cases=_falling)
def amsgrad_state(port: Port, case: Steps) -> None:
    """max_exp_avg_sq keeps the elementwise maximum of exp_avg_sq, which itself goes on falling."""
    check_steps(port, case, judged=("exp_avg_sq", "max_exp_avg_sq"))


@property(
    "adam.no_axis",
    needs=NEEDS,
    cases=steps(
        "adam",
        axis=None,
        shapes=((5,), *SHAPES),
        vary=("weight_decay", "decoupled", "amsgrad", "gc_on"),
        kinds=("normal",),
    ),
)
def no_axis(port: Port, case: Steps) -> None:
    """With axis=None it is plain Adam or AdamW."""
    check_steps(port, case)


@property(
    "adam.all_options",
    needs=NEEDS,
    cases=steps("adam", count=(1, 4), vary=("eps", "weight_decay", "decoupled", "amsgrad", "gc_on")),
)
def all_options(port: Port, case: Steps) -> None:
    """All options work together."""
    check_steps(port, case)


@property(
    "adam.memory_layouts", needs=(*NEEDS, MEMORY), cases=steps("adam", layouts=tuple(LAYOUTS), vary=("weight_decay",))
)
def memory_layouts(port: Port, case: Steps) -> None:
    """Weights and gradients may lie in memory in different ways."""
    check_steps(port, case)


@property(
    "adam.empty",
    needs=NEEDS,
    cases=lambda port: st.sampled_from(port.real_dtypes).map(
        lambda dtype: Steps(
            "adam", Array(f"np.zeros((3, 0), {dtype!r})"), (Array(f"np.zeros((3, 0), {dtype!r})"),), (1,), {"lr": 0.5}
        )
    ),
)
def empty(port: Port, case: Steps) -> None:
    """An empty weight takes an empty step."""
    with port.may_refuse("empty arrays"):
        check_steps(port, case)


@property(
    "adam.inputs_unchanged",
    needs=(*NEEDS, MEMORY),
    cases=steps("adam", count=(2, 3), vary=("weight_decay", "decoupled", "amsgrad", "gc_on")),
)
def inputs_unchanged(port: Port, case: Steps) -> None:
    """Neither w, nor any gradient, nor any earlier state is changed."""
    inputs_stay(port, case, "adam", update, FIELDS)


@property("adam.no_aliasing", needs=(*NEEDS, MEMORY), cases=steps("adam", count=(1, 2), vary=("amsgrad", "gc_on")))
def no_aliasing(port: Port, case: Steps) -> None:
    """Overwriting the gradient or the old weights after a step changes neither the state nor the new weights."""
    no_sharing(port, case, "adam", update, FIELDS)


@property(
    "adam.keeps_shape_and_dtype",
    needs=NEEDS,
    cases=steps("adam", shapes=(*SHAPES, (1, 1), (5,)), vary=("weight_decay", "amsgrad"), axis=None),
)
def keeps_shape_and_dtype(port: Port, case: Steps) -> None:
    """Weights and moments keep the shape and dtype of w."""
    shapes_stay(port, case, "adam", update, FIELDS)
