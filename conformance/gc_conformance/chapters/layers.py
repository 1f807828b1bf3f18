"""Layers: the port's own choice of axes, for layers described in words.

    centralize_layer(kind, grad, *, stored, part="weight", groups=1, stack=None, tied=False)

returns `grad` with GC applied where the port would apply it to that parameter of that layer, and `grad` unchanged where
it would not. Build or declare the real layer and ask your library; do not derive the axes from the words. A layer, or a
way of storing it, that the library does not have is `NotImplementedError`.

    kind      what the layer is (table below)
    grad      the gradient of one of its parameters, in your library's own array
    stored    the dimensions of that parameter, in order: `dict(zip(stored.split(), grad.shape))` are its sizes.
              "out" and "in" are what the layer computes and reads; under `groups`, "in" of a convolution and "out" of a
              transposed one are those of one group, as PyTorch stores them
    part      which parameter of the layer, where it has several
    groups    of a convolution; for a transposed one, GC is over the "in" of each group apart
    stack     "scan", "vmap" or "experts": "stack" copies of the layer lie along that dimension
    tied      an embedding that is also the output head

An option at its default is not passed (`stored` always is).

    kind                               part                             stored                          GC over
    linear                                                              out in | in out                 in
    bilinear                                                            out in1 in2                     in1 in2
    conv1d, conv2d, conv3d                                              out in d h w | d h w in out     in d h w
    conv_transpose1d, ..2d, ..3d                                        in out d h w (PyTorch)          in d h w
                                                                        out in h w (Equinox)            in h w
                                                                        h w in out (Flax)               in h w
                                                                        h w out in (Keras, Haiku)       in h w
    depthwise_conv2d                                                    h w in mult (Keras)             h w
    rnn, gru, lstm                     weight_ih, weight_hh, weight_hr  out in (out: all gates)         in
    attention                          in_proj, query, key, value       out in | in heads head_dim      in
                                       out                              out in | heads head_dim out     all but out
                                       bias_k, bias_v                   one one2 dim                    none
    a layer above, stack="scan"..                                       stack and then as above         as above
    any with a fan-in of 1                                              as above                        none
    embedding (also tied)                                               vocab dim                       none
    position_embedding                                                  positions dim | one positions dim   none
    class_token                                                         one one2 dim                    none
    relative_position_table                                             entries heads                   none
    norm_scale, layer_scale                                             channels | channels one one2    none
    bias                                                                out | one out one2 one3 | heads head_dim    none
    linear                             weight_norm.direction            out in                          in
                                       weight_norm.magnitude            out one                         none
                                       spectral_norm.original           out in                          in
                                       orthogonal.original              out in                          none
    unknown (owned directly by a custom module)                         a b                             none

1-d kernels are stored with "w" alone, 2-d with "h w", 3-d with "d h w".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from .. import oracle
from ..bounds import Approx
from ..judge import agree, require, same
from ..port import MEMORY, Port
from ..registry import property
from ..strategies import SEEDS, Array, comment, imports, normal, pick


@dataclass(frozen=True)
class Row:
    """One row of the table: the words for a layer, the shapes to try, and the words GC averages over (none: no GC)."""

    id: str
    title: str
    kind: str
    stored: str
    over: str
    shapes: tuple[tuple[int, ...], ...]
    options: tuple[dict[str, Any], ...] = ({},)


K2 = ((5, 3, 2, 4), (4, 2, 3, 3), (2, 6, 1, 1))
ROWS = (
    Row(
        "linear_out_first",
        "A linear layer stored (out, in) has its mean over in.",
        "linear",
        "out in",
        "in",
        ((5, 3), (3, 5), (1, 4)),
    ),
    Row(
        "linear_out_last",
        "A linear layer stored (in, out) has its mean over in: Dense, transformers' Conv1D.",
        "linear",
        "in out",
        "in",
        ((5, 3), (3, 5), (4, 1)),
    ),
    Row(
        "bilinear",
        "A bilinear layer has its mean over both inputs.",
        "bilinear",
        "out in1 in2",
        "in1 in2",
        ((4, 3, 2), (2, 3, 5)),
    ),
    Row(
        "conv1d_out_first",
        "A 1-d convolution stored (out, in, w) has its mean over in and w.",
        "conv1d",
        "out in w",
        "in w",
        ((5, 3, 4), (2, 3, 1)),
    ),
    Row(
        "conv2d_out_first",
        "A 2-d convolution stored (out, in, h, w) has its mean over in, h and w.",
        "conv2d",
        "out in h w",
        "in h w",
        K2,
    ),
    Row(
        "conv3d_out_first",
        "A 3-d convolution stored (out, in, d, h, w) has its mean over all but out.",
        "conv3d",
        "out in d h w",
        "in d h w",
        ((3, 2, 2, 1, 3), (2, 3, 1, 2, 2)),
    ),
    Row(
        "conv1d_out_last",
        "A 1-d convolution stored (w, in, out) has its mean over w and in.",
        "conv1d",
        "w in out",
        "in w",
        ((4, 3, 5), (1, 3, 2)),
    ),
    Row(
        "conv2d_out_last",
        "A 2-d convolution stored (h, w, in, out) has its mean over h, w and in.",
        "conv2d",
        "h w in out",
        "in h w",
        ((2, 3, 4, 5), (1, 1, 3, 2)),
    ),
    Row(
        "conv3d_out_last",
        "A 3-d convolution stored (d, h, w, in, out) has its mean over all but out.",
        "conv3d",
        "d h w in out",
        "in d h w",
        ((2, 1, 3, 2, 3),),
    ),
    Row(
        "grouped_conv",
        "A grouped convolution has its mean over the inputs of one group.",
        "conv2d",
        "out in h w",
        "in h w",
        ((6, 2, 3, 1), (4, 3, 2, 3)),
        ({"groups": 2},),
    ),
    Row(
        "depthwise_conv",
        "A depthwise convolution stored (out, 1, h, w) has its mean over h and w.",
        "conv2d",
        "out in h w",
        "in h w",
        ((4, 1, 3, 2), (4, 1, 1, 5)),
        ({"groups": 4},),
    ),
    Row(
        "conv_transpose1d",
        "PyTorch's 1-d transposed convolution (in, out, w) has its mean over in and w.",
        "conv_transpose1d",
        "in out w",
        "in w",
        ((5, 3, 2), (2, 4, 3)),
    ),
    Row(
        "conv_transpose2d",
        "PyTorch's 2-d transposed convolution (in, out, h, w) has its mean over in, h and w.",
        "conv_transpose2d",
        "in out h w",
        "in h w",
        K2,
    ),
    Row(
        "conv_transpose3d",
        "PyTorch's 3-d transposed convolution (in, out, d, h, w) has its mean over all but out.",
        "conv_transpose3d",
        "in out d h w",
        "in d h w",
        ((3, 2, 2, 1, 3),),
    ),
    Row(
        "grouped_conv_transpose",
        "A grouped transposed convolution has its mean over in, h and w of one group.",
        "conv_transpose2d",
        "in out h w",
        "in h w",
        ((6, 3, 2, 1), (4, 5, 3, 2)),
        ({"groups": 2},),
    ),
    Row(
        "conv_transpose_out_first",
        "A transposed convolution stored (out, in, h, w) has its mean over in, h and w: Equinox.",
        "conv_transpose2d",
        "out in h w",
        "in h w",
        K2,
    ),
    Row(
        "conv_transpose_out_last",
        "A transposed convolution stored (h, w, in, out) has its mean over h, w and in: Flax.",
        "conv_transpose2d",
        "h w in out",
        "in h w",
        ((2, 3, 4, 5), (3, 1, 2, 4)),
    ),
    Row(
        "conv_transpose_out_in",
        "A transposed convolution stored (h, w, out, in) has its mean over h, w and in: Keras, Haiku.",
        "conv_transpose2d",
        "h w out in",
        "in h w",
        ((2, 3, 4, 5), (3, 1, 2, 4)),
    ),
    Row(
        "depthwise_out_last",
        "Keras's depthwise convolution (h, w, in, mult) has its mean over h and w.",
        "depthwise_conv2d",
        "h w in mult",
        "h w",
        ((3, 2, 4, 2), (2, 3, 5, 1)),
    ),
    Row(
        "recurrent",
        "Recurrent weights, of all gates, have their mean over in.",
        "lstm",
        "out in",
        "in",
        ((12, 3), (8, 5)),
        ({"part": "weight_ih"},),
    ),
    Row(
        "recurrent_hidden",
        "Recurrent weights from hidden to hidden have their mean over in.",
        "lstm",
        "out in",
        "in",
        ((12, 3), (8, 2)),
        ({"part": "weight_hh"},),
    ),
    Row(
        "recurrent_projection",
        "The projection of an LSTM has its mean over in.",
        "lstm",
        "out in",
        "in",
        ((2, 5), (3, 4)),
        ({"part": "weight_hr"},),
    ),
    Row(
        "gru_and_rnn",
        "GRU and plain recurrent weights have their mean over in.",
        "gru",
        "out in",
        "in",
        ((9, 4), (6, 5)),
        ({"part": "weight_ih"},),
    ),
    Row(
        "attention_in_proj",
        "The packed input projection of attention has its mean over in.",
        "attention",
        "out in",
        "in",
        ((12, 4), (6, 2)),
        ({"part": "in_proj"},),
    ),
    Row(
        "attention_query",
        "A separate query projection has its mean over in.",
        "attention",
        "out in",
        "in",
        ((6, 6), (4, 4)),
        ({"part": "query"},),
    ),
    Row(
        "attention_key_value",
        "Separate key and value projections have their mean over in.",
        "attention",
        "out in",
        "in",
        ((6, 5), (4, 3)),
        ({"part": "key"}, {"part": "value"}),
    ),
    Row(
        "attention_out_proj",
        "The output projection of attention has its mean over in.",
        "attention",
        "out in",
        "in",
        ((4, 4), (6, 6)),
        ({"part": "out"},),
    ),
    Row(
        "attention_heads",
        "Query, key and value stored (in, heads, head_dim) have their mean over in.",
        "attention",
        "in heads head_dim",
        "in",
        ((6, 2, 3), (8, 4, 2)),
        tuple({"part": part} for part in ("query", "key", "value")),
    ),
    Row(
        "attention_out_heads",
        "An output projection stored (heads, head_dim, out) has its mean over heads and head_dim.",
        "attention",
        "heads head_dim out",
        "heads head_dim",
        ((2, 3, 6), (4, 2, 8)),
        ({"part": "out"},),
    ),
    Row(
        "stacked_out_last",
        "Layers stacked by scan or vmap are averaged one by one, never over the stack.",
        "linear",
        "stack in out",
        "in",
        ((2, 3, 4), (3, 5, 2)),
        ({"stack": "scan"}, {"stack": "vmap"}),
    ),
    Row(
        "stacked_out_first",
        "Stacked layers stored (stack, out, in) are averaged over in alone.",
        "linear",
        "stack out in",
        "in",
        ((2, 3, 4), (3, 5, 2)),
        ({"stack": "vmap"}, {"stack": "scan"}),
    ),
    Row(
        "stacked_conv",
        "Stacked convolutions are averaged over h, w and in, never over the stack.",
        "conv2d",
        "stack h w in out",
        "h w in",
        ((2, 3, 1, 4, 2),),
        ({"stack": "scan"}, {"stack": "vmap"}),
    ),
    Row(
        "experts",
        "Experts are stacked layers: each has its own means.",
        "linear",
        "stack in out",
        "in",
        ((3, 4, 5), (2, 5, 3)),
        ({"stack": "experts"},),
    ),
    Row(
        "depthwise_1x1",
        "A depthwise 1x1 convolution has a fan-in of 1: GC would freeze it.",
        "conv2d",
        "out in h w",
        "",
        ((5, 1, 1, 1), (3, 1, 1, 1)),
        (),
    ),
    Row(
        "linear_fan_in_one",
        "A linear layer with one input has a fan-in of 1: GC would freeze it.",
        "linear",
        "out in",
        "",
        ((5, 1), (2, 1)),
    ),
    Row(
        "linear_out_last_fan_in_one",
        "A linear layer stored (1, out) has a fan-in of 1: GC would freeze it.",
        "linear",
        "in out",
        "",
        ((1, 5), (1, 2)),
    ),
    Row(
        "layer_scale",
        "Layer scale multiplies channel by channel: no GC.",
        "layer_scale",
        "channels one one2",
        "",
        ((4, 1, 1), (3, 1, 1)),
    ),
    Row("layer_scale_vector", "Layer scale stored as a vector: no GC.", "layer_scale", "channels", "", ((4,), (3,))),
    Row(
        "embedding", "An embedding is a table, not a linear map: no GC.", "embedding", "vocab dim", "", ((7, 4), (3, 5))
    ),
    Row(
        "tied_embedding",
        "An embedding tied to the output head: no GC.",
        "embedding",
        "vocab dim",
        "",
        ((7, 4), (3, 5)),
        ({"tied": True},),
    ),
    Row(
        "position_embedding",
        "Position embeddings: no GC.",
        "position_embedding",
        "one positions dim",
        "",
        ((1, 5, 4), (1, 3, 6)),
    ),
    Row(
        "position_embedding_table",
        "A table of positions: no GC.",
        "position_embedding",
        "positions dim",
        "",
        ((5, 4), (3, 6)),
    ),
    Row("class_token", "A class token: no GC.", "class_token", "one one2 dim", "", ((1, 1, 5), (1, 1, 3))),
    Row(
        "relative_position_table",
        "A table of relative positions: no GC.",
        "relative_position_table",
        "entries heads",
        "",
        ((9, 4), (9, 2)),
    ),
    Row(
        "attention_bias_kv",
        "bias_k and bias_v of attention: no GC.",
        "attention",
        "one one2 dim",
        "",
        ((1, 1, 4), (1, 1, 6)),
        ({"part": "bias_k"}, {"part": "bias_v"}),
    ),
    Row("norm_scale", "The scale of a normalization: no GC.", "norm_scale", "channels", "", ((5,), (3,))),
    Row(
        "norm_scale_3d",
        "The scale of a normalization stored (channels, 1, 1): no GC.",
        "norm_scale",
        "channels one one2",
        "",
        ((5, 1, 1),),
    ),
    Row("bias", "A bias: no GC.", "bias", "out", "", ((5,), (2,))),
    Row("bias_4d", "A bias of rank four: no GC.", "bias", "one out one2 one3", "", ((1, 5, 1, 1), (1, 3, 1, 1))),
    Row("bias_heads", "A bias stored (heads, head_dim): no GC.", "bias", "heads head_dim", "", ((2, 3), (4, 2))),
    Row(
        "weight_norm_direction",
        "The direction of weight_norm is centralized as its layer.",
        "linear",
        "out in",
        "in",
        ((5, 3), (2, 4)),
        ({"part": "weight_norm.direction"},),
    ),
    Row(
        "weight_norm_magnitude",
        "The magnitude of weight_norm: no GC.",
        "linear",
        "out one",
        "",
        ((5, 1), (2, 1)),
        ({"part": "weight_norm.magnitude"},),
    ),
    Row(
        "spectral_norm",
        "The original of spectral_norm is centralized as its layer.",
        "linear",
        "out in",
        "in",
        ((5, 3), (2, 4)),
        ({"part": "spectral_norm.original"},),
    ),
    Row(
        "orthogonal",
        "The original of an orthogonal parametrization: no GC.",
        "linear",
        "out in",
        "",
        ((5, 3), (4, 4)),
        ({"part": "orthogonal.original"},),
    ),
    Row("unknown", "A parameter owned directly by a custom module: no GC.", "unknown", "a b", "", ((3, 4), (4, 2))),
)


@dataclass(frozen=True)
class Layer:
    """A call of `centralize_layer`."""

    kind: str
    grad: Array
    words: dict[str, Any]
    over: str

    def _words(self) -> str:
        return "".join(f", {name}={value!r}" for name, value in self.words.items())

    def text(self) -> str:
        return f"centralize_layer({self.kind!r}, grad{self._words()}), grad = {self.grad.expression}"

    def reproduce(self, port: Port, show: str | None = None, note: str = "") -> str:
        return (
            f"{imports(port, self.grad.expression)}\n"
            f"grad = {port.spell_array(self.grad.expression)}\n"
            f"print(port.centralize_layer({self.kind!r}, grad{self._words()})){comment(note)}"
        )


def expected(case: Layer) -> Approx:
    """The mean over the row's words, in a view that has one axis more for the groups of a transposed convolution."""
    groups, words, grad = case.words.get("groups", 1), case.words["stored"].split(), case.grad.value
    over = tuple(words.index(word) for word in case.over.split())
    if groups > 1 and case.kind.startswith("conv_transpose"):
        view = grad.reshape(groups, grad.shape[0] // groups, *grad.shape[1:])
        return oracle.centralize(view, tuple(a + 1 for a in over), case.grad.dtype).reshape(grad.shape)
    return oracle.centralize(grad, over or None, case.grad.dtype)


def cases(row: Row):
    @st.composite
    def draw_case(draw, port: Port) -> Layer:
        shape = pick(draw, row.shapes)
        options = pick(draw, row.options) if row.options else {"groups": shape[0]}
        dtype = pick(draw, [d for d in ("float32", "float64") if d in port.dtypes] or list(port.real_dtypes))
        squares = Array(f"(np.arange(1, {math.prod(shape) + 1}) ** 2).reshape({shape}).astype({dtype!r})")
        grad = pick(draw, (squares, normal(shape, dtype, draw(SEEDS), "3 + x")))
        return Layer(row.kind, grad, {"stored": row.stored, **options}, row.over)

    return draw_case


def _register(row: Row) -> None:
    def check(port: Port, case: Layer) -> None:
        got = port.numpy(port.call("centralize_layer", case.kind, port.array(case.grad.fresh()), **case.words))
        if row.over:
            agree(got, expected(case), "centralize_layer(...)")
        else:
            same(got, case.grad.value, "this gradient must come back as it is")

    check.__doc__ = row.title
    property(f"layers.{row.id}", needs="centralize_layer", cases=cases(row), share=0.25)(check)


for _row in ROWS:
    _register(_row)


_BY_ID = {row.id: row for row in ROWS}


@property(
    "layers.input_unchanged",
    needs=("centralize_layer", MEMORY),
    since=2,
    share=0.5,
    cases=lambda port: st.one_of(
        *(cases(_BY_ID[id])(port) for id in ("linear_out_first", "conv2d_out_first", "embedding", "bias"))
    ),
)
def input_unchanged(port: Port, case: Layer) -> None:
    """The gradient given is not changed, whether it is a weight's or not."""
    grad = port.array(case.grad.fresh())
    port.call("centralize_layer", case.kind, grad, **case.words)
    same(port.numpy(grad), case.grad.value, "grad after centralize_layer(kind, grad)")


@dataclass(frozen=True)
class Shape:
    """A call of `fan_in_axes`."""

    shape: tuple[int, ...]
    layout: str

    def text(self) -> str:
        return f"fan_in_axes({self.shape}, {self.layout!r})"

    def reproduce(self, port: Port, show: str | None = None, note: str = "") -> str:
        given = f"shape, layout = {self.shape}, {self.layout!r}"
        return f"{port.imports}\n{given}\nprint(port.fan_in_axes(shape, layout)){comment(note)}"


def _shapes(layout: str, *, weights: bool):
    sizes = st.lists(st.sampled_from((3, 1, 2, 5, 0)), min_size=0, max_size=5).map(tuple)

    def cases(port: Port) -> SearchStrategy:
        chosen = sizes.filter(lambda shape: (oracle.fan_in_axes(shape, layout) is not None) == weights)
        return chosen.map(lambda shape: Shape(shape, layout))

    return cases


def _check_axes(port: Port, case: Shape) -> None:
    got, want = port.call("fan_in_axes", case.shape, case.layout), oracle.fan_in_axes(case.shape, case.layout)
    require((got if got is None else tuple(got)) == want, f"it is {got!r}, and must be {want!r}")


@property("layers.fan_in_axes_out_first", needs="fan_in_axes", cases=_shapes("out_first", weights=True))
def fan_in_axes_out_first(port: Port, case: Shape) -> None:
    """With the output first the fan-in axes are all but axis 0."""
    _check_axes(port, case)


@property("layers.fan_in_axes_out_last", needs="fan_in_axes", cases=_shapes("out_last", weights=True))
def fan_in_axes_out_last(port: Port, case: Shape) -> None:
    """With the output last the fan-in axes are all but the last."""
    _check_axes(port, case)


@property(
    "layers.fan_in_axes_none",
    needs="fan_in_axes",
    cases=lambda port: st.one_of(_shapes("out_first", weights=False)(port), _shapes("out_last", weights=False)(port)),
)
def fan_in_axes_none(port: Port, case: Shape) -> None:
    """Below two dimensions, and for a fan-in of 1, there are no fan-in axes."""
    _check_axes(port, case)
