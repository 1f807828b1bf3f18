"""The paper's statements, held to the port itself (Yong, Huang, Hua, Zhang, ECCV 2020, arXiv 2004.01461)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
from hypothesis import strategies as st

from .. import oracle
from ..bounds import CONTEXT, Approx, decimals, working
from ..judge import agree, centralized, claimed, require
from ..port import Port
from ..registry import property
from ..strategies import MATRICES, TENSORS, Array, Gradient, Steps, gradients, pick, steps, written
from . import adam, sgdm


@st.composite
def _sizes(draw, port: Port) -> Gradient:
    n = pick(draw, (2, 3, 4, 7, 16))
    grad = written(np.arange(n) ** 2, "float64" if "float64" in port.dtypes else port.real_dtypes[0])
    return Gradient(grad, 0)


def _matrix(port: Port, n: int) -> np.ndarray:
    matrix = port.numpy(port.call("projection_matrix", n))
    require(matrix.shape == (n, n), f"projection_matrix({n}) has shape {matrix.shape}", f"port.projection_matrix({n})")
    return matrix


def _roundoff(matrix: np.ndarray) -> Any:
    return 4 * Decimal(float(np.finfo(matrix.dtype).eps))


@property("theory.projection_matrix", needs="projection_matrix", cases=_sizes)
def projection_matrix(port: Port, case: Gradient) -> None:
    """P = I - e e' with e = 1/sqrt(M): 1 - 1/M on the diagonal and -1/M elsewhere."""
    n = case.grad.shape[0]
    matrix = _matrix(port, n)
    away = abs(decimals(matrix) - (decimals(np.eye(n)) - 1 / Decimal(n)))
    require(bool(np.all(away <= _roundoff(matrix))), "P is not I - 1/M", f"port.projection_matrix({n})")


@property("theory.projection_identities", needs="projection_matrix", cases=_sizes)
def projection_identities(port: Port, case: Gradient) -> None:
    """P P = P = P' and P e = 0."""
    n = case.grad.shape[0]
    matrix = _matrix(port, n)
    p, slack = decimals(matrix), 3 * n * _roundoff(matrix)
    for name, residual in (("P P - P", p.dot(p) - p), ("P - P'", p - p.T), ("P 1", p.sum(1))):
        require(bool(np.all(abs(residual) <= slack)), f"{name} is not zero", f"port.projection_matrix({n})")


@property("theory.matrix_form", needs=("centralize", "projection_matrix"), cases=_sizes)
def matrix_form(port: Port, case: Gradient) -> None:
    """centralize(g) = P g: the vector form and the matrix form are one."""
    got, n = centralized(port, case), case.grad.shape[0]
    matrix = _matrix(port, n)
    slack = n * _roundoff(matrix) * abs(decimals(case.grad.value)).max()
    want = oracle.centralize(case.grad.value, 0, case.grad.dtype)
    product = decimals(matrix).dot(decimals(case.grad.value))
    agree(
        got,
        Approx(product, want.error + slack, want.precision),
        "centralize(grad, 0)",
        f"centralize(grad, 0), port.projection_matrix({n}) @ grad",
    )


@property("theory.norm_never_grows", needs="centralize", cases=gradients())
def norm_never_grows(port: Port, case: Gradient) -> None:
    """|centralize(g)| <= |g| (Theorem 4.2, of the gradient)."""
    got = decimals(centralized(port, case))
    bound = oracle.centralize(case.grad.value, case.axis, case.grad.dtype).error
    norm, was = (np.sum(x * x).sqrt(CONTEXT) for x in (got, decimals(case.grad.value)))
    require(
        norm <= was + np.sum(bound * bound).sqrt(CONTEXT),
        f"its norm is {float(norm)!r}, that of grad {float(was)!r}",
        "(centralize(grad, axis) ** 2).sum(), (grad ** 2).sum()",
    )


@st.composite
def _hessians(draw, port: Port) -> Gradient:
    case = draw(gradients(shapes=((3, 3), (4, 4), (7, 7)), kinds=("normal", "large mean"))(port))
    a = case.grad.expression
    return Gradient(Array(f"({a} + {a}.T)"), 0)


@property("theory.smoother_loss", needs="centralize", cases=_hessians)
def smoother_loss(port: Port, case: Gradient) -> None:
    """|P H| <= |H| in the spectral norm (Theorem 4.2, of the Hessian): each column of H is centralized."""
    got = centralized(port, case).astype(np.float64)
    error = oracle.centralize(case.grad.value, 0, case.grad.dtype).error.astype(np.float64)
    norm, was = np.linalg.norm(got, 2), np.linalg.norm(case.grad.value.astype(np.float64), 2)
    rounding = np.linalg.norm(error) + 50 * len(got) * np.finfo(np.float64).eps * was  # of the port, of the two norms
    require(
        bool(norm <= was + rounding),
        f"|P H| is {float(norm)!r}, |H| is {float(was)!r}",
        "np.linalg.norm(np.asarray(centralize(grad, 0), float), 2)",
    )


@property("theory.constant_does_not_matter", needs="centralize", cases=gradients(pair=True))
def constant_does_not_matter(port: Port, case: Gradient) -> None:
    """A constant added to a weight vector's gradient is gone after GC: P (g + c 1) = P g."""
    shifted = (case.grad.value.astype(np.float64) + 8).astype(case.grad.value.dtype)
    got = port.numpy(port.call("centralize", port.array(shifted.copy()), case.axis))
    want, other = (oracle.centralize(x, case.axis, case.grad.dtype) for x in (case.grad.value, shifted))
    lost = abs(decimals(shifted) - decimals(case.grad.value) - 8).max()
    agree(
        got,
        Approx(want.value, other.error + 2 * lost, want.precision),
        "centralize(grad + 8)",
        "centralize(grad + 8, axis)",
    )


def _means_stay(port: Port, case: Steps, rule: Any) -> None:
    """One step after another keeps the sum of each weight vector, to the error of its elements in that step."""
    w = port.array(case.w.fresh())
    state = port.call(f"{case.rule}_init", w, **case.init_options)
    over = oracle.axes_of(case.axis, len(case.w.shape))
    for number, grad in enumerate(case.grads, 1):
        was = port.numpy(w)
        before = sgdm.buffer(port, state) if rule is sgdm else adam.read(port, state)
        step = (
            oracle.sgdm(was, grad.value, before, case.w.dtype, axis=case.axis, **case.hyper)
            if rule is sgdm
            else oracle.adam(was, grad.value, *before, case.w.dtype, axis=case.axis, **case.hyper)
        )
        w, state = rule.update(port, case, w, port.array(grad.fresh()), state)
        moved = abs(decimals(port.numpy(w)).sum(over) - decimals(was).sum(over))
        require(
            bool(np.all(moved <= step[0].error.sum(over))),
            f"step {number} changes the mean of a weight vector",
            f"np.asarray(w).sum({over})",
        )


def _train(port: Port, case: Steps) -> tuple[np.ndarray, np.ndarray]:
    """The weights after SGDM from a fresh state, and the error that each may have gathered."""
    w = port.array(case.w.fresh())
    state = port.call("sgdm_init", w)
    for grad in case.grads:
        w, state = sgdm.update(port, case, w, port.array(grad.fresh()), state)
    got = port.numpy(w)
    require(got.shape == case.w.shape, f"w has shape {got.shape}, and must have {case.w.shape}")
    run = oracle.sgdm_run(case.w.value, [g.value for g in case.grads], case.w.dtype, axis=case.axis, **case.hyper)
    return got, run[-1].error


def _means_of_run(port: Port, case: Steps, shrink: float = 0.0) -> None:
    """After all steps the sum of each weight vector is (1 - shrink)^T times what it was."""
    got, error = _train(port, case)
    over = oracle.axes_of(case.axis, len(case.w.shape))
    want = decimals(case.w.value).sum(over) * (1 - Decimal(shrink)) ** len(case.grads)
    require(
        bool(np.all(abs(decimals(got).sum(over) - want) <= error.sum(over))),
        f"after {len(case.grads)} steps the mean of a weight vector is not what it must be",
        f"np.asarray(w).sum({over})",
    )


EXACT = ("float32", "float64")
WEIGHTS = MATRICES[:2] + MATRICES[4:] + TENSORS[:3]


@property(
    "theory.hyperplane",
    needs=sgdm.NEEDS,
    cases=steps("sgdm", shapes=WEIGHTS, count=(3, 8), vary=("momentum", "dampening", "nesterov"), dtypes=EXACT),
    share=0.5,
)
def hyperplane(port: Port, case: Steps) -> None:
    """Under SGDM with GC e'(w_t - w_0) = 0: training stays in a hyperplane through the initial weights."""
    claimed(case, "float32 or float64")
    _means_of_run(port, case)


@property(
    "theory.l2_decay_keeps_means",
    needs=sgdm.NEEDS,
    cases=steps("sgdm", shapes=WEIGHTS, count=(2, 4), vary=("momentum",), weight_decay=0.125, dtypes=EXACT),
    share=0.5,
)
def l2_decay_keeps_means(port: Port, case: Steps) -> None:
    """L2 decay inside GC changes no mean either."""
    claimed(case, "float32 or float64")
    _means_of_run(port, case)


@property(
    "theory.decoupled_decay_shrinks_means",
    needs=sgdm.NEEDS,
    cases=steps(
        "sgdm",
        shapes=WEIGHTS,
        count=(2, 4),
        vary=("momentum",),
        weight_decay=0.5,
        decoupled=True,
        lr=0.25,
        dtypes=EXACT,
    ),
    share=0.5,
)
def decoupled_decay_shrinks_means(port: Port, case: Steps) -> None:
    """Decoupled decay shrinks the mean of a weight vector by 1 - lr * weight_decay a step, and nothing else does."""
    claimed(case, "float32 or float64")
    _means_of_run(port, case, shrink=0.125)


@property(
    "theory.update_keeps_means_sgdm",
    needs=sgdm.NEEDS,
    cases=steps(
        "sgdm",
        shapes=WEIGHTS,
        count=(2, 4),
        gc_on="update",
        weight_decay=0.125,
        vary=("momentum", "decoupled"),
        dtypes=EXACT,
    ),
    share=0.5,
)
def update_keeps_means_sgdm(port: Port, case: Steps) -> None:
    """With gc_on="update" SGDM keeps all means, whatever the decay."""
    claimed(case, "float32 or float64")
    _means_stay(port, case, sgdm)


@property(
    "theory.update_keeps_means_adam",
    needs=adam.NEEDS,
    cases=steps(
        "adam",
        shapes=WEIGHTS,
        count=(2, 4),
        gc_on="update",
        vary=("weight_decay", "decoupled"),
        kinds=("normal",),
        dtypes=EXACT,
    ),
    share=1.0,
)
def update_keeps_means_adam(port: Port, case: Steps) -> None:
    """With gc_on="update" Adam keeps all means, which GC on the gradient does not."""
    claimed(case, "float32 or float64")
    _means_stay(port, case, adam)


@property(
    "theory.start_is_kept",
    needs=sgdm.NEEDS,
    cases=lambda port: steps("sgdm", count=(1, 1), dtypes=EXACT)(port).map(
        lambda case: (
            case
            and Steps("sgdm", case.w, (Array(f"np.zeros({case.w.shape}, {case.w.dtype!r})"),), case.axis, case.hyper)
        )
    ),
)
def start_is_kept(port: Port, case: Steps) -> None:
    """GC moves gradients, not weights: a zero gradient leaves pretrained weights, and their means, as they are."""
    claimed(case, "float32 or float64")
    sgdm.check_steps(port, case)


@property(
    "theory.output_shift",
    needs=sgdm.NEEDS,
    cases=steps("sgdm", shapes=MATRICES[:2] + MATRICES[4:], axis=(1,), count=(2, 4), dtypes=EXACT),
    share=0.5,
)
def output_shift(port: Port, case: Steps) -> None:
    """Theorem 4.1: a constant added to the input shifts the output by it times 1'w_0, however long the training."""
    claimed(case, "float32 or float64")
    got, error = _train(port, case)
    trained, x, gamma = decimals(got), decimals(np.arange(case.w.shape[1]) - 1.5), Decimal(3)
    shift = trained.dot(x + gamma) - trained.dot(x)
    want = gamma * decimals(case.w.value).sum(1)
    require(
        bool(np.all(abs(shift - want) <= gamma * error.sum(1))),
        "f(x + 3) - f(x) of the linear layer is not three times the sum of its initial weights",
        "np.asarray(w).sum(1)",
    )


@property(
    "theory.places_agree_for_sgdm",
    needs=sgdm.NEEDS,
    cases=steps("sgdm", shapes=WEIGHTS, count=(2, 4), vary=("momentum", "weight_decay"), dtypes=EXACT, gc_on="update"),
    share=0.5,
)
def places_agree_for_sgdm(port: Port, case: Steps) -> None:
    """Without decoupled decay SGDM takes the same path with GC on the gradient and on the update."""
    claimed(case, "float32 or float64")
    on_update, more = _train(port, case)
    hyper = {name: value for name, value in case.hyper.items() if name != "gc_on"}
    on_gradient, error = _train(port, Steps("sgdm", case.w, case.grads, case.axis, hyper))
    want = Approx(decimals(on_gradient), error + more, working(case.w.dtype))
    agree(on_update, want, "w with GC on the update, at ")
