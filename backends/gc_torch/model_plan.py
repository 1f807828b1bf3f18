"""A plan that knows the parameters it speaks of: what an optimizer takes as `plan`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import ref

from torch import Tensor, nn

from gc_core.plan import Overrides, Plan, Row
from gc_torch.tree import named_parameters, named_views


class ModelPlan(Plan):
    """A plan that knows the parameters it speaks of, not only their names: what an optimizer takes as `plan`.

    It keeps neither the parameters nor the model alive.

    Args:
        rows: one Row per parameter.
        parameters: the parameters, by the names of the rows.
        model: whose plan it is, a module or several, so that it can be asked `again`.
        overrides: those that the rows have already.

    >>> layer = nn.Linear(3, 2)
    >>> plan_by_layers(layer).row_of(layer.weight).axes
    (1,)
    """

    def __init__(
        self,
        rows: Iterable[Row],
        parameters: Mapping[str, Tensor],
        model: "nn.Module | Sequence[nn.Module] | None" = None,
        overrides: Overrides | None = None,
    ):
        super().__init__(rows)
        self._overrides = dict(overrides or {})
        self._several = not (model is None or isinstance(model, nn.Module))
        models = [] if model is None else [model] if isinstance(model, nn.Module) else list(model)
        self._models = [ref(one) for one in models]
        self._layers: Mapping[str, Row] = self  # what layers said, before a batch or overrides said otherwise
        # By id(), and where the model has it: PyTorch swaps no tensor to which there are weak references.
        names = {id(parameters[row.name]): row.name for row in self.rows if row.name in parameters}
        self._known: dict[int, _Place] = {key: _Place(name, None, "") for key, name in names.items()}
        for module in (module for one in models for module in one.modules()):
            for local, p in module._parameters.items():
                if p is not None and id(p) in names:
                    self._known[id(p)] = _Place(names[id(p)], ref(module), local)

    def row_of(self, parameter: Tensor) -> Row | None:
        """The row of a parameter; None if the plan was made without it, or if its layer has another one now."""
        place = self._known.get(id(parameter))
        return self[place.name] if place is not None and place.has(parameter) else None

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Those that the model still has, by the names of their rows."""
        there = {place.name: (key, place.parameter) for key, place in self._known.items()}
        return {
            name: parameter
            for name, (key, parameter) in there.items()
            if parameter is not None and id(parameter) == key
        }

    @property
    def model(self) -> "nn.Module | list[nn.Module] | None":
        """Whose plan it is, a module or several; None if one lives no more, or none was given."""
        models = [one() for one in self._models]
        living = [one for one in models if one is not None]
        if not models or len(living) < len(models):
            return None
        return living if self._several else living[0]

    @property
    def modules(self) -> "list[nn.Module]":
        """All modules of the model; none if it lives no more."""
        model = self.model
        models = [] if model is None else [model] if isinstance(model, nn.Module) else model
        return [module for one in models for module in one.modules()]

    def again(self) -> "ModelPlan":
        """The plan of the model as it is now: of parameters that were replaced, added, frozen or unfrozen since.

        A row stays what it was read as (by a batch, or an override) where the layers say of its name what they said
        before, and the shape is the same. If the model lives no more, this is the plan itself.

        >>> model = nn.Sequential(nn.Linear(3, 2))
        >>> before = plan_by_layers(model).override({"0.weight": 0})
        >>> model[0].weight = nn.Parameter(model[0].weight.detach().clone())
        >>> before.row_of(model[0].weight), before.again().row_of(model[0].weight).axes
        (None, (0,))
        """
        model = self.model
        if model is None:
            return self
        fresh = plan_by_layers(model)
        asked = fresh.override({name: value for name, value in self._overrides.items() if fresh.matches(name)})
        rows = []
        for row in asked.rows:
            before, now = self._layers.get(row.name), fresh[row.name]
            if row.name in self and before is not None and before[:4] == now[:4]:  # name, shape, view, axes
                row = self[row.name]._replace(frozen=row.frozen)
            rows.append(row)
        return asked.with_rows(rows, self._overrides)

    def override(self, overrides: Overrides | None) -> "ModelPlan":
        return self.with_rows(super().override(overrides).rows, {**self._overrides, **(overrides or {})})

    def with_rows(self, rows: Iterable[Row], overrides: Overrides | None = None) -> "ModelPlan":
        """This plan with rows that say something else of the same parameters."""
        made = ModelPlan(rows, {}, None, self._overrides if overrides is None else overrides)
        made._models, made._several, made._known, made._layers = self._models, self._several, self._known, self._layers
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {"rows": self.rows, "overrides": self._overrides, "parameters": self.parameters}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ModelPlan.__init__(self, state["rows"], state["parameters"], None, state["overrides"])

    def __deepcopy__(self, memo: dict[int, Any]) -> "ModelPlan":
        model = None if self._several else memo.get(id(self.model))
        parameters = {} if model is None else named_parameters(model)
        return ModelPlan(self.rows, parameters, model, self._overrides)


class _Place(NamedTuple):
    """Where a parameter is."""

    name: str  # of its row
    owner: ref[nn.Module] | None
    local: str  # its name in the owner

    @property
    def parameter(self) -> Tensor | None:
        owner = None if self.owner is None else self.owner()
        return None if owner is None else parameter_of(owner, self.local)

    def has(self, parameter: Tensor) -> bool:
        """Whether the parameter is there. If its layer lives no more, the same id() may be that of another one."""
        return self.owner is None or self.parameter is parameter


def plan_by_layers(model: "nn.Module | Sequence[nn.Module]") -> ModelPlan:
    """The plan of a model by what its layers say, without a word of warning."""
    root = one_module(model)
    parameters = named_parameters(root)
    found = named_views(root, parameters)
    return ModelPlan([_row(name, parameter, found[name]) for name, parameter in parameters.items()], parameters, model)


def one_module(model: Any) -> nn.Module:
    """A model, or several as one, whose names then begin with their places.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, (list, tuple)) and model and all(isinstance(one, nn.Module) for one in model):
        return nn.ModuleList(model)
    raise TypeError(
        f"model must be a torch.nn.Module, or a list of them; got {type(model).__module__}.{type(model).__qualname__}"
    )


def parameter_of(layer: nn.Module, local: str) -> Tensor | None:
    """A layer's own parameter by its name; scripted layers keep them in no dict."""
    own = layer._parameters
    return own[local] if local in own else None  # noqa: SIM401


def _row(name: str, parameter: Tensor, view: Any) -> Row:
    return Row(name, tuple(parameter.shape), view.shape, view.axes, view.why, frozen=not parameter.requires_grad)
