"""The cases of the chapter `switch`: parameters as the port's framework stores them, and gradients with exact means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from .chapters.layers import ROWS, Row
from .port import Port
from .ports.storage import stores
from .strategies import SEEDS, Array, pick
from .switch_runs import Case, Layer, unit

# Fan-ins of 4 and 16 have exact means in any form, 6 in those that divide a sum. No shape is square.
LINEAR: dict[str, tuple[str, Sequence[tuple[int, ...]]]] = {
    "out_first": ("out in", ((3, 4), (2, 4), (5, 16), (2, 6))),
    "out_last": ("in out", ((4, 3), (4, 2), (16, 5), (6, 2))),
}
CONVOLUTION: dict[str, tuple[str, Sequence[tuple[int, ...]]]] = {
    "out_first": ("out in h w", ((3, 2, 2, 1), (2, 4, 2, 2))),
    "out_last": ("h w in out", ((2, 1, 2, 3), (2, 2, 4, 2))),
}
SCALES = {"usual": 1.0, "large": 1024.0, "small": 2.0**-10}
MANY = 13  # steps: past the synchronizations of Lookahead, and past RAdam's first steps


def weight(layout: str, kind: str, shape: tuple[int, ...]) -> Layer:
    stored = (LINEAR if kind == "linear" else CONVOLUTION)[layout][0]
    last = len(shape) - 1
    return Layer(kind, stored, tuple(range(1, last + 1)) if layout == "out_first" else tuple(range(last)))


VECTORS = {"bias": Layer("bias", "out"), "scale": Layer("norm_scale", "channels")}


@st.composite
def _layers(draw, port: Port, count: tuple[int, int], vectors: bool) -> dict[str, tuple[Layer, tuple[int, ...]]]:
    layout = port.declared["layout"]
    kinds = ["conv2d"] if port.declared["centralizes"] == "convolutions" else ["linear", "conv2d"]
    made: dict[str, tuple[Layer, tuple[int, ...]]] = {}
    for number in range(pick(draw, range(count[0], count[1] + 1))):
        kind = pick(draw, kinds)
        shape = pick(draw, (LINEAR if kind == "linear" else CONVOLUTION)[layout][1])
        made[f"{'abc'[number]}.weight"] = weight(layout, kind, shape), shape
    if vectors:
        made["a.bias"] = VECTORS["bias"], (3,)
        made["norm.scale"] = VECTORS["scale"], (4,)
    return made


def whole(shape: Sequence[int], dtype: str, seed: int, factor: float) -> Array:
    """Small whole numbers whose means are not zero, times a factor; counted where the seed is 0, else at random."""
    shape = tuple(shape)
    if seed == 0:
        return Array(f"((np.arange({math.prod(shape)}) * 5 % 7 + 1) * {factor!r}).reshape({shape}).astype({dtype!r})")
    return Array(f"(np.random.default_rng({seed}).integers(-4, 13, {shape}) * {factor!r}).astype({dtype!r})")


@st.composite
def _case(draw, port: Port, layers, steps, scale, options, bends, zero, place) -> Case | None:
    layers = layers if isinstance(layers, dict) else draw(layers)
    dtypes = [d for d in port.real_dtypes if d in ("float32", "float64")]
    if not dtypes:
        return None  # half precision has no room for these numbers
    dtype, seed = pick(draw, dtypes), draw(SEEDS)
    weights = {
        name: whole(shape, dtype, seed and seed + i, 0.125) for i, (name, (_, shape)) in enumerate(layers.items())
    }

    def gradient(step: int, place: int, layer: Layer, shape: tuple[int, ...]) -> Array:
        factor = 0.0 if step in zero else SCALES[scale] * unit(layer, shape)
        return whole(shape, dtype, seed and seed + 100 * (step + 1) + place, factor)

    grads = tuple(
        {name: gradient(step, i, layer, shape) for i, (name, (layer, shape)) in enumerate(layers.items())}
        for step in range(pick(draw, steps))
    )
    return Case({n: layer for n, (layer, _) in layers.items()}, weights, grads, options, bends, place=place)


def cases(
    *,
    steps: Sequence[int] = (1, 2, 4),
    count: tuple[int, int] = (1, 2),
    vectors: bool | None = None,
    scale: str = "usual",
    bends: bool = False,
    zero: Sequence[int] = (),
    place: str = "gradient",
    **options: Any,
) -> Callable[[Port], SearchStrategy]:
    """Runs of an optimizer over weights as the port's framework stores them.

    Args:
        steps: how many, to draw from.
        count: weights at least, and at most.
        vectors: a bias and a norm's scale as well; None draws it.
        scale: of the gradients: "usual", "large" or "small".
        bends: the gradients are a function of the weights.
        zero: the steps whose gradients are zero.
        place: of GC, "gradient" or "update".
        options: of the optimizer, such as `weight_decay`.
    """

    def of(port: Port) -> SearchStrategy:
        also = st.booleans() if vectors is None else st.just(vectors)
        layers = also.flatmap(lambda v: _layers(port, count, v))
        return _case(port, layers, list(steps), scale, options, bends, tuple(zero), place)

    return of


def of_layers(
    *, kinds: Sequence[str] = (), ids: Sequence[str] = (), steps: Sequence[int] = (1, 8)
) -> Callable[[Port], SearchStrategy]:
    """Runs over one parameter of the chapter `layers`, beside an ordinary weight, as the port's framework stores it."""

    def of(port: Port) -> SearchStrategy:
        framework = port.declared["framework"]
        rows = [
            row
            for row in ROWS
            if (row.id in ids or row.kind in kinds)
            # No optimizer of PyTorch's can tell the few layers that are stored the other way round.
            and not (framework == "torch" and row.stored == "in out")
            and any(stores(framework, row.kind, row.stored, **options) for options in row.options or ({},))
        ]

        if framework == "jax":  # as Flax stores them: the others are judged everywhere else
            rows = [row for row in rows if not row.stored.startswith("out")] or rows

        @st.composite
        def layers(draw) -> dict[str, tuple[Layer, tuple[int, ...]]]:
            row = pick(draw, rows)
            shape, options = pick(draw, row.shapes), pick(draw, row.options or ({},))
            made = {"layer": (as_layer(row, shape, options), shape)}
            if draw(st.booleans()):
                layout = port.declared["layout"]
                shapes = CONVOLUTION[layout][1]
                made["a.weight"] = weight(layout, "conv2d", shapes[0]), shapes[0]
            return made

        return _case(port, layers(), list(steps), "usual", {}, False, (), "gradient")

    return of


def as_layer(row: Row, shape: tuple[int, ...], options: dict[str, Any]) -> Layer:
    words = row.stored.split()
    if row.id == "depthwise_1x1":
        options = {"groups": shape[0]}
    over = tuple(words.index(word) for word in row.over.split())
    view: tuple[int, ...] = ()
    if (groups := options.get("groups", 1)) > 1 and row.kind.startswith("conv_transpose"):
        view = (groups, shape[0] // groups, *shape[1:])
        over = tuple(a + 1 for a in over)
    return Layer(row.kind, row.stored, over, view, options)


def vectors_only(port: Port) -> SearchStrategy:
    """Runs over a bias and a norm's scale, and nothing that GC is for."""
    made = {"a.bias": (VECTORS["bias"], (3,)), "norm.scale": (VECTORS["scale"], (4,))}
    return _case(port, made, [1, 3], "usual", {}, False, (), "gradient")
