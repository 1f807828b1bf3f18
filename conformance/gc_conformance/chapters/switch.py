"""Any optimizer with a switch for GC: no formula, but what must hold between its own runs, on and off.

    switched(params, layers, gc, **options)    builds it for these parameters, and returns an object with

        step(gradients)    one step. `gradients` is a function: it takes the parameters as they are, a dict by name, and
                           returns their gradients, a dict by name. An optimizer that evaluates its gradient again, as
                           sharpness-aware ones do, calls it again
        params()           the parameters as they are, a dict by name
        state()            optional: everything that it remembers, a dict of arrays

    params     a dict of arrays by name
    layers     what each parameter is, a dict by name of the words of the chapter `layers`: {"kind": "linear", "stored":
               "out in"}, with "part", "groups" and so on where they are not the default
    gc         "gradient": on; the gradient is centralized before anything else happens to it
               "update": on; the step is centralized instead
               "off": the same optimizer with its switch off
               None: the optimizer that it is without a switch, for instance the class that it extends
    options    weight_decay, in some properties; without it there must be none

What the port does not have is `NotImplementedError`. It may also declare, as attributes, the first being the default:

    layout              "out_first" or "out_last": how its framework stores weights
    decay               None: GC may stand before or after L2 decay; "l2": the decay is part of what is centralized, as
                        in the contract; "decoupled": it never is
    linear              False, or True: its step is linear in the gradients, as momentum's is
    centralizes         "all" weights, or "convolutions" alone
    changes_gradients   False, or True: it says that it overwrites the gradients that it is given
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np

from ..judge import claimed, same
from ..port import NotProvided, Port
from ..registry import property
from ..result import Violation
from ..switch_cases import MANY, cases, of_layers, vectors_only
from ..switch_runs import Case, Outcome, Session, agree, run

GC = 'run("gradient")'
ON_IS_OFF = "the same optimizer without GC gives that for the centralized gradients"


def relation(id: str, *, cases: Any, share: float = 1.0, basic: bool = False):
    """Register a check of this chapter. It is not judged in half precision, whose small numbers leave no room."""

    def register(check: Callable[[Port, Case], None]) -> Callable[[Port, Case], None]:
        @wraps(check)
        def judged(port: Port, case: Case) -> None:
            claimed(case, "float32 or float64")
            try:
                check(port, case)
            except Violation:
                stumbles(port, case)
                raise

        return property(f"switch.{id}", needs="switched", cases=cases, share=share, since=2, basic=basic)(judged)

    return register


def stumbles(port: Port, case: Case) -> None:
    """What an optimizer cannot do without GC either is none of GC's."""
    try:
        run(port, case, "off")
    except Violation as without:
        raise NotProvided(f"without GC, too: {without}") from without


def confirmed(port: Port, case: Case, check: Any) -> None:
    """Where gradients are rounded from the weights, a roundoff may move one: then it does so on one grid alone."""
    try:
        check(case)
    except Violation as first:
        if not case.bends:
            raise
        try:
            check(replace(case, shift=0.25))
        except Violation:
            raise first from None


def on_is_off(port: Port, case: Case, *, state: bool = False) -> None:
    def check(case: Case) -> None:
        got = run(port, case, "gradient")
        if state and got.state is None:
            raise NotProvided("the state is not shown")
        show = 'run("gradient", state=True), run("off", phi, state=True)' if state else None
        agree(port, case, got, ("off", case.phi), ON_IS_OFF, state=state, show=show)

    confirmed(port, case, check)


@relation("switches", share=0.25, cases=cases(steps=(6,)))
def switches(port: Port, case: Case) -> None:
    """On differs from off, where the mean of a weight vector's gradient is not zero."""
    on, off = run(port, case, "gradient"), run(port, case, "off")
    moved = {name for name in case.centralized() if not np.array_equal(on.params[-1][name], off.params[-1][name])}
    for name in case.weights:
        if name in case.centralized() and name not in moved:
            was = off.params[-1][name]
            still = np.array_equal(was, case.weights[name].value)
            if still:
                raise NotProvided("it does not move")
            raise Violation(
                f"{name} is the same after {len(case.grads)} steps, GC on or off", 'run("gradient"), run("off")'
            )


@relation("off_is_plain", share=0.5, cases=cases(steps=(2, 3)))
def off_is_plain(port: Port, case: Case) -> None:
    """Off, it does what the optimizer does that has no switch."""
    got = run(port, case, "off")
    agree(port, case, got, (None, None), "the optimizer without a switch gives that", show='run("off"), run(None)')


@relation("first_step", share=0.5, basic=True, cases=cases(steps=(1,)))
def first_step(port: Port, case: Case) -> None:
    """The first step with GC is the step without GC of the centralized gradient."""
    on_is_off(port, case)


@relation("later_steps", share=0.5, cases=cases(steps=(2, 3, 4)))
def later_steps(port: Port, case: Case) -> None:
    """Later steps with GC, too, are those without GC of the centralized gradients."""
    on_is_off(port, case)


@relation("many_steps", share=0.2, cases=cases(steps=(MANY,), count=(1, 1)))
def many_steps(port: Port, case: Case) -> None:
    """So are many steps: past what happens every few steps, and past a warm-up."""
    on_is_off(port, case)


@relation("state", share=0.25, cases=cases(steps=(1, 2, 4)))
def state(port: Port, case: Case) -> None:
    """The state with GC is the state without GC of the centralized gradients."""
    on_is_off(port, case, state=True)


@relation("large_gradients", share=0.5, cases=cases(scale="large", steps=(1, 3)))
def large_gradients(port: Port, case: Case) -> None:
    """Gradients are centralized before they are clipped, by whatever norm."""
    on_is_off(port, case)


@relation("small_gradients", share=0.5, cases=cases(scale="small", steps=(1, 3)))
def small_gradients(port: Port, case: Case) -> None:
    """Gradients are centralized before they are normalized or scaled."""
    on_is_off(port, case)


@relation("gradients_of_weights", share=0.5, cases=cases(bends=True, steps=(1, 3, 4)))
def gradients_of_weights(port: Port, case: Case) -> None:
    """Where the gradient is a function of the weights, each evaluation of it is centralized, and used so."""
    on_is_off(port, case)


@relation("constant_does_not_matter", share=0.5, cases=cases(steps=(1, 3)))
def constant_does_not_matter(port: Port, case: Case) -> None:
    """A constant added to the gradient of each weight vector changes nothing."""

    def shifted(name: str, g: np.ndarray, w: np.ndarray) -> np.ndarray:
        return g + 8 * case.layers[name].mean(g) if case.layers[name].over else g

    show = 'run("gradient"), run("gradient", lambda n, g, w: g + 8 * (g - phi(n, g, w)))'
    why = "GC gives that for the gradients plus eight times their means"
    agree(port, case, run(port, case, "gradient"), ("gradient", shifted), why, show=show)


@relation("centralized_already", share=0.25, cases=cases(steps=(1, 3)))
def centralized_already(port: Port, case: Case) -> None:
    """For gradients that are centralized already, on is off."""
    got = run(port, case, "gradient", case.phi)
    agree(port, case, got, ("off", case.phi), ON_IS_OFF, show='run("gradient", phi), run("off", phi)')


@relation("vectors_step_as_off", share=0.25, cases=vectors_only)
def vectors_step_as_off(port: Port, case: Case) -> None:
    """Biases and the scales of norms step as they do without GC."""
    on_is_off(port, case)


@relation("zero_gradients", share=0.25, cases=cases(steps=(3, 4), zero=(1, 2)))
def zero_gradients(port: Port, case: Case) -> None:
    """After a step, zero gradients move the weights as they do without GC."""
    on_is_off(port, case)


@relation("decay", share=0.5, cases=cases(steps=(1, 2, 4), weight_decay=0.125))
def decay(port: Port, case: Case) -> None:
    """Weight decay is that of the optimizer without GC; L2 decay may also be centralized with the gradient."""
    decays(port, case)


@relation("decay_alone", share=0.25, cases=cases(steps=(1, 3), zero=range(4), weight_decay=0.125))
def decay_alone(port: Port, case: Case) -> None:
    """With zero gradients the decay alone moves the weights, as it does without GC."""
    decays(port, case)


def decays(port: Port, case: Case) -> None:
    """On is off of Phi(g), the decay being left alone, or of what adds up to Phi(g + decay w)."""
    rate, declared = case.options["weight_decay"], port.declared["decay"]

    def within(name: str, g: np.ndarray, w: np.ndarray) -> np.ndarray:
        return case.layers[name].centralized(g + rate * w) - rate * w if case.layers[name].over else g

    got = run(port, case, "gradient")
    if declared == "l2":
        shown = f'run("gradient"), run("off", lambda n, g, w: phi(n, g + {rate} * w, w) - {rate} * w)'
        why = f"the decay is part of what is centralized, Phi(g + {rate} w)"
        return agree(port, case, got, ("off", within), why, show=shown)
    try:
        return agree(port, case, got, ("off", case.phi), f"{ON_IS_OFF}, and the decay is not centralized")
    except Violation as apart:
        if declared == "decoupled":
            raise
        try:
            return agree(port, case, got, ("off", within), "")
        except Violation:
            raise apart from None


LINEAR_KINDS = ("linear", "bilinear", "conv1d", "conv2d", "conv3d", "lstm", "gru")
SPECIAL = ("orthogonal", "weight_norm_magnitude", "depthwise_1x1", "linear_fan_in_one", "linear_out_last_fan_in_one")


def _linear_ids() -> tuple[str, ...]:
    from .layers import ROWS

    return tuple(row.id for row in ROWS if row.kind in LINEAR_KINDS and row.over and "stack" not in row.stored)


@relation("linear_layers", cases=of_layers(ids=_linear_ids()))
def linear_layers(port: Port, case: Case) -> None:
    """Weights of linear, convolutional and recurrent layers are centralized, each over its own fan-in."""
    on_is_off(port, case)


TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


@relation("transposed_convolutions", share=0.5, cases=of_layers(kinds=TRANSPOSED))
def transposed_convolutions(port: Port, case: Case) -> None:
    """Weights of transposed convolutions are centralized over their fan-in, which their first axis is part of."""
    on_is_off(port, case)


@relation(
    "fan_in_one",
    share=0.5,
    cases=of_layers(ids=("depthwise_1x1", "linear_fan_in_one", "linear_out_last_fan_in_one", "layer_scale")),
)
def fan_in_one(port: Port, case: Case) -> None:
    """Where the fan-in is 1 parameters step as without GC, which would freeze them."""
    on_is_off(port, case)


@relation(
    "embeddings",
    share=0.5,
    cases=of_layers(kinds=("embedding", "position_embedding", "class_token", "relative_position_table")),
)
def embeddings(port: Port, case: Case) -> None:
    """Embeddings, of tokens or positions, step as they do without GC."""
    on_is_off(port, case)


@relation("order_of_parameters", share=0.5, cases=cases(steps=(1, 2), count=(2, 3), vectors=True))
def order_of_parameters(port: Port, case: Case) -> None:
    """Parameters in another order step as they did: none hangs on which came before it."""
    order = list(reversed(case.weights))
    couples(port, case, order, list(case.weights), "the parameters being in another order")


@relation("alone_or_among_others", share=0.5, cases=cases(steps=(1, 2), count=(2, 3)))
def alone_or_among_others(port: Port, case: Case) -> None:
    """A parameter alone steps as it does among others, if it does so without GC."""
    for name in case.weights:
        couples(port, case, [name], [name], f"{name} being the only parameter")


def couples(port: Port, case: Case, order: list[str], names: list[str], how: str) -> None:
    """Judged where the optimizer without GC gives the same in both ways: some clip by the norm of all gradients."""
    try:
        agree(port, case, run(port, case, "off", case.phi, names=order), ("off", case.phi), "", names=names)
    except Violation as couples:
        raise NotProvided("without GC, too, what a parameter does hangs on the others") from couples
    got = run(port, case, "gradient", names=order)
    show = f"{GC}, run('gradient', names={order})"
    agree(port, case, got, ("gradient", None), f"it was that, {how}", names=names, show=show)


@relation("instances_apart", share=0.25, cases=cases(steps=(2, 3)))
def instances_apart(port: Port, case: Case) -> None:
    """Two optimizers with GC share nothing: steps of one do not reach the other."""
    one, other = Session(port, case, "gradient"), Session(port, case, "gradient", lambda n, g, w: -3 * g)
    got = []
    for _ in case.grads:
        got.append(one.step())
        other.step()
    agree(port, case, Outcome(tuple(got)), ("off", case.phi), f"{ON_IS_OFF}, whatever a second optimizer does")


@relation("gradients_unchanged", share=0.25, cases=cases(steps=(1, 2)))
def gradients_unchanged(port: Port, case: Case) -> None:
    """The gradients are after the step what they were, unless the port declares that it changes them."""
    if port.declared["changes_gradients"]:
        raise NotProvided("it declares that it overwrites gradients")
    session = Session(port, case, "gradient")
    for _ in case.grads:
        session.step()
        for name, given, before in session.given:
            same(port.numpy(given), before, f"the gradient of {name} after the step", 'run("gradient")')


@relation("sums_conserved", share=0.5, cases=cases(steps=(1, 2, 4), bends=True))
def sums_conserved(port: Port, case: Case) -> None:
    """Where the step is linear in the gradients, the sum of each weight vector stays what it was."""
    if not port.declared["linear"]:
        raise NotProvided("its step is not declared to be linear in the gradients")
    conserved(port, case, "gradient")


@relation("update_conserves_sums", share=0.5, cases=cases(steps=(1, 3), bends=True, place="update"))
def update_conserves_sums(port: Port, case: Case) -> None:
    """With GC on the update, the sum of each weight vector stays what it was, whatever the optimizer."""
    conserved(port, case, "update")


@relation(
    "update_conserves_sums_with_decay",
    share=0.25,
    cases=cases(steps=(1, 3), place="update", weight_decay=0.125),
)
def update_conserves_sums_with_decay(port: Port, case: Case) -> None:
    """With GC on the update, the decay is part of what is centralized: the sums stay."""
    if port.declared["decay"] == "decoupled":
        raise NotProvided("its decay is declared to stand outside of GC")
    conserved(port, case, "update")


def conserved(port: Port, case: Case, gc: str) -> None:
    """The mean of M weights moves by at most a roundoff a weight and operation in each step."""
    start = {name: a.value.astype(np.float64) for name, a in case.weights.items()}
    got = run(port, case, gc)
    for number, params in enumerate(got.params):
        for name in case.centralized():
            layer, w = case.layers[name], params[name].astype(np.float64)
            largest = float(max(abs(w).max(), abs(start[name]).max(), abs(w - start[name]).max()))
            u = float(np.finfo(case.weights[name].dtype).eps) / 2
            allowed = 8 * (number + 1) * (layer.fan_in(w.shape) + 4) * u * largest
            moved = layer.mean(w) - layer.mean(start[name])
            if not np.all(abs(moved) <= allowed):
                at = tuple(int(i) for i in np.argwhere(~(abs(moved) <= allowed))[0])
                drift = float(moved[at])
                message = (
                    f"the mean of the weight vector at {name}{list(at)} has moved by {drift!r} in {number + 1} steps"
                )
                raise Violation(message, f'run("{gc}")')


@relation("update_is_centralized", share=0.5, cases=cases(steps=(1,), place="update"))
def update_is_centralized(port: Port, case: Case) -> None:
    """With GC on the update, the first step is the centralized step without GC."""
    got, off = run(port, case, "update"), run(port, case, "off")
    for name, layer in case.layers.items():
        start = case.weights[name].value.astype(np.float64)
        step = off.params[0][name].astype(np.float64) - start
        want = start + layer.centralized(step)
        u = float(np.finfo(case.weights[name].dtype).eps) / 2
        scale = abs(start) + abs(step) + layer.mean(abs(start) + abs(step))
        allowed = 8 * (layer.fan_in(start.shape) + 4) * u * scale
        wrong = ~(abs(got.params[0][name].astype(np.float64) - want) <= allowed)
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            is_, must = float(got.params[0][name][at]), float(want[at])
            shown = 'run("update"), {n: w + phi(n, run("off")[0][n] - w, w) for n, w in weights.items()}'
            raise Violation(
                f"{name}{list(at)} after step 1 is {is_!r}, and must be {must!r} within {allowed[at]:.1e}", shown
            )
