"""A plan that knows the parameters it speaks of, and keeps nothing alive; and the one that a model's layers make."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any
from weakref import ref

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from gc_core.layouts import View
from gc_core.plan import Overrides, Plan, Row
from gc_torch.tree import by_shape, named_parameters, named_views


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
        models = [] if model is None else [model] if isinstance(model, nn.Module) else model
        self._models = [ref(one) for one in models]
        self._names = WeakTensorKeyDictionary()
        for row in self.rows:
            if row.name in parameters:
                self._names[parameters[row.name]] = row.name

    def row_of(self, parameter: Tensor) -> Row | None:
        """The row of a parameter; None if the plan was made without it."""
        name = self._names.get(parameter)
        return None if name is None else self[name]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Those that still live, by the names of their rows."""
        living = {name: parameter for parameter, name in self._names.items()}
        return {name: living[name] for name in self if name in living}

    @property
    def model(self) -> "nn.Module | list[nn.Module] | None":
        """Whose plan it is, a module or several; None if one lives no more, or none was given."""
        models = [one() for one in self._models]
        living = [one for one in models if one is not None]
        if not models or len(living) < len(models):
            return None
        return living if self._several else living[0]

    def again(self) -> "ModelPlan":
        """The plan of the model as it is now: of parameters that were replaced, added, frozen or unfrozen since.

        A row stays what it was read as (by a batch, or an override) where a parameter of its name and shape is there.
        If the model lives no more, this is the plan itself.

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
        fresh = fresh.override({name: value for name, value in self._overrides.items() if fresh.matches(name)})
        rows = []
        for row in fresh.rows:
            before = self.get(row.name)
            if before is not None and before.shape == row.shape:
                row = before._replace(frozen=row.frozen)
            rows.append(row)
        return ModelPlan(rows, fresh.parameters, model, self._overrides)

    def override(self, overrides: Overrides | None) -> "ModelPlan":
        rows = super().override(overrides).rows
        return ModelPlan(rows, self.parameters, self.model, {**self._overrides, **(overrides or {})})

    def of_parameters(self, parameters: Mapping[str, Tensor]) -> "ModelPlan":
        """This plan, of other parameters by these names."""
        return ModelPlan(self.rows, {**self.parameters, **parameters}, self.model, self._overrides)

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> "ModelPlan":
        """This plan with more parameters, about which nothing but the shape is known: the rule "out_first"."""
        rows = [_row(name, parameter, by_shape(name, parameter)) for name, parameter in parameters.items()]
        return ModelPlan([*self.rows, *rows], {**self.parameters, **parameters}, self.model, self._overrides)

    def __getstate__(self) -> dict[str, Any]:
        return {"rows": self.rows, "parameters": self.parameters, "overrides": self._overrides}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ModelPlan.__init__(self, state["rows"], state["parameters"], None, state["overrides"])

    def __deepcopy__(self, memo: dict[int, Any]) -> "ModelPlan":
        parameters = {name: deepcopy(parameter, memo) for name, parameter in self.parameters.items()}
        model = None if self._several else memo.get(id(self.model))
        copied = ModelPlan(self.rows, parameters, model, self._overrides)
        memo.setdefault(id(memo), []).append(parameters)  # as deepcopy does: they must live until it is done
        return copied


def one_module(model: Any) -> nn.Module:
    """A model as one module, or an error that says what it must be."""
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, (list, tuple)) and model and all(isinstance(one, nn.Module) for one in model):
        return nn.ModuleList(model)
    raise TypeError(
        f"model must be a torch.nn.Module, or a list of them; got {type(model).__module__}.{type(model).__qualname__}"
    )


def plan_by_layers(model: "nn.Module | Sequence[nn.Module]") -> ModelPlan:
    """The plan of a model by its layers alone, with no warning: what an optimizer makes of a model that it is given."""
    root = one_module(model)
    parameters = named_parameters(root)
    found = named_views(root, parameters)
    return ModelPlan([_row(name, parameter, found[name]) for name, parameter in parameters.items()], parameters, model)


def _row(name: str, parameter: Tensor, view: View) -> Row:
    return Row(name, tuple(parameter.shape), view.shape, view.axes, view.why, frozen=not parameter.requires_grad)
