"""Following the parameters of a program from operation to operation, into loops, branches and calls."""

from collections.abc import Iterable, Sequence
from typing import Any

from jax.extend import core

from gc_jax.program_dims import Dim, Piece, new, own, resized
from gc_jax.program_rules import passes_gradients, rule_of
from gc_jax.program_uses import Kind, Uses
from gc_jax.program_values import Image, Source, Value, of


def walk(
    jaxpr: Any, inputs: Iterable[Value], wanted: Sequence[bool], uses: Uses, constants: Sequence[Value] = ()
) -> list[Value]:
    """The values of what a program gives, for these of what it takes; what it does on the way is recorded.

    Args:
        wanted: which of its results a gradient comes from.
        constants: of the outermost program; those of the inner ones are numbers.
    """
    known = dict(zip(jaxpr.invars, inputs, strict=True)) | dict(zip(jaxpr.constvars, constants, strict=False))
    live = {var for var, one in zip(jaxpr.outvars, wanted, strict=True) if one and not isinstance(var, core.Literal)}
    passed = _passed(jaxpr, live)

    def value(var: Any) -> Value:
        return Value() if isinstance(var, core.Literal) else known.get(var, Value())

    for eqn in jaxpr.eqns:
        values = [value(var) for var in eqn.invars]
        before = uses.off
        uses.off = before or not passed.intersection(eqn.outvars)
        if any(one.images for one in values) or eqn.primitive.name in ("iota", "eq") or _inner(eqn) is not None:
            results = _step(eqn, values, [out in passed for out in eqn.outvars], uses)
        else:
            results = rule_of_source(eqn, values)
        uses.off = before
        known.update(zip(eqn.outvars, results, strict=True))
    return [value(var) for var in jaxpr.outvars]


def rule_of_source(eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Without parameters there is nothing to follow but where values come from, and which compare data with places."""
    random = eqn.primitive.name.startswith(("random_", "threefry", "rng_"))
    source = Source.RANDOM if random else of(*values)
    one_hot, places = any(v.one_hot for v in values), all(v.places for v in values) and bool(values)
    return [Value(source, (), one_hot, places, *_products_of_data(eqn, values))] * len(eqn.outvars)


def _products_of_data(eqn: Any, values: Sequence[Value]) -> tuple[frozenset[int], bool]:
    """Along which axes an operation repeats data, and whether it multiplies all of some data with all of other data."""
    name = eqn.primitive.name
    if name == "broadcast_in_dim":
        kept = eqn.params["broadcast_dimensions"]
        sizes = dict(zip(kept, eqn.invars[0].aval.shape, strict=True))
        shape = eqn.outvars[0].aval.shape
        return frozenset(axis for axis, size in enumerate(shape) if sizes.get(axis, 1) == 1 < size), values[0].outer
    if name == "mul":
        shape = eqn.outvars[0].aval.shape
        a, b = (
            value.spread | {i for i, (n, m) in enumerate(zip(var.aval.shape, shape, strict=False)) if n < m}
            for value, var in zip(values, eqn.invars, strict=True)
        )
        return frozenset(), bool(a - b and b - a)
    if name == "dot_general":
        over, batch = eqn.params["dimension_numbers"]
        free = [len(var.aval.shape) > len(batch[0]) for var in eqn.invars]
        return frozenset(), not over[0] and all(free)
    return frozenset(), name in ("reshape", "transpose", "squeeze", "convert_element_type") and values[0].outer


def _passed(jaxpr: Any, live: set[Any]) -> set[Any]:
    """The variables that a gradient reaches, from those that it comes from."""
    reached = set(live)
    for eqn in reversed(jaxpr.eqns):
        if reached.intersection(eqn.outvars) and passes_gradients(eqn.primitive.name):
            needed = [True] * len(eqn.invars)
            inner = _inner(eqn)
            if inner is not None:
                ends = {v for v, out in zip(inner.outvars, eqn.outvars, strict=True) if out in reached}
                ends = {v for v in ends if not isinstance(v, core.Literal)}
                inside = _passed(inner, ends)
                needed = [var in inside for var in inner.invars]
            reached.update(
                var for var, one in zip(eqn.invars, needed, strict=True) if one and not isinstance(var, core.Literal)
            )
    return reached


def _inner(eqn: Any) -> Any:
    """The program of an operation that does nothing but run it (jit, remat, custom derivatives, shard_map)."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
        found = eqn.params.get(key)
        if found is None:
            continue
        jaxpr, name = getattr(found, "jaxpr", found), eqn.primitive.name
        if name in ("scan", "while", "cond", "pallas_call") or "reduce" in name or "scatter" in name or "sort" in name:
            return None
        if hasattr(jaxpr, "eqns") and _ends(jaxpr) == (len(eqn.invars), len(eqn.outvars)):
            return jaxpr
    return None


def _ends(jaxpr: Any) -> tuple[int, int]:
    return len(jaxpr.invars), len(jaxpr.outvars)


def _step(eqn: Any, values: list[Value], wanted: list[bool], uses: Uses) -> list[Value]:
    match eqn.primitive.name:
        case "scan":
            return _scan(eqn, values, wanted, uses)
        case "while":
            return _while(eqn, values, wanted, uses)
        case "cond":
            branches = [walk(branch.jaxpr, values[1:], wanted, uses) for branch in eqn.params["branches"]]
            return [_either(*ways, of(values[0])) for ways in zip(*branches, strict=True)]
    inner = _inner(eqn)
    if inner is None:
        return rule_of(eqn.primitive.name)(eqn, values, uses)
    inside = [_of_size(value, var.aval.shape) for value, var in zip(values, inner.invars, strict=True)]
    results = walk(inner, inside, wanted, uses)
    return [_of_size(value, out.aval.shape) for value, out in zip(results, eqn.outvars, strict=True)]


def _of_size(value: Value, shape: Sequence[int]) -> Value:
    """The same value on one of many devices, or back from there."""
    images = tuple(
        image._replace(dims=tuple(map(resized, image.dims, shape))) if len(image.dims) == len(shape) else image
        for image in value.images
    )
    return value._replace(images=images)


def _either(*values: Any) -> Value:
    *ways, which = values
    images = dict.fromkeys(image for way in ways for image in way.images)
    data = of(*ways) is Source.DATA or (which is Source.DATA and not images)
    return Value(Source.DATA if data else of(*ways), tuple(images))


def _scan(eqn: Any, values: list[Value], wanted: list[bool], uses: Uses) -> list[Value]:
    jaxpr, consts, carries = eqn.params["jaxpr"].jaxpr, eqn.params["num_consts"], eqn.params["num_carry"]
    split = consts + carries
    carried = _carried(jaxpr.invars[consts:split], jaxpr.outvars[:carries], values[consts:split], "scan", uses)
    each = [_one_of(value) for value in values[split:]]
    # A carry that is wanted at the end, or whose next value is, is wanted on the way.
    results = walk(jaxpr, [*values[:consts], *carried, *each], [True] * carries + wanted[carries:], uses)
    for start, result in zip(carried, results[:carries], strict=True):
        if result != start:
            uses.settle(result, Kind.INPUT, "scan")
    lengths = eqn.params["length"]
    kept = [start if result == start else Value(Source.DATA) for start, result in zip(carried, results, strict=False)]
    return [*kept, *(_all_of(value, lengths) for value in results[carries:])]


def _while(eqn: Any, values: list[Value], wanted: list[bool], uses: Uses) -> list[Value]:
    tested, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    jaxpr, rest = eqn.params["body_jaxpr"].jaxpr, values[tested:]
    carried = _carried(jaxpr.invars[consts:], jaxpr.outvars, rest[consts:], "while", uses)
    results = walk(jaxpr, [*rest[:consts], *carried], [True] * len(jaxpr.outvars), uses)
    for start, result in zip(carried, results, strict=True):
        if result != start:
            uses.settle(result, Kind.INPUT, "while")
    return [start if result == start else Value(Source.DATA) for start, result in zip(carried, results, strict=True)]


def _carried(starts: Sequence[Any], ends: Sequence[Any], values: Sequence[Value], name: str, uses: Uses) -> list[Value]:
    """What a loop carries: a parameter that it hands on as it is, or data."""
    found = []
    for start, end, value in zip(starts, ends, values, strict=True):
        if start is end:
            found.append(value)
        else:
            uses.settle(value, Kind.INPUT, name)
            found.append(Value(Source.DATA))
    return found


def _one_of(value: Value) -> Value:
    """A value of which a loop takes one after the other: parameters of stacked layers."""
    images = tuple(
        image._replace(dims=image.dims[1:], chosen=image.chosen | own(image.dims[:1])) for image in value.images
    )
    return value._replace(images=images)


def _all_of(value: Value, length: int) -> Value:
    """What a loop has made of each, one after the other again."""

    def stacked(image: Image) -> Image:
        taken = [piece for piece in image.chosen if piece.size == length]
        first: Dim = Dim((taken[0],), length) if len(taken) == 1 else new(length)
        gone: set[Piece] = set(taken[:1]) if len(taken) == 1 else set()
        return image._replace(dims=(first, *image.dims), chosen=image.chosen - gone)

    return value._replace(images=tuple(map(stacked, value.images)))
