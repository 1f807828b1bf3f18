"""The parameters of a tree of modules, and what their layers say of them: a plan without a batch."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torch.nn.utils import parametrize

from gc_core import layouts
from gc_core.layouts import View
from gc_core.reasons import Reason, Why, reason_of
from gc_torch.layers import refuse_shapeless, view_of, why_unknown
from gc_torch.low_rank import factors


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


def named_views(model: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, View]:
    """How GC sees each parameter, by name."""
    if isinstance(model, (nn.ParameterList, nn.ParameterDict)):  # for torch.optim an iterable of tensors, and no layer
        return {name: by_shape(name, parameter) for name, parameter in parameters.items()}
    found = views(model)
    return {name: found[parameter] for name, parameter in parameters.items()}


def by_shape(name: str, parameter: Tensor) -> View:
    """The rule "out_first", for a parameter of which nothing but the shape is known."""
    refuse_shapeless(name, parameter)
    view = layouts.out_first(parameter.shape)
    inner = view.why if view.axes else layouts.FAN_IN_ONE if parameter.ndim > 1 else "fewer than 2 dimensions"
    return view._replace(why=Why(Reason.BY_SHAPE, inner=inner))


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
    low_rank = factors(model)
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
                view = low_rank.get((module, local)) or view_of(layer, before + local, parameter)
                if isinstance(module, (nn.ParameterDict, nn.ParameterList)) and view.why is layouts.UNKNOWN:
                    why = why_unknown(type(module), prefix.rpartition(".")[2], parameter.shape)
                    view = view._replace(why=why)
                yield name, parameter, view
