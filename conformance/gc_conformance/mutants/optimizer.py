"""Wrong stateful optimizers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..honest import Stateful
from .register import mutant


class Rewrites(Stateful):
    """Changes what it was asked for."""

    def change(self, kind: str, axes: dict, hyper: dict) -> str:
        return kind

    def __init__(self, port, kind, params, axes, hyper):
        axes, hyper = dict(axes), dict(hyper)
        super().__init__(port, self.change(kind, axes, hyper), params, axes, hyper)


def loses(**fixed: Any) -> type[Rewrites]:
    """An optimizer that gives these options their values, whatever was asked."""

    class Loses(Rewrites):
        def change(self, kind, axes, hyper):
            hyper.update({k: v for k, v in fixed.items() if k in hyper})
            return kind

    return Loses


mutant("optimizer.nesterov", "OptimizerDropsNesterov", "Loses nesterov on the way.")(loses(nesterov=False))
mutant("optimizer.no_momentum", "OptimizerDropsMomentum", "Has momentum when there must be none.")(loses(momentum=0.9))
mutant("optimizer.betas_and_eps", "OptimizerDropsBetas", "Loses betas on the way.")(loses(betas=(0.9, 0.999)))
mutant("optimizer.betas_and_eps", "OptimizerDropsEps", "Loses eps on the way.")(loses(eps=1e-8))
mutant("optimizer.amsgrad", "OptimizerDropsAMSGrad", "Loses amsgrad on the way.")(loses(amsgrad=False))
mutant("optimizer.gc_on_update", "OptimizerDropsPlace", "Loses gc_on on the way.")(loses(gc_on="gradient"))
mutant("optimizer.l2_decay", "OptimizerDropsDecay", "Loses the L2 decay on the way.")(loses(weight_decay=0.0))
mutant("optimizer.adamw_without_decay", "OptimizerDefaultDecay", "Takes a decay of 0 for none given.")(
    loses(weight_decay=0.01)
)
mutant("optimizer.sgd", "OptimizerDropsRate", "Has a learning rate of its own.")(loses(lr=0.1))


@mutant("optimizer.adamw")
class AdamWDecaysL2(Rewrites):
    """Makes AdamW an Adam with L2."""

    def change(self, kind, axes, hyper):
        return "adam" if kind == "adamw" else kind


@mutant("optimizer.gradients_are_centralized")
class OverrideNeverCalled(Rewrites):
    """Overrides a method that nobody calls: GC never happens."""

    def change(self, kind, axes, hyper):
        axes.update(dict.fromkeys(axes))
        return kind

    def get_gradients(self, grads):
        return {name: self.port.centralize(g, self.axes[name]) for name, g in grads.items()}


@mutant("optimizer.no_axes_no_gc")
class AxesByRank(Rewrites):
    """Takes the axes from the rank of the parameter."""

    def __init__(self, port, kind, params, axes, hyper):
        super().__init__(port, kind, params, {n: tuple(range(1, w.ndim)) or None for n, w in params.items()}, hyper)


@mutant("optimizer.adam")
class OneStepCountForAll(Stateful):
    """Counts one step a parameter instead of one a call."""

    count = 0

    def step(self, grads):
        for name, state in self.states.items():
            if self.rule == "adam":
                self.states[name] = state._replace(step=self.count)
                self.count += 1
        super().step(grads)


@mutant("optimizer.dampening")
class SecretlyUndamped(Stateful):
    """Starts undamped without declaring it."""

    def step(self, grads):
        fresh = not any(state.momentum_buffer.any() for state in self.states.values()) if self.rule == "sgdm" else False
        asked = self.hyper.get("dampening", 0.0)
        self.hyper["dampening"] = 0.0 if fresh else asked
        super().step(grads)
        self.hyper["dampening"] = asked


@mutant("optimizer.many_steps")
class ForgetsState(Stateful):
    """Loses its state at the sixth step."""

    steps = 0

    def step(self, grads):
        self.steps += 1
        if self.steps == 6:
            self.states = {name: self.init(w) for name, w in self.values.items()}
        super().step(grads)


@mutant("optimizer.parameters_apart")
class StateByShape(Stateful):
    """Keeps its state by shape, so that parameters of one shape share it."""

    def step(self, grads):
        update = getattr(self.port, f"{self.rule}_update")
        for name, w in self.values.items():
            owner = next(n for n, other in self.values.items() if other.shape == w.shape)
            self.values[name], self.states[owner] = update(
                w, grads[name], self.states[owner], axis=self.axes[name], **self.hyper
            )


@mutant("optimizer.instances_apart")
class StateOfTheClass(Stateful):
    """Keeps its state where every optimizer finds it."""

    def __init__(self, port, kind, params, axes, hyper):
        super().__init__(port, kind, params, axes, hyper)
        key = repr((kind, *((n, w.shape, w.dtype.name) for n, w in params.items())))
        self.states = vars(port).setdefault(key, self.states)


@mutant("optimizer.names_decide")
class PairsByOrder(Stateful):
    """Pairs parameters and gradients by their order."""

    def step(self, grads):
        names = [name for name in self.values if self.values[name].ndim > 1]
        given = [grads[name] for name in grads if name in names]
        super().step({**grads, **dict(zip(names, given, strict=True))})


@mutant("optimizer.grads_unchanged")
class DecaysGradients(Stateful):
    """Adds the L2 decay to the gradients in place."""

    def step(self, grads):
        for name, w in self.values.items():
            grads[name] += self.hyper.get("weight_decay", 0) * w
        decay, self.hyper["weight_decay"] = self.hyper.get("weight_decay", 0), 0.0
        super().step(grads)
        self.hyper["weight_decay"] = decay


@mutant("optimizer.no_aliasing")
class KeepsGradients(Stateful):
    """Steps once more with the gradients it has kept, just before it is read."""

    def step(self, grads):
        self.kept = grads

    def params(self):
        super().step(self.kept)
        return super().params()


@mutant("optimizer.keeps_shape_and_dtype")
class WideParameters(Stateful):
    """Hands out its parameters in float64."""

    def params(self):
        return {name: w.astype(np.float64) for name, w in self.values.items()}


@mutant("optimizer.sgd_keeps_means")
class DecaysOutside(Stateful):
    """Decays the weights after the step."""

    def step(self, grads):
        decay, self.hyper["weight_decay"] = self.hyper.get("weight_decay", 0), 0.0
        before = {name: w.copy() for name, w in self.values.items()}
        super().step(grads)
        self.hyper["weight_decay"] = decay
        for name, w in before.items():
            self.values[name] = (self.values[name] - self.hyper["lr"] * decay * w).astype(w.dtype)


@mutant("optimizer.biases_left_alone")
class CentralizesBiases(Stateful):
    """Centralizes biases, too."""

    def step(self, grads):
        super().step({name: g - g.mean() if self.axes[name] is None else g for name, g in grads.items()})
