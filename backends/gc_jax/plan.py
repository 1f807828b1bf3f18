"""The plan of a JAX model: for each parameter, whether GC acts on it, along which axes, and why."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any

from gc_core import checks, layouts
from gc_core.left_out import warn_if_left_out
from gc_core.plan import Overrides, Plan, Row
from gc_core.reasons import Reason, Why
from gc_jax.layers import LAYOUTS, library, what_is
from gc_jax.names import by_name, stacked_by_name
from gc_jax.tree import Param, parameters, tied_to_a_table
from gc_jax.weight import Weight

Stacked = Mapping[str, int | tuple[int, ...]]


def plan(
    params_or_module: Any,
    layout: layouts.Layout | None = None,
    overrides: Overrides | None = None,
    *,
    apply: Callable[..., Any] | None = None,
    batch: Any = None,
    stacked: Stacked | None = None,
    modules: Mapping[str, Any] | None = None,
    wrt: Any = None,
) -> Plan:
    """What GC will do to each parameter, to be read before training.

    With `apply` and `batch` it is read from the program: the fan-in axes of a parameter are those that the operation
    using it sums over. That needs no layout and no names, and nothing is computed.

    Without them, an NNX module, an Equinox module and a Keras model know their layers, and so their layout. A plain
    tree of parameters (Linen's, Haiku's, your own) has names alone: `kernel`, `w` or `weight` is a weight stored as
    `layout` says, unless the bias beside it or Flax's names for attention say more; `bias`, `scale`, `embedding` and
    their like are left alone, and so is every name that is not known. Shapes alone decide nothing.

    Formula: each row says along which axes Φ of `gc_jax.centralize` acts.

    Args:
        params_or_module: the module, or a tree of arrays (or of `jax.ShapeDtypeStruct`).
        layout: "out_first" or "out_last"; needed for a plain tree.
        overrides: name pattern -> axes of the stored shape, a `View`, or None; see `gc_core.Plan.override`.
        apply: a pure function, `apply(params, *batch)`, that runs the model forward. For an NNX, Equinox or Keras
            model and for a bound Linen module, None is the module's own call.
        batch: what `apply` takes behind the parameters: a tuple of its arguments, or the only one. Arrays in it may be
            `jax.ShapeDtypeStruct`.
        stacked: name pattern -> the axis or axes along which copies of a layer lie (`nn.scan`, `vmap`, experts), for
            instance {"blocks.*": 0}: each copy is treated as the single layer. A plain tree cannot show it.
        modules: for the parameters of a Linen model, what `model.module_paths(rng, x)` returns: it knows what names do
            not say (`transpose_kernel`, `DenseGeneral`, `Einsum`, modules of your own).
        wrt: for an NNX module, the filter of what is trained, as of `nnx.Optimizer`; None: `nnx.Param`.

    Returns:
        A `gc_core.Plan`; the name of a row is its path in the tree, "a.b.c".

    Raises:
        TypeError: there is nothing to plan, or an argument is of the wrong type.
        ValueError: a plain tree without a layout, an unknown layout or one that is not the module's, a pattern that
            matches nothing, axes that do not fit, or something that the program says already.
        Whatever the model raises on this batch, with a note that it was run for a plan.

    Warns:
        GCWarning: nothing is centralized, or more than a tenth of the numbers is left alone for want of knowledge.

    >>> import jax.numpy as jnp
    >>> params = {"embed": {"embedding": jnp.ones((9, 4))}, "head": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}
    >>> {name: row.axes for name, row in plan(params, "out_last").items()}
    {'embed.embedding': None, 'head.bias': None, 'head.kernel': (0,)}

    The same from the program, whatever the names:

    >>> def apply(p, tokens):
    ...     return p["embed"]["embedding"][tokens] @ p["head"]["kernel"] + p["head"]["bias"]
    >>> print(*plan(params, apply=apply, batch=jnp.zeros((2, 5), int)).to_text(90).splitlines()[-4:], sep="\\n")
    parameter        shape  mean over   why
    embed.embedding  9×4    -           embedding: looked up, not summed over
    head.bias        3      -           added to the data
    head.kernel      4×3    axis 0 (4)  read from the program: dot_general sums over it

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), section 3.1.
    """
    if apply is None and batch is None:
        made = by_classes_and_names(params_or_module, layout, stacked, modules, wrt).override(overrides)
        remedy = "plan(…, apply=, batch=)"
    else:
        for name, value in (("layout", layout), ("stacked", stacked), ("modules", modules)):
            if value is not None:
                raise ValueError(f"{name} is read from the program where apply= or batch= is given: leave it out")
        from gc_jax.program import by_program  # a plan of names needs none of it

        made = by_program(params_or_module, apply, batch, wrt).override(overrides)
        remedy = "A batch that reaches them, or a plan of classes and names, plan(…) without batch=,"
    warn_if_left_out(made, remedy, stacklevel=3)
    return made


def by_classes_and_names(
    root: Any, layout: str | None, stacked: Stacked | None = None, modules: Mapping[str, Any] | None = None, wrt=None
) -> Plan:
    """The plan of a model that is not run: by the classes of its layers, and by names where there are none."""
    kind = library(root)
    if layout is not None:
        layouts.rule_of(layout)
    wanted = LAYOUTS[kind] if kind else "out_last" if modules is not None else None
    params = parameters(root, modules, wrt)
    if wanted is None and layout is None and not (params and all(library(param.layer) for param in params)):
        raise ValueError('layout must be "out_first" or "out_last" for a plain tree, which does not show it; got None')
    if wanted is not None and layout not in (None, wanted):
        raise ValueError(f"layout must be {wanted!r}, as the layers of this module are stored; got {layout!r}")
    if not params:
        raise TypeError(f"there are no floating-point arrays in this {type(root).__qualname__}")

    stacks = _stacks(stacked, params)
    shapes = {param.name: param.shape for param in params}
    tied = tied_to_a_table(root) if kind in ("equinox", None) else set()
    rows = []
    for name, shape, layer, leaf in params:
        stack = stacks[name]
        label, what = what_is(layer, leaf)
        if what is None:
            what = _by_name(name, shapes, stacks, LAYOUTS.get(library(layer) or "", layout or wanted or ""))
            if layer is not None and (isinstance(what, Weight) or what.reason is Reason.NAME_UNCLEAR):
                what = layouts.UNKNOWN
        if name in tied:
            what = Why(Reason.SHARED_TABLE, names="through equinox.nn.Shared")
        view = _view(name, what, shape, stack, label)
        rows.append(Row(name, shape, view.shape, view.axes, view.why))
    return Plan(rows)


def _stacks(stacked: Stacked | None, params: Sequence[Param]) -> dict[str, tuple[int, ...]]:
    """The axes of the stack by the names of the parameters; the last pattern that matches wins."""
    if stacked is not None and not isinstance(stacked, Mapping):
        raise TypeError(f"stacked must map name patterns to axes; got {type(stacked).__qualname__}")
    found = {param.name: stacked_by_name(param.name) for param in params}
    for pattern, value in (stacked or {}).items():
        matches = [param for param in params if fnmatchcase(param.name, pattern)]
        if not matches:
            raise ValueError(f"stacked: the pattern {pattern!r} matches no parameter; one name is {params[0].name!r}")
        axes = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(axis, Integral) and not isinstance(axis, bool) for axis in axes):
            raise TypeError(f"stacked[{pattern!r}] must be an int or a tuple of ints; got {value!r}")
        found.update((param.name, axes) for param in matches)
    return found


def _inside(shape: tuple[int, ...], stack: tuple[int, ...]) -> list[int]:
    """The axes of one layer: all but those along which copies lie."""
    return [axis for axis in range(len(shape)) if axis not in stack and axis - len(shape) not in stack]


def _by_name(
    name: str, shapes: dict[str, tuple[int, ...]], stacks: dict[str, tuple[int, ...]], layout: str
) -> Weight | Why:
    above, _, leaf = name.rpartition(".")
    outer = above.rpartition(".")[0]
    places = {"bias": (f"{above}.b", f"{above}.bias")}
    places |= {one: (f"{outer}.{one}.{leaf}",) for one in ("query", "key", "value", "out")}
    beside = {
        one: [shapes[place][axis] for axis in _inside(shapes[place], stacks[place] or stacks[name])]
        for one, names in places.items()
        for place in (place.removeprefix(".") for place in names)
        if place in shapes
    }
    shape = shapes[name]
    return by_name(name.split("."), [shape[axis] for axis in _inside(shape, stacks[name])], beside, layout)


def _view(name: str, what: Weight | Why, shape: tuple[int, ...], stack: tuple[int, ...], kind: str) -> layouts.View:
    """How GC sees one parameter: by the rule of its layer, on each copy where layers are stacked."""
    if not isinstance(what, Weight):
        return layouts.left_alone(shape, what)
    extra = len(shape) - len(what.shape)
    if stack:
        stack = checks.axis(stack, shape, f"stacked axes of {name!r}:") or ()
        if len(stack) != extra:
            raise ValueError(f"stacked: one layer has {len(what.shape)} axes, and {name} of shape {shape} {extra} more")
    elif extra:
        if extra < 0 or shape[extra:] != what.shape:
            return layouts.left_alone(shape, Why(Reason.UNDECLARED))
        stack = tuple(range(extra))  # the layer says its own shape, and these axes lie in front of it
    inside = _inside(shape, stack)
    one = what.rule([shape[axis] for axis in inside])
    if one.axes is None:
        return layouts.left_alone(shape, one.why)
    why = Why(Reason.OF_LAYER, layer=kind, inner=one.why) if kind else one.why
    why = Why(Reason.STACKED, inner=why) if stack else why
    return layouts.View(shape, tuple(inside[axis] for axis in one.axes), why)
