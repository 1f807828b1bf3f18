"""Plans of Keras models, on stand-ins for Keras's classes: Keras belongs in another environment.

Where Keras is installed, with JAX as its backend, the last test here holds the same expectations to the real layers.
"""

import importlib.util

import jax.numpy as jnp
import optax
import pytest

import gc_jax as gct


class Variable:
    def __init__(self, path, shape):
        self.path, self.shape = path, shape


class Layer:
    """As much of keras.layers.Layer as a plan reads: its own variables, and those of the layers inside of it."""

    def __init__(self, path, shapes, *inside, **attributes):
        self.own = [Variable(f"{path}/{leaf}" if path else leaf, shape) for leaf, shape in shapes.items()]
        self.inside = inside
        vars(self).update(attributes)

    @property
    def trainable_variables(self):
        return [*self.own, *(variable for layer in self.inside for variable in layer.trainable_variables)]

    def _flatten_layers(self):
        yield self
        for layer in self.inside:
            yield from layer._flatten_layers()


Layer.__module__ = "keras.src.layers.layer"


def stand_in(name, path, shapes, *inside, base=None, **attributes):
    """A layer of a class with the name, the module and the base class that Keras gives it."""
    bases = (type(base, (Layer,), {"__module__": "keras.src.layers.base"}),) if base else (Layer,)
    return type(name, bases, {"__module__": "keras.src.layers"})(path, shapes, *inside, **attributes)


ATTENTION = "multi_head_attention"
# By hand: (shape, axes); everything else none.
WEIGHTS = {
    "conv2d.kernel": ((3, 3, 3, 4), (0, 1, 2)),
    "conv2d_transpose.kernel": ((3, 3, 5, 4), (0, 1, 3)),
    "depthwise_conv2d.kernel": ((3, 3, 5, 2), (0, 1)),
    "separable_conv2d.depthwise_kernel": ((3, 3, 10, 1), (0, 1)),
    "separable_conv2d.pointwise_kernel": ((1, 1, 10, 4), (0, 1, 2)),
    f"{ATTENTION}.query.kernel": ((4, 2, 3), (0,)),
    f"{ATTENTION}.key.kernel": ((4, 2, 3), (0,)),
    f"{ATTENTION}.value.kernel": ((4, 2, 3), (0,)),
    f"{ATTENTION}.attention_output.kernel": ((2, 3, 4), (0, 1)),
    "lstm.lstm_cell.kernel": ((4, 20), (0,)),
    "lstm.lstm_cell.recurrent_kernel": ((5, 20), (0,)),
    "spectral_normalization.dense.kernel": ((5, 6), (0,)),
    "dense_1.kernel": ((6, 2), (0,)),
}


def model():
    square = {"kernel_size": (3, 3)}
    kernels = dict.fromkeys(("query", "key", "value"), ((4, 2, 3), "abc,cde->abde"))
    kernels["attention_output"] = ((2, 3, 4), "abcd,cde->abe")
    projections = [
        stand_in("EinsumDense", f"{ATTENTION}/{leaf}", {"kernel": shape, "bias": shape[-1:]}, equation=equation)
        for leaf, (shape, equation) in kernels.items()
    ]
    normalized = stand_in("Dense", "spectral_normalization/dense", {"kernel": (5, 6)})
    cell = {"kernel": (4, 20), "recurrent_kernel": (5, 20), "bias": (20,)}
    separable = {"depthwise_kernel": (3, 3, 10, 1), "pointwise_kernel": (1, 1, 10, 4), "bias": (4,)}
    return stand_in(
        "Functional",
        "",
        {},
        stand_in("Conv2D", "conv2d", {"kernel": (3, 3, 3, 4), "bias": (4,)}, base="BaseConv", **square),
        stand_in("Conv2DTranspose", "conv2d_transpose", {"kernel": (3, 3, 5, 4)}, base="BaseConvTranspose", **square),
        stand_in("DepthwiseConv2D", "depthwise_conv2d", {"kernel": (3, 3, 5, 2)}, base="BaseDepthwiseConv", **square),
        stand_in("SeparableConv2D", "separable_conv2d", separable, base="BaseSeparableConv", **square),
        stand_in("BatchNormalization", "batch_normalization", {"gamma": (4,), "beta": (4,)}),
        stand_in("PReLU", "p_re_lu", {"alpha": (6, 6, 4)}),
        stand_in("MultiHeadAttention", ATTENTION, {}, *projections),
        stand_in("Embedding", "embedding", {"embeddings": (9, 4)}),
        stand_in("LSTM", "lstm", {}, stand_in("LSTMCell", "lstm/lstm_cell", cell)),
        stand_in("SpectralNormalization", "spectral_normalization", {}, normalized),
        stand_in("Dense", "dense_1", {"kernel": (6, 2), "bias": (2,)}),
        stand_in("Mine", "mine", {"kernel": (2, 2)}),
    )


def weights(plan):
    return {name: (row.shape, row.axes) for name, row in plan.items() if row.axes}


def test_keras_layers_by_stand_ins():
    plan = gct.plan(model())
    assert weights(plan) == WEIGHTS
    assert len(plan) == len(model().trainable_variables)
    assert "owned directly by a custom module" in plan["mine.kernel"].why
    assert plan["conv2d.kernel"].why.startswith("Conv2D, ")
    with pytest.raises(ValueError, match="layout must be 'out_last'"):
        gct.plan(model(), "out_first")


def test_a_list_of_arrays_in_keras_s_order_fits():
    plan = gct.plan(model())
    grads = [jnp.ones(row.shape) for row in plan.rows]
    updates, _ = gct.centralize_gradients(plan).update(grads, optax.EmptyState())
    for row, update in zip(plan.rows, updates, strict=True):
        assert (jnp.abs(update) <= 1e-6).all() == (row.axes is not None)


@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="Keras is not installed")
def test_keras_s_own_layers(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    import keras

    layers = keras.layers
    keras.backend.clear_session()
    image = keras.Input((8, 8, 3))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.Conv2DTranspose(5, 3)(layers.Conv2D(4, 3)(image)))
    x = layers.BatchNormalization()(layers.SeparableConv2D(4, 3, padding="same")(x))
    x = layers.Reshape((-1, 4))(layers.PReLU()(x))
    x = layers.LSTM(5)(layers.MultiHeadAttention(2, 3)(x, x))
    x = layers.Dense(2, name="dense_1")(layers.SpectralNormalization(layers.Dense(6, name="dense"))(x))
    assert weights(gct.plan(keras.Model(image, x))) == WEIGHTS
