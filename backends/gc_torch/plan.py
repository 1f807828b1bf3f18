"""The plan of a PyTorch model: which layer each parameter belongs to, and so what GC does to it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from gc_core import layouts
from gc_core.layouts import View
from gc_core.plan import Overrides, Plan, Row
from gc_torch import compat
from gc_torch.verify import Batch, prove


class ModelPlan(Plan):
    """A plan that knows the parameters it speaks of, not only their names: what an optimizer takes as `plan`.

    Args:
        rows: one Row per parameter.
        parameters: the parameters, by the names of the rows.

    >>> layer = nn.Linear(3, 2)
    >>> plan(layer).row_of(layer.weight).axes
    (1,)
    """

    def __init__(self, rows: Iterable[Row], parameters: Mapping[str, Tensor]):
        super().__init__(rows)
        self._parameters = dict(parameters)
        self._by_parameter = {self._parameters[row.name]: row for row in self.rows}

    def row_of(self, parameter: Tensor) -> Row | None:
        """The row of a parameter; None if the plan was made without it."""
        return self._by_parameter.get(parameter)

    def override(self, overrides: Overrides | None) -> "ModelPlan":
        return ModelPlan(super().override(overrides).rows, self._parameters)

    def of_parameters(self, parameters: Mapping[str, Tensor]) -> "ModelPlan":
        """This plan, of other parameters by these names."""
        return ModelPlan(self.rows, {**self._parameters, **parameters})

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> "ModelPlan":
        """This plan with more parameters, about which nothing but the shape is known: the rule "out_first"."""
        rows = []
        for name, parameter in parameters.items():
            _refuse_shapeless(name, parameter)
            view = layouts.out_first(parameter.shape)
            why = layouts.FAN_IN_ONE if parameter.ndim > 1 else "fewer than 2 dimensions"
            rows.append(_row(name, parameter, view._replace(why=f"by shape alone: {view.why if view.axes else why}")))
        return ModelPlan([*self.rows, *rows], {**self._parameters, **parameters})


def plan(model: nn.Module, overrides: Overrides | None = None, *, verify: Batch | None = None) -> ModelPlan:
    """What GC will do to each parameter of a model: a table to read before training.

    Layers of PyTorch (and their subclasses) and `transformers`' Conv1D, routers and experts are known by their class,
    their parameters by name. A raw parameter of any other module is left alone, and its row says so. Of a parameter
    that several modules share, GC applies only where all of them would read it alike; never where one is an embedding.

    Args:
        model: any module; it is not changed.
        overrides: name pattern (`*`, `?`, `[…]` as in file names) -> fan-in axes of the stored shape, a
            `View`, or None to leave the gradient alone. The last pattern that matches a name wins.
        verify: a batch on which to prove the plan: a tensor, a tuple of the model's arguments, a mapping of its keyword
            arguments, or a function that runs the model it is given. For each centralized parameter, some weights are
            tried in the operations that it goes into: the weights with which they share an output must be exactly their
            weight vector. `Row.proof` says what was seen, also of parameters of unknown modules: candidates, with the
            override to write. What the batch does not reach is never called proven. The model runs once, in eval mode;
            it, its buffers and all random number generators are left as they were. One short sample is enough.

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
    'proven'
    >>> plan(layer, overrides={"weight": 0}, verify=batch)
    Traceback (most recent call last):
        ...
    ValueError: the plan is not what the model does with this batch:
    - weight: the plan says axis 0 (3), but an output sums over axis 1 (8): overrides={'weight': 1}

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), section 3.1, for what a weight vector is.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__module__}.{type(model).__qualname__}")
    parameters = dict(model.named_parameters())
    views = _views(model)
    rows = [_row(name, parameter, views[parameter]) for name, parameter in parameters.items()]
    made = ModelPlan(rows, parameters).override(overrides)
    return made if verify is None else ModelPlan(prove(model, made.rows, parameters, verify), parameters)


def param_groups(model: nn.Module, *, weight_decay: float = 1e-2) -> list[dict[str, Any]]:
    """Two parameter groups: weights, with weight decay; biases, norms, embeddings and the like, without.

    Decayed is every parameter of two or more dimensions that is neither a bias (of any rank), the scale or shift of a
    normalization, an embedding (tied to a head or not), a position embedding, a token, nor the magnitude of weight
    normalization. What is not decayed and what is not centralized differ: a depthwise 1×1 convolution is decayed, and
    not centralized. As with any groups, a checkpoint is loaded into an optimizer with the same ones.

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
    plan(model)
    without = (
        layouts.BIAS, layouts.NORM, layouts.EMBEDDING, layouts.POSITION, layouts.TOKEN, layouts.RELATIVE_POSITION,
        layouts.BIAS_KV, layouts.LAYER_SCALE, layouts.ACTIVATION, layouts.MAGNITUDE, layouts.SHARED_TABLE,
    )  # fmt: skip
    decayed, rest = [], []
    for parameter, view in _views(model).items():
        (rest if parameter.ndim < 2 or view.why.startswith(without) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _row(name: str, parameter: Tensor, view: View) -> Row:
    why = view.why if parameter.requires_grad else f"{view.why} (frozen)"
    return Row(name, tuple(parameter.shape), view.shape, view.axes, why)


def _refuse_shapeless(name: str, parameter: Tensor) -> None:
    if is_lazy(parameter):
        raise ValueError(
            f"{name} has no shape yet, for its layer is lazy: run the model once on a batch, and make the plan or "
            "the optimizer after that"
        )
    if getattr(parameter, "_fsdp_flattened", False):
        raise ValueError(
            f"{name} is a flat shard of FullyShardedDataParallel (FSDP1), of shape {tuple(parameter.shape)}: which "
            "weights feed one output unit is lost. Shard with fully_shard (FSDP2), which keeps shapes, or call "
            'gc_torch.attach(None, model, where="gradient") before the model is wrapped'
        )


def _views(model: nn.Module) -> dict[Tensor, View]:
    """How GC sees each parameter, in the order of the model's parameters()."""
    seen: dict[Tensor, list[tuple[str, View]]] = {}
    for name, parameter, view in _uses(model):
        seen.setdefault(parameter, []).append((name, view))
    return {parameter: _shared(tuple(parameter.shape), seen[parameter]) for parameter in model.parameters()}


def _shared(shape: tuple[int, ...], uses: list[tuple[str, View]]) -> View:
    """One view of a parameter from those of all its names."""
    view = uses[0][1]
    if len(uses) == 1:
        return view
    others = ", ".join(name for name, _ in uses[1:])
    if any(use.why == layouts.EMBEDDING for _, use in uses):
        if all(use.why == layouts.EMBEDDING for _, use in uses):
            return view
        return layouts.left_alone(shape, f"{layouts.SHARED_TABLE}: {uses[0][0]}, {others}")
    if any(use[:2] != view[:2] for _, use in uses):
        names = f"{uses[0][0]}, {others}"
        return layouts.left_alone(shape, f"shared by layers that read it in different ways: {names}")
    return view._replace(why=f"{view.why} (also {others})")


def _uses(model: nn.Module) -> Iterator[tuple[str, Tensor, View]]:
    """Every name of every parameter, with the view that the module it stands in has of it."""
    parametrized: dict[nn.Module, tuple[nn.Module, str]] = {}  # list of parametrizations -> its layer, and of what
    for prefix, module in model.named_modules(remove_duplicate=False):
        if parametrize.is_parametrized(module):
            for tensor_name, chain in module.parametrizations.items():  # type: ignore[union-attr]
                parametrized[chain] = (module, tensor_name)
        for local, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{prefix}.{local}" if prefix else local
            _refuse_shapeless(name, parameter)
            if module in parametrized:
                view = _of_parametrization(module, local, parameter, *parametrized[module])
            else:
                view = _of_hook(module, local, parameter) or _of_layer(module, local, parameter)
            yield name, parameter, view


def _of_parametrization(chain: nn.Module, local: str, parameter: Tensor, layer: nn.Module, tensor_name: str) -> View:
    """torch.nn.utils.parametrizations: what is learned stands in for a tensor of the layer."""
    kinds = [type(one) for one in chain.children()]
    if kinds == [compat.WEIGHT_NORM]:
        if local == "original0":
            return layouts.left_alone(parameter.shape, layouts.MAGNITUDE)
        return _of_layer(layer, tensor_name, parameter, "direction of ")
    if kinds == [compat.SPECTRAL_NORM]:
        return _of_layer(layer, tensor_name, parameter, "original of ")
    if kinds == [compat.ORTHOGONAL]:
        return layouts.left_alone(parameter.shape, layouts.ORTHOGONAL)
    return layouts.left_alone(parameter.shape, layouts.PARAMETRIZED)


def _of_hook(module: nn.Module, local: str, parameter: Tensor) -> View | None:
    """torch.nn.utils.weight_norm and spectral_norm, the older forms: a hook computes the layer's tensor."""
    for hook in compat.forward_pre_hooks(module):
        if isinstance(hook, WeightNorm) and local == f"{hook.name}_g":
            return layouts.left_alone(parameter.shape, layouts.MAGNITUDE)
        if isinstance(hook, WeightNorm) and local == f"{hook.name}_v":
            return _of_layer(module, hook.name, parameter, "direction of ")
        if isinstance(hook, SpectralNorm) and local == f"{hook.name}_orig":
            return _of_layer(module, hook.name, parameter, "original of ")
    if local.endswith("_orig"):  # pruning, or a hook that nobody knows
        return layouts.left_alone(parameter.shape, layouts.PARAMETRIZED)
    return None


_NORMS = (compat.NORM, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_OUT_FIRST = {  # layer -> the names of its weights
    nn.Linear: r"weight",
    nn.Bilinear: r"weight",
    compat.CONV: r"weight",
    nn.RNNBase: r"weight_(ih|hh|hr)_l\d+(_reverse)?",
    nn.RNNCellBase: r"weight_(ih|hh)",
    nn.MultiheadAttention: r"in_proj_weight|[qkv]_proj_weight",
}
_BY_NAME = {  # a raw parameter of another module is left alone; its name may say why
    r"bias.*|.*_bias": layouts.BIAS,
    r".*(relative_position|rel_pos).*": layouts.RELATIVE_POSITION,
    r".*pos(ition(al)?)?_emb.*": layouts.POSITION,
    r".*(_tokens?|class_embedding)": layouts.TOKEN,
    r"layer_scale.*|gamma(_\d+)?|lambda_?\d*": layouts.LAYER_SCALE,
}


def _of_layer(module: nn.Module, local: str, parameter: Tensor, prefix: str = "") -> View:
    """How a layer sees one of its own parameters."""
    shape = tuple(parameter.shape)
    layer = prefix + _class_name(module)

    def weight(view: View, stored: str) -> View:
        return view if view.axes is None else view._replace(why=f"{layer}, stored {stored}")

    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and local == "weight":
        return layouts.left_alone(shape, layouts.EMBEDDING)
    if isinstance(module, _NORMS) and local in ("weight", "bias"):
        return layouts.left_alone(shape, layouts.NORM)
    if isinstance(module, nn.PReLU) and local == "weight":
        return layouts.left_alone(shape, layouts.ACTIVATION)
    if isinstance(module, nn.MultiheadAttention) and local in ("bias_k", "bias_v"):
        return layouts.left_alone(shape, layouts.BIAS_KV)
    if isinstance(module, compat.CONV_TRANSPOSED) and local == "weight":
        groups = module.groups
        out, more = (f"out/{groups}", f", {groups} groups") if groups > 1 else ("out", "")
        return weight(layouts.in_out(shape, groups), f"(in, {out}{', k' * (len(shape) - 2)}){more}")
    for known, names in _OUT_FIRST.items():
        if isinstance(module, known) and re.fullmatch(names, local):
            rest = ", in" if known is nn.Bilinear else ", k" * (len(shape) - 2)
            return weight(layouts.out_first(shape), f"(out, in{rest})")
    if _is_transformers(module, "Conv1D") and local == "weight":
        return weight(layouts.out_last(shape), "(in, out)")
    # The experts of transformers declare how they are stored; where they do not, nothing here can know.
    if _is_transformers(module) and re.fullmatch(r"(gate_|up_|gate_up_|down_)proj", local) and len(shape) == 3:
        transposed = getattr(module, "is_transposed", None)
        if isinstance(transposed, bool):
            rule = layouts.out_last if transposed else layouts.out_first
            return weight(layouts.stacked(rule, shape), "(expert, in, out)" if transposed else "(expert, out, in)")
    if _is_transformers(module) and local == "weight":
        name = type(module).__name__
        if name.endswith("Router") and len(shape) == 2:
            return weight(layouts.out_first(shape), "(out, in)")
        if name.endswith("ParallelExperts") and len(shape) == 3:
            return weight(layouts.stacked(layouts.out_first, shape), "(expert, out, in)")
    return layouts.left_alone(shape, _why_unknown(module, local, parameter))


def _why_unknown(module: nn.Module, local: str, parameter: Tensor) -> str:
    for pattern, why in _BY_NAME.items():
        if re.fullmatch(pattern, local):
            return why
    if parameter.ndim == 1 and "norm" in type(module).__name__.lower():
        return layouts.NORM
    return layouts.UNKNOWN


def _class_name(module: nn.Module) -> str:
    """The layer's class; of a parametrized or sharded (FSDP2) one the class it had before."""
    cls = type(module)
    while (before := cls.__bases__[-1]) and cls.__name__ in (
        f"Parametrized{before.__name__}",
        f"FSDP{before.__name__}",
    ):
        cls = before
    return cls.__name__


def _is_transformers(module: nn.Module, name: str | None = None) -> bool:
    """Whether a module is a layer of transformers (of that class name), which is not imported for it."""
    return any(
        cls.__module__.partition(".")[0] == "transformers" and name in (None, cls.__name__)
        for cls in type(module).__mro__
    )
