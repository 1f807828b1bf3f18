"""The plan of a PyTorch model: which layer each parameter belongs to, and so what GC does to it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from weakref import ref

from torch import Tensor, nn
from torch.nn.utils import parametrize

from gc_core import layouts
from gc_core.layouts import View
from gc_core.plan import Overrides, Plan, Row
from gc_core.reasons import Reason, Why, reason_of
from gc_torch.layers import refuse_shapeless, view_of
from gc_torch.verify import Batch, prove


class ModelPlan(Plan):
    """A plan that knows the parameters it speaks of, not only their names: what an optimizer takes as `plan`.

    It keeps neither the parameters nor the model alive.

    Args:
        rows: one Row per parameter.
        parameters: the parameters, by the names of the rows.
        model: whose plan it is, so that it can be asked `again`.
        overrides: those that the rows have already.

    >>> layer = nn.Linear(3, 2)
    >>> plan(layer).row_of(layer.weight).axes
    (1,)
    """

    def __init__(
        self,
        rows: Iterable[Row],
        parameters: Mapping[str, Tensor],
        model: nn.Module | None = None,
        overrides: Overrides | None = None,
    ):
        super().__init__(rows)
        self._overrides = dict(overrides or {})
        self._model = None if model is None else ref(model)
        # By id(), and where the model has it: PyTorch swaps no tensor to which there are weak references.
        names = {id(parameters[row.name]): row.name for row in self.rows if row.name in parameters}
        self._known: dict[int, _Place] = {key: _Place(name, None, "") for key, name in names.items()}
        for module in () if model is None else model.modules():
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
        found = {}
        for key, place in self._known.items():
            parameter = place.parameter
            if parameter is not None and id(parameter) == key:
                found[place.name] = parameter
        return found

    @property
    def model(self) -> nn.Module | None:
        """Whose plan it is; None if it lives no more, or was not given."""
        return None if self._model is None else self._model()

    def again(self) -> "ModelPlan":
        """The plan of the model as it is now: of parameters that were replaced, added, frozen or unfrozen since.

        A row stays what it was read as (by a batch, or an override) where the layers say of its name what they said
        before, and the shape is the same. If the model lives no more, this is the plan itself.

        >>> model = nn.Sequential(nn.Linear(3, 2))
        >>> before = plan(model, {"0.weight": 0})
        >>> model[0].weight = nn.Parameter(model[0].weight.detach().clone())
        >>> before.row_of(model[0].weight), before.again().row_of(model[0].weight).axes
        (None, (0,))
        """
        model = self.model
        if model is None:
            return self
        parameters = named_parameters(model)
        fresh = _of_layers(model, parameters)
        asked = fresh.override({name: value for name, value in self._overrides.items() if fresh.matches(name)})
        asked._layers = {row.name: row for row in fresh.rows}
        rows = [self[row.name]._replace(frozen=row.frozen) if self._still(asked, row) else row for row in asked.rows]
        return asked._with(rows, self._overrides)

    def _still(self, fresh: "ModelPlan", row: Row) -> bool:
        """Whether layers say of a parameter what they said when this plan was made."""
        now, before = fresh._layers.get(row.name), self._layers.get(row.name)
        return row.name in self and now is not None and before is not None and now[:4] == before[:4]

    _layers: Mapping[str, Row] = {}  # what layers said of each parameter, before a batch or overrides said otherwise

    def _with(self, rows: Iterable[Row], overrides: Overrides | None = None) -> "ModelPlan":
        """This plan with other rows for the same parameters."""
        made = ModelPlan(rows, {}, self.model, self._overrides if overrides is None else overrides)
        made._known, made._layers = self._known, self._layers
        return made

    def override(self, overrides: Overrides | None) -> "ModelPlan":
        return self._with(super().override(overrides).rows, {**self._overrides, **(overrides or {})})

    def of_parameters(self, parameters: Mapping[str, Tensor]) -> "ModelPlan":
        """This plan, of other parameters by these names."""
        return ModelPlan(self.rows, {**self.parameters, **parameters}, None, self._overrides)

    def with_proofs(self, rows: Iterable[Row]) -> "ModelPlan":
        """This plan with rows that say more."""
        return self._with(rows)

    def __getstate__(self) -> dict[str, Any]:
        # A copy has parameters of its own: it knows them by their names, when it is asked of a model.
        return {"rows": self.rows, "_overrides": self._overrides}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ModelPlan.__init__(self, state["rows"], {}, None, state["_overrides"])


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
        """Whether the parameter is there, or nobody can say, for its layer lives no more."""
        if self.owner is None or self.owner() is None:
            return True
        return self.parameter is parameter


def by_shape(name: str, parameter: Tensor) -> View:
    """The rule "out_first", for a parameter of which nothing but the shape is known."""
    refuse_shapeless(name, parameter)
    view = layouts.out_first(parameter.shape)
    inner = view.why if view.axes else layouts.FAN_IN_ONE if parameter.ndim > 1 else "fewer than 2 dimensions"
    return view._replace(why=Why(Reason.BY_SHAPE, inner=inner))


def plan(model: nn.Module, overrides: Overrides | None = None, *, verify: Batch | None = None) -> ModelPlan:
    """What GC will do to each parameter of a model: a table to read before training.

    Layers of PyTorch (and their subclasses) and `transformers`' Conv1D, routers and experts are known by their class,
    their parameters by name. A raw parameter of any other module is left alone, and its row says so. Of a parameter
    that several modules share, GC applies only where all of them would read it alike; never where one is an embedding.

    Args:
        model: any module; it is not changed.
        overrides: name pattern (`*`, `?`, `[…]` as in file names) -> fan-in axes of the stored shape, a
            `View`, or None to leave the gradient alone. The last pattern that matches a name wins.
        verify: a batch on which to verify the plan: a tensor, a tuple of the model's arguments, a mapping of its
            keyword arguments, or a function that runs the model it is given. For each centralized parameter, some
            weights are tried in the operations that it goes into: the weights with which they share an output must be
            exactly their weight vector. `Row.proof` says what was seen, also of parameters of unknown modules:
            candidates, with the override to write. What the batch does not reach is never called verified. The model
            runs once, in eval mode; it, its buffers and all random number generators are left as they were. One short
            sample is enough.

    Raises:
        TypeError: model is not a module, or an override or the batch of the wrong kind.
        ValueError: a lazy layer has no shapes yet, a pattern matches no parameter, axes do not fit, or what the model
            does is not what the plan says: with every row that is wrong, what was seen, and the override that is right.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ConvTranspose2d(8, 6, 2, groups=2, bias=False))
    >>> for row in plan(model).rows:
    ...     print(row.name, row.shape, row.view, row.axes, row.why, sep="; ")
    0.weight; (8, 3, 5, 5); (8, 3, 5, 5); (1, 2, 3); Conv2d, stored (out, in, k, k)
    0.bias; (8,); (8,); None; bias
    1.weight; (8, 3, 2, 2); (2, 4, 3, 2, 2); (1, 3, 4); ConvTranspose2d, stored (in, out/2, k, k), 2 groups
    >>> import torch
    >>> layer, batch = nn.Linear(8, 3), torch.ones(1, 8)
    >>> plan(layer, verify=batch)["weight"].proof
    'verified'
    >>> plan(layer, overrides={"weight": 0}, verify=batch)
    Traceback (most recent call last):
        ...
    ValueError: the plan is not what the model does with this batch:
    - weight: the plan says axis 0 (3), but an output sums over axis 1 (8): overrides={'weight': 1}

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), section 3.1, for what a weight vector is.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__module__}.{type(model).__qualname__}")
    parameters = named_parameters(model)
    made = _of_layers(model, parameters)
    made._layers = {row.name: row for row in made.rows}
    made = made.override(overrides)
    return made if verify is None else made.with_proofs(prove(model, made.rows, parameters, verify))


_NOT_DECAYED = {
    Reason.BIAS, Reason.NORM, Reason.EMBEDDING, Reason.POSITION, Reason.TOKEN, Reason.RELATIVE_POSITION,
    Reason.BIAS_KV, Reason.LAYER_SCALE, Reason.SCALE, Reason.ACTIVATION, Reason.MAGNITUDE, Reason.SHARED_TABLE,
}  # fmt: skip


def param_groups(model: nn.Module, *, weight_decay: float = 1e-2) -> list[dict[str, Any]]:
    """Two parameter groups: weights, with weight decay; biases, norms, embeddings and the like, without.

    Decayed is every parameter of two or more dimensions that is neither a bias (of any rank), the scale or shift of a
    normalization or of anything else, an embedding (tied to a head or not), a position embedding, a token, nor the
    magnitude of weight normalization. What is not decayed and what is not centralized differ: a depthwise 1×1
    convolution is decayed, and not centralized. As with any groups, a checkpoint is loaded into an optimizer with the
    same ones.

    Args:
        model: any module.
        weight_decay: of the first group.

    Returns:
        Two dicts with "params" and "weight_decay", for any optimizer.

    Raises:
        TypeError, ValueError: as `plan`.

    >>> [len(group["params"]) for group in param_groups(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)))]
    [1, 3]
    """
    made = plan(model)
    decayed, rest = [], []
    for parameter in model.parameters():
        row = made.row_of(parameter)
        assert row is not None
        without = parameter.ndim < 2 or reason_of(row.why) in _NOT_DECAYED
        (rest if without else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


# ---- The parameters of a tree of modules, and what their layers say


def parameter_of(layer: nn.Module, local: str) -> Tensor | None:
    """A layer's own parameter by its name; scripted layers keep them in no dict."""
    own = layer._parameters
    return own[local] if local in own else None  # noqa: SIM401


def named_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter of a tree of modules once, by its first name, in order; not what a subclass says they are."""
    return dict(nn.Module.named_parameters(model))


def views(model: nn.Module) -> dict[Tensor, View]:
    """How GC sees each parameter of a living tree of modules, by its layers, in the order of the modules.

    Raises:
        ValueError: a parameter has no shape of its own.

    >>> layer = nn.Linear(3, 2)
    >>> views(layer)[layer.weight].axes
    (1,)
    """
    seen: dict[Tensor, list[tuple[str, View]]] = {}
    for name, parameter, view in _uses(model):
        seen.setdefault(parameter, []).append((name, view))
    return {parameter: _shared(tuple(parameter.shape), uses) for parameter, uses in seen.items()}


def _of_layers(model: nn.Module, parameters: Mapping[str, Tensor]) -> ModelPlan:
    found = views(model)
    return ModelPlan([_row(name, p, found[p]) for name, p in parameters.items()], parameters, model)


def _row(name: str, parameter: Tensor, view: View) -> Row:
    return Row(name, tuple(parameter.shape), view.shape, view.axes, view.why, frozen=not parameter.requires_grad)


def _shared(shape: tuple[int, ...], uses: list[tuple[str, View]]) -> View:
    """One view of a parameter from those of all its names."""
    view = uses[0][1]
    if len(uses) == 1:
        return view
    others = ", ".join(name for name, _ in uses[1:])
    names = f"{uses[0][0]}, {others}"
    tables = [reason_of(use.why) is Reason.EMBEDDING for _, use in uses]
    if any(tables):
        return view if all(tables) else layouts.left_alone(shape, Why(Reason.SHARED_TABLE, names=names))
    if any(use[:2] != view[:2] for _, use in uses):
        return layouts.left_alone(shape, Why(Reason.SHARED, names=names))
    return view._replace(why=view.why.plus(f" (also {others})") if isinstance(view.why, Why) else view.why)


def _uses(model: nn.Module) -> Iterator[tuple[str, Tensor, View]]:
    """Every name of every parameter, with the view that its layer has of it."""
    layers: dict[nn.Module, tuple[nn.Module, str]] = {}  # list of parametrizations -> its layer, and its name in it
    for prefix, module in model.named_modules(remove_duplicate=False):
        if parametrize.is_parametrized(module):
            for tensor_name, chain in module.parametrizations.items():  # type: ignore[union-attr]
                layers[chain] = (module, f"parametrizations.{tensor_name}.")
        layer, before = layers.get(module, (module, ""))
        for local, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{prefix}.{local}" if prefix else local
                refuse_shapeless(name, parameter)
                yield name, parameter, view_of(layer, before + local, parameter)
