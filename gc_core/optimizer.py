"""SGD, Adam and AdamW over a dict of arrays: the updates, with a state for each parameter."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from gc_core import checks, low_precision
from gc_core.adam import AdamState, adam_init, adam_update
from gc_core.arrays import NUMPY
from gc_core.sgdm import SGDMState, sgdm_init, sgdm_update

Axes = Mapping[str, int | tuple[int, ...] | None]


class Optimizer:
    """What the three optimizers share: every parameter is updated, or none.

    A subclass names the functions it drives; `hyper` holds their options and may be changed between steps.
    """

    framework: ClassVar[checks.Framework] = NUMPY
    ways: ClassVar[tuple[str, ...]] = checks.WAYS  # of low precision, that it has

    def __init__(
        self,
        params: dict[str, Any],
        axes: Axes,
        *,
        low_precision: checks.Way | None = None,
        seed: int = 0,
        **hyper: Any,
    ):
        if not isinstance(params, dict):
            raise TypeError(f"params must be a dict of arrays by name; got {type(params).__qualname__}")
        for name, w in params.items():
            checks.array(self.framework, f"params[{name!r}]", w)
        _same_names("axes", axes, params)
        self.params = params
        self.axes: dict[str, tuple[int, ...] | None] = {
            name: checks.axis(axes[name], w.shape, f"axes[{name!r}]") for name, w in params.items()
        }
        self.check(**hyper)
        self.hyper: dict[str, Any] = hyper
        self._set_way(low_precision, seed)
        self.kept: dict[str, Any] = {}  # by name: what rounding has cut off, or the number of random roundings
        self.state: dict[str, Any] = {}
        for name, w in params.items():
            with _naming(name):
                self.state[name] = self.init(w)

    def check(self, **hyper: Any) -> None:
        """Raise if an option is wrong."""
        raise NotImplementedError

    def init(self, w: Any) -> Any:
        """The state of one parameter before its first update."""
        raise NotImplementedError

    def update(self, w: Any, grad: Any, state: Any, axis: tuple[int, ...] | None) -> tuple[Any, Any]:
        """One parameter's new value and state."""
        raise NotImplementedError

    def _set_way(self, way: str | None, seed: int) -> None:
        checks.low_precision(way)
        if way is not None and way not in self.ways:
            raise NotImplementedError(f"low_precision={way!r} is not provided by {type(self).__module__}")
        self.low_precision: str | None = way
        self.seed: int = checks.seed(seed)

    def step(self, grads: Mapping[str, Any]) -> None:
        """Update every parameter that has a gradient.

        Args:
            grads: gradients by name, for every parameter; None for one to leave as it is.

        Raises:
            TypeError, ValueError: as the update functions do; then no parameter and no state has changed.
        """
        for name, (w, state, kept) in self.updates(grads).items():
            self.params[name], self.state[name] = w, state
            if kept is not None:
                self.kept[name] = kept

    def updates(self, grads: Mapping[str, Any]) -> dict[str, tuple[Any, Any, Any]]:
        """The new value, state and what else is kept, by name, of what has a gradient; nothing is changed yet."""
        _same_names("grads", grads, self.params)
        new = {}
        for name, grad in grads.items():
            if grad is not None:
                with _naming(name):
                    new[name] = self._update(name, self.params[name], grad, self.state[name], self.axes[name])
        return new

    def _update(self, name: str, w: Any, grad: Any, state: Any, axis: Any) -> tuple[Any, Any, Any]:
        if self.low_precision is None or not low_precision.is_low(w.dtype):
            return *self.update(w, grad, state, axis), None
        checks.tensors(self.framework, w, grad, state, type(state))

        def update(w, grad, state):
            return self.update(w, grad, state, axis)

        if self.low_precision == "kahan":
            compensation = self.kept.get(name, np.zeros_like(w))
            w, compensation, state = low_precision.kahan_update(update, w, compensation, grad, state)
            return w, state, compensation
        count = self.kept.get(name, 0) + 1
        stream = low_precision.stream(self.seed, 0, list(self.params).index(name))
        bits = low_precision.random_bits(stream, count, np.arange(w.size).reshape(w.shape))
        return *low_precision.stochastic_update(update, w, grad, state, bits), count

    def state_dict(self) -> dict[str, Any]:
        """The options and every parameter's state: {"hyper": {…}, "state": {name: {field: value}}}.

        With low_precision also {"low_precision": {"way": …, "seed": …, "kept": {name: …}}}.
        """
        saved: dict[str, Any] = {
            "hyper": dict(self.hyper),
            "state": {name: state._asdict() for name, state in self.state.items()},
        }
        if self.low_precision is not None or self.kept:
            saved["low_precision"] = {"way": self.low_precision, "seed": self.seed, "kept": dict(self.kept)}
        return saved

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up a `state_dict()`. The axes stay those of this optimizer; its options become those of the other one.

        One without low_precision changes nothing of it here: nothing has been cut off yet.

        Raises:
            TypeError, ValueError: it is not the state of this kind of optimizer, or names, shapes or dtypes differ;
                then nothing has changed.
        """
        if not isinstance(state_dict, Mapping) or not {"hyper", "state"} <= state_dict.keys():
            raise TypeError("state_dict must be what state_dict() gave: a dict with 'hyper' and 'state'")
        hyper, states = state_dict["hyper"], state_dict["state"]
        _same_names("state_dict['hyper']", hyper, self.hyper)
        _same_names("state_dict['state']", states, self.params)
        self.check(**hyper)
        new = {}
        for name, fields in states.items():
            w, state_type = self.params[name], type(self.state[name])
            _same_names(f"state_dict['state'][{name!r}]", fields, state_type._fields)
            with _naming(name):
                checks.tensors(self.framework, w, w, state_type(**fields), state_type)
                if "step" in fields:
                    checks.count("state.step", fields["step"])
                    checks.amsgrad_state(hyper["amsgrad"], fields["max_exp_avg_sq"])
            new[name] = state_type(
                **{field: value.copy() if hasattr(value, "shape") else value for field, value in fields.items()}
            )
        low = state_dict.get("low_precision")
        if low is not None:
            some = {**dict.fromkeys(self.params), **low["kept"]}  # it need not be there for each
            _same_names("state_dict['low_precision']['kept']", some, self.params)
            for name, kept in low["kept"].items():
                if hasattr(kept, "shape"):
                    checks.like(self.framework, self.params[name], f"the compensation of {name}", kept)
            self._set_way(low["way"], low["seed"])
        self.kept = {} if low is None else dict(low["kept"])
        self.hyper, self.state = dict(hyper), new

    def __repr__(self) -> str:
        low = {} if self.low_precision is None else {"low_precision": self.low_precision, "seed": self.seed}
        options = ", ".join(f"{name}={value!r}" for name, value in {**self.hyper, **low}.items())
        on = sum(axis is not None for axis in self.axes.values())
        return f"{type(self).__name__}({options}) with GC on {on} of {len(self.axes)} parameters"


@contextmanager
def _naming(parameter: str) -> Iterator[None]:
    """Put the parameter's name in front of an error about it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{parameter}: {error}") from None


def _same_names(what: str, got: Any, wanted: Any) -> None:
    if not isinstance(got, Mapping):
        raise TypeError(f"{what} must be a dict with the names {sorted(wanted)}; got {type(got).__qualname__}")
    missing, unknown = sorted(set(wanted) - set(got)), sorted(set(got) - set(wanted))
    if missing or unknown:
        raise ValueError(
            f"{what} must have the names {sorted(wanted)}"
            + (f"; {missing} missing" if missing else "")
            + (f"; {unknown} unknown" if unknown else "")
        )


class SGD(Optimizer):
    """GC-SGDM over a dict of arrays; the options are those of `sgdm_update`.

    Formula: that of `sgdm_update`, for each parameter.

    Args:
        params: arrays by name; `step` puts new arrays in their place in this dict.
        axes: fan-in axes by name, for every parameter; None: no GC.
        lr, momentum, dampening, nesterov, weight_decay, decoupled, gc_on: see `sgdm_update`.
        low_precision: for weights in float16 and bfloat16: "kahan" or "stochastic", see module `low_precision`; None:
            to the nearest.
        seed: of the random numbers.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.

    >>> import numpy as np
    >>> params = {"w": np.array([[1.0, 3.0]]), "b": np.array([1.0])}
    >>> optimizer = SGD(params, {"w": 1, "b": None}, lr=0.5)
    >>> optimizer.step({"w": np.array([[2.0, 4.0]]), "b": np.array([1.0])})
    >>> params
    {'w': array([[1.5, 2.5]]), 'b': array([0.5])}

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 1.
    """

    def __init__(
        self,
        params: dict[str, np.ndarray],
        axes: Axes,
        *,
        lr: float,
        momentum: float = 0.9,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        gc_on: checks.Place = "gradient",
        low_precision: checks.Way | None = None,
        seed: int = 0,
    ):
        super().__init__(
            params,
            axes,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            nesterov=nesterov,
            weight_decay=weight_decay,
            decoupled=decoupled,
            gc_on=gc_on,
            low_precision=low_precision,
            seed=seed,
        )

    def check(self, **hyper: Any) -> None:
        checks.sgdm(**hyper)

    def init(self, w: np.ndarray) -> SGDMState:
        return sgdm_init(w)

    def update(self, w: Any, grad: Any, state: Any, axis: tuple[int, ...] | None) -> tuple[Any, Any]:
        return sgdm_update(w, grad, state, axis=axis, **self.hyper)


class Adam(Optimizer):
    """GC-Adam over a dict of arrays; the options are those of `adam_update`.

    Formula: that of `adam_update`, for each parameter; weight_decay is L2, added to the gradient.

    Args:
        params: arrays by name; `step` puts new arrays in their place in this dict.
        axes: fan-in axes by name, for every parameter; None: no GC.
        lr, betas, eps, weight_decay, amsgrad, gc_on: see `adam_update`.
        low_precision, seed: see `SGD`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.

    >>> import numpy as np
    >>> params = {"w": np.array([[1.0, 3.0]])}
    >>> Adam(params, {"w": 1}, lr=0.5, eps=0.0).step({"w": np.array([[2.0, 4.0]])})
    >>> params
    {'w': array([[1.5, 2.5]])}

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2.
    """

    decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: dict[str, np.ndarray],
        axes: Axes,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        gc_on: checks.Place = "gradient",
        low_precision: checks.Way | None = None,
        seed: int = 0,
    ):
        super().__init__(
            params, axes, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, gc_on=gc_on,
            low_precision=low_precision, seed=seed,
        )  # fmt: skip

    def check(self, **hyper: Any) -> None:
        checks.adam(decoupled=self.decoupled, **hyper)

    def init(self, w: np.ndarray) -> AdamState:
        return adam_init(w, amsgrad=self.hyper["amsgrad"])

    def update(self, w: Any, grad: Any, state: Any, axis: tuple[int, ...] | None) -> tuple[Any, Any]:
        return adam_update(w, grad, state, axis=axis, decoupled=self.decoupled, **self.hyper)


class AdamW(Adam):
    """GC-AdamW over a dict of arrays: GC-Adam whose weight decay is added to the step.

    Formula: that of `adam_update` with `decoupled=True`, for each parameter.

    Args:
        params: arrays by name; `step` puts new arrays in their place in this dict.
        axes: fan-in axes by name, for every parameter; None: no GC.
        lr, betas, eps, weight_decay, amsgrad, gc_on: see `adam_update`; weight_decay is 0.01 as in PyTorch.
        low_precision, seed: see `SGD`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.

    >>> import numpy as np
    >>> params = {"w": np.array([[2.0, 4.0]])}
    >>> AdamW(params, {"w": 1}, lr=0.5, eps=0.0, weight_decay=0.5).step({"w": np.array([[2.0, 4.0]])})
    >>> params
    {'w': array([[2. , 2.5]])}

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2, with the decay of AdamW.
    """

    decoupled: ClassVar[bool] = True

    def __init__(
        self,
        params: dict[str, np.ndarray],
        axes: Axes,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        gc_on: checks.Place = "gradient",
        low_precision: checks.Way | None = None,
        seed: int = 0,
    ):
        super().__init__(
            params, axes, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, gc_on=gc_on,
            low_precision=low_precision, seed=seed,
        )  # fmt: skip
