"""SGD, Adam and AdamW over a dict of arrays: the updates in place, parameters of like shapes in one launch."""

from collections.abc import Mapping
from typing import Any, ClassVar

from gc_core import checks
from gc_core import optimizer as core
from gc_core.adam import AdamState
from gc_core.sgdm import SGDMState
from gc_cupy import adam, kernels, sgdm
from gc_cupy.arrays import CUPY


class InPlace(core.Optimizer):
    """What the three optimizers share: the arrays stay the same ones, and every launch is prepared before the first."""

    framework: ClassVar[checks.Framework] = CUPY
    ways: ClassVar[tuple[str, ...]] = ()  # weights are rounded to the nearest

    def step(self, grads: Mapping[str, Any]) -> None:
        """Update every parameter that has a gradient, in place.

        Args:
            grads: gradients by name, for every parameter; None for one to leave as it is.

        Raises:
            TypeError, ValueError: as the update functions do; then no parameter and no state has changed.
        """
        prepared = self.updates(grads)
        kernels.run([launch for launch, _, _ in prepared.values()])
        self.state.update({name: state for name, (_, state, _) in prepared.items()})

    def state_dict(self) -> dict[str, Any]:
        """The options and a copy of every parameter's state: {"hyper": {…}, "state": {name: {field: value}}}."""
        copied = super().state_dict()
        for fields in copied["state"].values():
            fields.update({name: value.copy() for name, value in fields.items() if CUPY.is_array(value)})
        return copied


class SGD(InPlace, core.SGD):
    """GC-SGDM over a dict of arrays, in place; the options are those of `sgdm_update`.

    Formula: that of `sgdm_update`, for each parameter.

    Args:
        params: arrays by name, each changed in place by `step`.
        axes: fan-in axes by name, for every parameter; None: no GC.
        lr, momentum, dampening, nesterov, weight_decay, decoupled, gc_on: see `sgdm_update`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.

    >>> import cupy as cp
    >>> params = {"w": cp.array([[1.0, 3.0]]), "b": cp.array([1.0])}
    >>> optimizer = SGD(params, {"w": 1, "b": None}, lr=0.5)
    >>> optimizer.step({"w": cp.array([[2.0, 4.0]]), "b": cp.array([1.0])})
    >>> params
    {'w': array([[1.5, 2.5]]), 'b': array([0.5])}

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 1.
    """

    def init(self, w: Any) -> SGDMState:
        return sgdm.sgdm_init(w)

    def update(self, w, grad, state, axis):
        launch, _, state = sgdm.prepare(w, grad, state, in_place=True, axis=axis, **self.hyper)
        return launch, state


class Adam(InPlace, core.Adam):
    """GC-Adam over a dict of arrays, in place; the options are those of `adam_update`.

    Formula: that of `adam_update`, for each parameter; weight_decay is L2, added to the gradient.

    Args:
        params: arrays by name, each changed in place by `step`.
        axes: fan-in axes by name, for every parameter; None: no GC.
        lr, betas, eps, weight_decay, amsgrad, gc_on: see `adam_update`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.

    >>> import cupy as cp
    >>> params = {"w": cp.array([[1.0, 3.0]])}
    >>> Adam(params, {"w": 1}, lr=0.5, eps=0.0).step({"w": cp.array([[2.0, 4.0]])})
    >>> params
    {'w': array([[1.5, 2.5]])}

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2.
    """

    def init(self, w: Any) -> AdamState:
        return adam.adam_init(w, amsgrad=self.hyper["amsgrad"])

    def update(self, w, grad, state, axis):
        launch, _, state = adam.prepare(
            w, grad, state, in_place=True, axis=axis, decoupled=self.decoupled, **self.hyper
        )
        return launch, state


class AdamW(Adam, core.AdamW):
    """GC-AdamW over a dict of arrays, in place: GC-Adam whose weight decay is added to the step.

    Formula: that of `adam_update` with `decoupled=True`, for each parameter.

    Args:
        params: arrays by name, each changed in place by `step`.
        axes: fan-in axes by name, for every parameter; None: no GC.
        lr, betas, eps, weight_decay, amsgrad, gc_on: see `adam_update`; weight_decay is 0.01 as in PyTorch.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.

    >>> import cupy as cp
    >>> params = {"w": cp.array([[2.0, 4.0]])}
    >>> AdamW(params, {"w": 1}, lr=0.5, eps=0.0, weight_decay=0.5).step({"w": cp.array([[2.0, 4.0]])})
    >>> params
    {'w': array([[2. , 2.5]])}

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2, with the decay of AdamW.
    """
