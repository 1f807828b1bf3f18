"""The rules of which axes, against axes written out by hand and against what PyTorch's layers sum over."""

import numpy as np
import pytest

import gc_core as gc
from gc_core import layouts

from . import restatement

torch = pytest.importorskip("torch")

BY_HAND = [
    # shape, out first, out last
    ((), None, None),
    ((5,), None, None),
    ((1,), None, None),
    ((3, 4), (1,), (0,)),
    ((1, 4), (1,), None),
    ((4, 1), None, (0,)),
    ((1, 1), None, None),
    ((2, 3, 4), (1, 2), (0, 1)),
    ((8, 3, 5, 7), (1, 2, 3), (0, 1, 2)),
    ((8, 1, 1, 1), None, (0, 1, 2)),
    ((1, 1, 1, 8), (1, 2, 3), None),
    ((8, 1, 3, 3), (1, 2, 3), (0, 1, 2)),  # depthwise: a fan-in of 9
    ((2, 3, 4, 5, 6), (1, 2, 3, 4), (0, 1, 2, 3)),
    ((3, 0), (1,), (0,)),
    ((0, 3), (1,), (0,)),
]


@pytest.mark.parametrize(("shape", "first", "last"), BY_HAND)
def test_fan_in_axes(shape, first, last):
    for given in (shape, list(shape), torch.Size(shape)):
        assert gc.fan_in_axes(given, "out_first") == first
        assert gc.fan_in_axes(given, "out_last") == last
    assert gc.fan_in_axes(tuple(np.array(shape, dtype=np.int64)), "out_first") == first


RULES = [
    # rule, stored shape, seen as, axes
    (layouts.out_first, (6, 4), (6, 4), (1,)),
    (layouts.out_first, (6, 4, 3), (6, 4, 3), (1, 2)),
    (layouts.out_first, (6,), (6,), None),
    (layouts.out_first, (), (), None),
    (layouts.out_last, (4, 6), (4, 6), (0,)),
    (layouts.out_last, (3, 3, 4, 6), (3, 3, 4, 6), (0, 1, 2)),
    (layouts.out_last, (6,), (6,), None),
    (layouts.in_out, (4, 6, 3, 3), (4, 6, 3, 3), (0, 2, 3)),
    (layouts.in_out, (4, 6, 3), (4, 6, 3), (0, 2)),
    (layouts.in_out, (4, 6, 3, 3, 3), (4, 6, 3, 3, 3), (0, 2, 3, 4)),
    (layouts.in_out, (1, 6, 1, 1), (1, 6, 1, 1), None),
    (lambda shape: layouts.in_out(shape, 2), (4, 3, 5, 5), (2, 2, 3, 5, 5), (1, 3, 4)),
    (lambda shape: layouts.in_out(shape, 4), (4, 1, 2), (4, 1, 1, 2), (1, 3)),
    (lambda shape: layouts.in_out(shape, 4), (4, 2, 1, 1), (4, 2, 1, 1), None),  # as stored: there is no view
    (layouts.out_before_last, (3, 3, 6, 4), (3, 3, 6, 4), (0, 1, 3)),
    (layouts.out_before_last, (3, 6, 4), (3, 6, 4), (0, 2)),
    (layouts.depthwise, (3, 3, 4, 2), (3, 3, 4, 2), (0, 1)),
    (layouts.depthwise, (1, 1, 4, 2), (1, 1, 4, 2), None),
    (layouts.heads_out, (8, 2, 4), (8, 2, 4), (0,)),
    (layouts.heads_in, (2, 4, 8), (2, 4, 8), (0, 1)),
    (lambda shape: layouts.stacked(layouts.out_last, shape), (12, 4, 6), (12, 4, 6), (1,)),
    (lambda shape: layouts.stacked(layouts.out_first, shape), (12, 6, 4, 3, 3), (12, 6, 4, 3, 3), (2, 3, 4)),
    (lambda shape: layouts.stacked(layouts.out_last, shape, 2), (12, 8, 4, 6), (12, 8, 4, 6), (2,)),
    (lambda shape: layouts.stacked(layouts.heads_in, shape), (12, 2, 4, 8), (12, 2, 4, 8), (1, 2)),
    (lambda shape: layouts.stacked(layouts.out_last, shape), (12, 6), (12, 6), None),  # stacked biases
    (lambda shape: layouts.stacked(layouts.out_last, shape), (12, 1, 6), (12, 1, 6), None),
    (
        lambda shape: layouts.stacked(lambda one: layouts.in_out(one, 2), shape),
        (3, 4, 3, 5),
        (3, 2, 2, 3, 5),
        (2, 4),
    ),
]


@pytest.mark.parametrize(("rule", "stored", "seen", "axes"), RULES)
def test_every_rule(rule, stored, seen, axes):
    view = rule(stored)
    assert view.shape == seen and view.axes == axes
    assert isinstance(view.why, str) and view.why
    assert type(view.shape) is tuple and type(view.axes) in (tuple, type(None))
    if axes is not None:
        assert np.zeros(stored).reshape(view.shape).ndim > max(axes)


def test_a_fan_in_of_one_says_so():
    for rule, shape in [(layouts.out_first, (8, 1)), (layouts.in_out, (1, 8, 1, 1)), (layouts.depthwise, (1, 1, 8, 2))]:
        assert rule(shape) == layouts.View(shape, None, layouts.FAN_IN_ONE)


def test_left_alone():
    assert layouts.left_alone([3, 4], layouts.EMBEDDING) == layouts.View((3, 4), None, layouts.EMBEDDING)


nn = torch.nn
LAYERS = [
    (nn.Linear(4, 3), (4,), layouts.out_first),
    (nn.Conv1d(4, 6, 3, groups=2), (4, 3), layouts.out_first),
    (nn.Conv2d(4, 6, (3, 2)), (4, 3, 2), layouts.out_first),
    (nn.Conv2d(4, 8, 3, groups=4), (4, 3, 3), layouts.out_first),
    (nn.Conv3d(2, 3, 2), (2, 2, 2, 2), layouts.out_first),
    (nn.ConvTranspose1d(4, 6, 3), (4, 5), layouts.in_out),
    (nn.ConvTranspose2d(4, 6, (3, 2)), (4, 5, 5), layouts.in_out),
    (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 5), lambda shape: layouts.in_out(shape, 2)),
    (nn.ConvTranspose2d(4, 8, 3, groups=4), (4, 5, 5), lambda shape: layouts.in_out(shape, 4)),
]


@pytest.mark.parametrize(
    ("layer", "input_shape", "rule"), LAYERS, ids=lambda x: str(x) if isinstance(x, nn.Module) else ""
)
def test_weight_vectors_are_what_feeds_one_output_unit(layer, input_shape, rule):
    """The weights that the sum of an output channel depends on, by autograd: an independent route to the axes."""
    output = layer(torch.rand(1, *input_shape) + 1)[0]
    feeds = set()
    for channel in output:
        layer.weight.grad = None
        channel.sum().backward(retain_graph=True)
        feeds.add(tuple(np.flatnonzero(layer.weight.grad.numpy())))
    view = rule(tuple(layer.weight.shape))
    assert {tuple(vector) for vector in restatement.weight_vectors(view.shape, view.axes)} == feeds


def test_the_shape_rule_alone_is_wrong_for_transposed_convolutions():
    layer, input_shape, _ = LAYERS[6]
    with pytest.raises(AssertionError):
        test_weight_vectors_are_what_feeds_one_output_unit(layer, input_shape, layouts.out_first)
