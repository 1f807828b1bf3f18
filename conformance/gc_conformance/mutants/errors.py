"""Ports that say nothing, or the wrong thing, where they must raise."""

from __future__ import annotations

import numpy as np

from ..honest import Stateful, Straight
from ..registry import PROPERTIES
from .register import mutant


class Vague(Straight):
    """Raises the right error with a message that says nothing."""

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if name.startswith("_") or not callable(value):
            return value

        def vague(*args, **options):
            try:
                return value(*args, **options)
            except (TypeError, ValueError) as error:
                raise type(error)("invalid argument") from None

        return vague


class Careless(Straight):
    """Checks nothing: whatever NumPy makes of the arguments is the result."""

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if name.startswith("_") or not callable(value):
            return value

        def careless(*args, **options):
            try:
                return value(*args, **options)
            except (TypeError, ValueError):
                return args[0] if args else None

        return careless


VAGUE = ("object_array", "nesterov", "learning_rate", "momentum", "betas", "eps", "weight_decay", "gc_on", "layout")
for _id, _prop in list(PROPERTIES.items()):
    if _prop.chapter == "errors" and not _prop.needs:
        _short = _id.split(".")[1]
        if _short not in ("states_are_named_tuples",):
            mutant(_id, f"Accepts_{_short}")(Careless)
        if _short in VAGUE and _short != "object_array":
            mutant(_id, f"Vague_{_short}")(Vague)


@mutant("errors.complex_refused_by_name")
class ComplexRefusedInRiddles(Vague):
    """Refuses complex numbers without saying so."""


@mutant("errors.unknown_keyword")
class SwallowsKeywords(Straight):
    """Takes any keyword, so that a misspelled one does nothing."""

    def centralize(self, grad, axis, **ignored):
        return super().centralize(grad, axis)


@mutant("errors.axis_has_no_default")
class DefaultAxis(Straight):
    """Has None for a default axis, which switches GC off."""

    def centralize(self, grad, axis=None):
        return super().centralize(grad, axis)


@mutant("errors.states_are_named_tuples")
class StatesAreDicts(Straight):
    """Keeps its state in an object without fields."""

    def sgdm_init(self, w):
        return type("State", (), {"momentum_buffer": np.zeros_like(w)})()


@mutant("errors.no_warning_for_non_finite", "WarnsOfNaN")
@mutant("errors.no_warning_for_empty", "WarnsOfEmpty")
class Warns(Straight):
    """Lets NumPy's warnings through."""

    def _center(self, x, axes):
        return x.copy() if axes is None else x - x.mean(axes, keepdims=True)


@mutant("errors.no_warning_at_all")
class AlwaysWarns(Straight):
    """Warns of its own age."""

    def centralize(self, grad, axis):
        import warnings

        warnings.warn("use another function", DeprecationWarning, stacklevel=2)
        return super().centralize(grad, axis)


@mutant("errors.nothing_partly_applied")
class AppliesOneByOne(Stateful):
    """Updates parameter by parameter, and raises in the middle."""

    def step(self, grads):
        update = getattr(self.port, f"{self.rule}_update")
        for name, w in self.values.items():
            self.values[name], self.states[name] = update(
                w, grads[name], self.states[name], axis=self.axes[name], **self.hyper
            )


@mutant("errors.nothing_partly_applied")
class CountsFailedSteps(Stateful):
    """Counts a step that fails."""

    def step(self, grads):
        if self.rule == "adam":
            self.states = {name: state._replace(step=state.step + 1) for name, state in self.states.items()}
            before = {name: state._replace(step=state.step - 1) for name, state in self.states.items()}
            update = self.port.adam_update
            done = {n: update(w, grads[n], before[n], axis=self.axes[n], **self.hyper) for n, w in self.values.items()}
            for name, (w, state) in done.items():
                self.values[name], self.states[name] = w, state
        else:
            super().step(grads)


@mutant("errors.bad_gradient_refused")
class SkipsBadGradients(Stateful):
    """Skips a parameter whose gradient does not fit."""

    def step(self, grads):
        fits = {n: isinstance(g, np.ndarray) and g.shape == self.values[n].shape for n, g in grads.items()}
        super().step({n: grads[n] if fits[n] else np.zeros_like(w) for n, w in self.values.items()})


@mutant("errors.optimizer_options")
class OptionsUnchecked(Stateful):
    """Takes any option, and steps with it."""

    def step(self, grads):
        pass
