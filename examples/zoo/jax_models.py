"""Small models of JAX's libraries, by family, each with how it is called: for plans by classes, names and program.

    for family, name, params, apply, batch, modules in models():
        plan = gct.plan(params, apply=apply, batch=batch)

`apply(params, *batch)` is pure (None: the module's own call), and `modules` is what `plan` takes for Linen (None
elsewhere). Parameters are shapes where the library can say them without making them. Libraries that are not installed
are left out: ask `families()`.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

KEY = jax.random.key(0)


class Model(NamedTuple):
    family: str
    name: str
    params: Any
    apply: Callable[..., Any] | None
    batch: tuple[Any, ...]
    modules: Any = None
    # What plan() is given without a batch: the params, or the module itself, and the layout that a plain tree needs.
    root: Any = None
    layout: str | None = None


def models() -> Iterator[Model]:
    """Every model of every library that is installed."""
    for library, found in _FAMILIES.items():
        if find_spec(library) is not None:
            yield from found()


def families() -> dict[str, bool]:
    """The libraries, and whether each is installed.

    >>> families()["flax"]
    True
    """
    return {library: find_spec(library) is not None for library in _FAMILIES}


def _shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


# ---- Flax Linen


def _linen() -> Iterator[Model]:
    import flax.linen as nn

    x, image, tokens = _shape(2, 6, 8), _shape(2, 16, 16, 3), _shape(2, 6, dtype=jnp.int32)

    class Mlp(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(16)(x))
            return nn.Dense(5)(nn.LayerNorm()(x))

    class Block(nn.Module):
        bias: bool = True

        @nn.compact
        def __call__(self, x, _=None):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(2, use_bias=self.bias, normalize_qk=True)(h)
            h = nn.Dense(16, use_bias=self.bias)(nn.RMSNorm()(x))
            return x + nn.Dense(8, use_bias=self.bias)(nn.gelu(h)), None

    class Scanned(nn.Module):
        axis: int = 0

        @nn.compact
        def __call__(self, tokens):
            table = nn.Embed(11, 8)
            x = table(tokens) + self.param("pos_embedding", nn.initializers.zeros, (6, 8))
            stack = nn.scan(nn.remat(Block), variable_axes={"params": self.axis}, split_rngs={"params": True}, length=3)
            x, _ = stack(bias=False)(x, None)
            return table.attend(nn.LayerNorm()(x))

    class Vit(nn.Module):
        @nn.compact
        def __call__(self, image):
            x = nn.Conv(8, (4, 4), strides=4, padding="VALID", name="embedding")(image).reshape(2, 16, 8)
            cls = self.param("cls", nn.initializers.zeros, (1, 1, 8))
            x = jnp.concatenate([jnp.broadcast_to(cls, (2, 1, 8)), x], 1)
            x = x + self.param("pos_embedding", nn.initializers.normal(), (1, 17, 8))
            for _ in range(2):
                x, _ = Block()(x)
            return nn.Dense(5, name="head")(x[:, 0] * self.param("layer_scale", nn.initializers.ones, (8,)))

    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(8, (3, 3), use_bias=False)(x)
            y = nn.relu(nn.BatchNorm(use_running_average=True)(x))
            y = nn.Conv(8, (3, 3), use_bias=False, strides=2)(y)
            y = nn.GroupNorm(2)(nn.Conv(8, (3, 3), feature_group_count=8)(y))
            x = nn.Conv(8, (1, 1), use_bias=False, strides=2)(x) + y
            return nn.Dense(5)(nn.PReLU()(x).mean((1, 2)))

    class UNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Conv(8, (3, 3), strides=2)(x)
            y = nn.ConvTranspose(8, (2, 2), strides=(2, 2), transpose_kernel=True)(y)
            y = nn.ConvTranspose(6, (3, 3))(y)
            return nn.Conv(3, (1, 1))(jnp.concatenate([x, y], -1))

    class Odd(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.DenseGeneral((2, 5), axis=(-2, -1), name="general")(x)
            x = nn.Einsum((2, 5, 7), "bij,ijk->bik", name="einsum")(x)
            x = nn.WeightNorm(nn.Dense(4))(x)
            x = nn.SpectralNorm(nn.Dense(6))(x, update_stats=False)
            return nn.ConvLocal(3, (2,), name="local")(x)

    class Recurrent(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Bidirectional(nn.RNN(nn.LSTMCell(4)), nn.RNN(nn.GRUCell(4)))(x)
            return nn.RNN(nn.OptimizedLSTMCell(3))(nn.RNN(nn.SimpleCell(5))(x))

    class Ensemble(nn.Module):
        @nn.compact
        def __call__(self, x):
            many = nn.vmap(Mlp, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=3)
            return many()(x)

    class T5Dense(nn.Module):
        """As in T5X: a kernel of two axes, seen as more."""

        features: tuple[int, ...]
        axis: tuple[int, ...] = (-1,)

        @nn.compact
        def __call__(self, x):
            shape = (*(x.shape[axis] for axis in self.axis), *self.features)
            size = [1, 1]
            for i, n in enumerate(shape):
                size[i >= len(self.axis)] *= n
            kernel = self.param("kernel", nn.initializers.normal(), tuple(size)).reshape(shape)
            over = tuple(axis % x.ndim for axis in self.axis)
            return jax.lax.dot_general(x, kernel, ((over, tuple(range(len(over)))), ((), ())))

    class T5(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(11, 8, name="token_embedder")(tokens)
            q, k, v = (T5Dense((2, 4), name=name)(x) for name in ("query", "key", "value"))
            bias = nn.Embed(4, 2, name="relpos_bias")(jnp.zeros((6, 6), int))
            weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias.transpose(2, 0, 1))
            x = x + T5Dense((8,), (-2, -1), name="out")(jnp.einsum("bhqk,bkhd->bqhd", weights, v))
            gate, up = T5Dense((16,), name="wi_0")(x), T5Dense((16,), name="wi_1")(x)
            return T5Dense((8,), name="wo")(nn.gelu(gate) * up)

    class Experts(nn.Module):
        @nn.compact
        def __call__(self, x):
            gates = jax.nn.softmax(nn.Dense(4, use_bias=False, name="router")(x))
            up = self.param("up", nn.initializers.normal(), (4, 8, 16))
            down = self.param("down", nn.initializers.normal(), (4, 16, 8))
            y = jnp.einsum("bth,ehf->betf", x, up)
            return jnp.einsum("bte,beth->bth", gates, jnp.einsum("betf,efh->beth", nn.relu(y), down))

    class Mixer(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(6)(nn.gelu(nn.Dense(12)(nn.LayerNorm()(x).swapaxes(1, 2))))
            x = x + y.swapaxes(1, 2)
            gate, up = jnp.split(nn.Dense(32, use_bias=False)(nn.RMSNorm()(x)), 2, -1)
            return x + nn.Dense(8, use_bias=False)(nn.silu(gate) * up)

    class Autoencoder(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
            x = nn.tanh(nn.Dense(6)(x.reshape(2, -1)))
            x = nn.Dense(8 * 8 * 4)(x).reshape(2, 8, 8, 4)
            return nn.ConvTranspose(3, (3, 3), strides=(2, 2))(x)

    cases = {
        "MLP": (Mlp(), (x,)),
        "Mixer with a gate": (Mixer(), (x,)),
        "autoencoder": (Autoencoder(), (image,)),
        "transformer, scanned": (Scanned(), (tokens,)),
        "transformer, scanned along axis 1": (Scanned(1), (tokens,)),
        "ViT": (Vit(), (image,)),
        "ResNet": (ResNet(), (image,)),
        "U-Net": (UNet(), (image,)),
        "rarer layers": (Odd(), (x,)),
        "recurrent": (Recurrent(), (x,)),
        "ensemble by vmap": (Ensemble(), (x,)),
        "T5X": (T5(), (tokens,)),
        "experts": (Experts(), (x,)),
    }
    for name, (module, batch) in cases.items():
        variables = jax.eval_shape(module.init, KEY, *batch)
        rest = {k: v for k, v in variables.items() if k != "params"}

        def apply(params, *batch, module=module, rest=rest):
            full = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), rest)
            return module.apply({"params": params, **full}, *batch)

        modules = module.module_paths(KEY, *(jnp.zeros(one.shape, one.dtype) for one in batch))
        yield Model("Flax Linen", name, variables["params"], apply, batch, modules, layout="out_last")


# ---- Flax NNX


def _nnx() -> Iterator[Model]:
    from flax import nnx

    rngs = nnx.Rngs(0)
    x, tokens = _shape(2, 6, 8), _shape(2, 6, dtype=jnp.int32)

    class Transformer(nnx.Module):
        def __init__(self):
            self.embed = nnx.Embed(11, 8, rngs=rngs)
            self.norm = nnx.RMSNorm(8, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 8, decode=False, normalize_qk=True, rngs=rngs)
            self.up, self.down = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 8, rngs=rngs)

        def __call__(self, tokens):
            x = self.embed(tokens)
            x = x + self.attention(self.norm(x))
            return self.embed.attend(x + self.down(nnx.gelu(self.up(x))))

    class Convolutional(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(8, 4, (3,), feature_group_count=2, rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.up = nnx.ConvTranspose(4, 6, (2,), rngs=rngs)
            self.up_kernel = nnx.ConvTranspose(6, 6, (2,), transpose_kernel=True, rngs=rngs)
            self.prelu = nnx.PReLU()

        def __call__(self, x):
            return self.prelu(self.up_kernel(self.up(self.norm(self.conv(x)))))

    class LowRank(nnx.Module):
        def __init__(self):
            self.first = nnx.LoRALinear(8, 7, lora_rank=2, rngs=rngs)
            self.adapter = nnx.LoRA(7, 3, 6, base_module=nnx.Linear(7, 6, rngs=rngs), rngs=rngs)

        def __call__(self, x):
            return self.adapter(nnx.relu(self.first(x)))

    class Odd(nnx.Module):
        def __init__(self):
            self.general = nnx.LinearGeneral((6, 8), (4, 5), axis=(1, -1), rngs=rngs)
            self.einsum = nnx.Einsum("bij,ijk->bik", (4, 5, 7), (4, 7), rngs=rngs)
            self.normed = nnx.WeightNorm(nnx.Linear(7, 4, rngs=rngs), rngs=rngs)
            self.spectral = nnx.SpectralNorm(nnx.Linear(4, 6, rngs=rngs), rngs=rngs)
            self.cell = nnx.RNN(nnx.GRUCell(6, 4, rngs=rngs))

        def __call__(self, x):
            return self.cell(self.spectral(self.normed(self.einsum(self.general(x)))))

    class Stacked(nnx.Module):
        def __init__(self):
            make = nnx.vmap(lambda key: nnx.Linear(8, 8, rngs=nnx.Rngs(key)), in_axes=0, out_axes=0)
            self.layers = make(jax.random.split(KEY, 3))

        def __call__(self, x):
            step = nnx.scan(lambda x, layer: nnx.relu(layer(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            return step(x, self.layers)

    for module, batch in (
        (Transformer(), tokens),
        (Convolutional(), x),
        (LowRank(), x),
        (Odd(), x),
        (Stacked(), x),
    ):
        yield Model("Flax NNX", type(module).__name__, module, None, (batch,), root=module)


# ---- Equinox


def _equinox() -> Iterator[Model]:
    import equinox as eqx

    nn, keys = eqx.nn, iter(jax.random.split(KEY, 40))

    class Attention(eqx.Module):
        embed: nn.Embedding
        attention: nn.MultiheadAttention
        norm: nn.LayerNorm
        head: nn.Linear
        position: jax.Array

        def __call__(self, tokens):
            x = jax.vmap(self.embed)(tokens) + self.position
            x = x + self.attention(x, x, x)
            return jax.vmap(self.head)(jax.vmap(self.norm)(x))

    class Convolutional(eqx.Module):
        conv: nn.Conv1d
        grouped: nn.Conv1d
        up: nn.ConvTranspose1d
        grouped_up: nn.ConvTranspose1d
        norm: nn.GroupNorm
        normed: nn.WeightNorm
        prelu: nn.PReLU

        def __call__(self, x):
            x = self.norm(self.grouped_up(self.up(self.grouped(self.conv(x)))))
            return self.prelu(self.normed(x.mean(1)))

    class Recurrent(eqx.Module):
        gru: nn.GRUCell
        lstm: nn.LSTMCell

        def __call__(self, x):
            h, _ = jax.lax.scan(lambda h, x: (self.gru(x, h), None), jnp.zeros(4), x)
            state, _ = jax.lax.scan(lambda s, x: (self.lstm(x, s), None), (h, h), x)
            return state[0]

    class Stacked(eqx.Module):
        layers: nn.Linear
        scale: jax.Array

        def __call__(self, x):
            arrays, static = eqx.partition(self.layers, eqx.is_array)
            x, _ = jax.lax.scan(lambda x, layer: (jnp.tanh(eqx.combine(layer, static)(x)), None), x, arrays)
            return x * self.scale

    class LowRank(eqx.Module):
        base: nn.Linear
        lora_a: jax.Array  # (rank, in)
        lora_b: jax.Array  # (out, rank)

        def __call__(self, x):
            return self.base(x) + 0.5 * self.lora_b @ (self.lora_a @ x)

    class Merged(LowRank):
        def __call__(self, x):
            return (self.base.weight + 0.5 * self.lora_b @ self.lora_a) @ x

    class Own(eqx.Module):  # its own Linear, as in Equinox's first example
        weight: jax.Array
        bias: jax.Array

        def __call__(self, x):
            return self.weight @ x + self.bias

    class Patches(eqx.Module):
        embedding: nn.Conv2d
        token: jax.Array
        mixer: nn.MLP
        head: nn.Linear

        def __call__(self, image):
            x = self.embedding(image).reshape(8, -1).T
            x = jnp.concatenate([self.token, x])
            return self.head(jax.vmap(self.mixer)(x)[0])

    def low_rank(use_bias):
        return nn.Linear(8, 6, use_bias=use_bias, key=next(keys)), jnp.ones((2, 8)), jnp.ones((6, 2))

    cases = {
        "MLP": (nn.MLP(8, 5, 16, 2, key=next(keys)), _shape(8)),
        "attention": (
            Attention(
                nn.Embedding(11, 8, key=next(keys)),
                nn.MultiheadAttention(2, 8, key=next(keys)),
                nn.LayerNorm(8),
                nn.Linear(8, 5, key=next(keys)),
                jnp.ones((6, 8)),
            ),
            _shape(6, dtype=jnp.int32),
        ),
        "convolutions": (
            Convolutional(
                nn.Conv1d(4, 6, 3, key=next(keys)),
                nn.Conv1d(6, 6, 3, groups=3, key=next(keys)),
                nn.ConvTranspose1d(6, 6, 2, key=next(keys)),
                nn.ConvTranspose1d(6, 4, 2, groups=2, key=next(keys)),
                nn.GroupNorm(2, 4),
                nn.WeightNorm(nn.Linear(4, 3, key=next(keys))),
                nn.PReLU(),
            ),
            _shape(4, 12),
        ),
        "recurrent": (Recurrent(nn.GRUCell(8, 4, key=next(keys)), nn.LSTMCell(8, 4, key=next(keys))), _shape(6, 8)),
        "stacked by vmap": (
            Stacked(eqx.filter_vmap(lambda key: nn.Linear(8, 8, key=key))(jax.random.split(KEY, 3)), jnp.ones(8)),
            _shape(8),
        ),
        "low-rank factors": (LowRank(*low_rank(True)), _shape(8)),
        "low-rank factors, merged": (Merged(*low_rank(False)), _shape(8)),
        "patches": (
            Patches(
                nn.Conv2d(3, 8, 4, 4, key=next(keys)),
                jnp.ones((1, 8)),
                nn.MLP(8, 8, 16, 1, key=next(keys)),
                nn.Linear(8, 5, key=next(keys)),
            ),
            _shape(3, 16, 16),
        ),
        "a Linear of one's own": (Own(jnp.ones((5, 8)), jnp.ones(5)), _shape(8)),
    }
    for name, (module, batch) in cases.items():
        yield Model("Equinox", name, module, None, (batch,), root=module)


# ---- Haiku


def _haiku() -> Iterator[Model]:
    import haiku as hk

    def mlp(x):
        return hk.nets.MLP([16, 5])(x)

    def transformer(tokens):
        x = hk.Embed(11, 8)(tokens)
        x = x + hk.MultiHeadAttention(2, 4, w_init=hk.initializers.RandomNormal())(x, x, x)
        return hk.Linear(5)(hk.LayerNorm(-1, True, True)(x))

    def convolutions(x):
        x = hk.Conv2D(8, 3, with_bias=False)(x)
        x = hk.Conv2DTranspose(8, 3)(hk.DepthwiseConv2D(1, 3)(x))
        return hk.Linear(5)(hk.Conv2DTranspose(8, 2, with_bias=False)(x).mean((1, 2)))

    def recurrent(x):
        y, _ = hk.static_unroll(hk.GRU(4), x, hk.GRU(4).initial_state(6))
        return hk.dynamic_unroll(hk.LSTM(5), y, hk.LSTM(5).initial_state(6))[0]

    def layers(x):
        return hk.experimental.layer_stack(3)(lambda x: jax.nn.relu(hk.Linear(8, with_bias=False)(x)))(x)

    cases = {
        "MLP": (mlp, _shape(2, 8)),
        "transformer": (transformer, _shape(2, 6, dtype=jnp.int32)),
        "convolutions": (convolutions, _shape(2, 8, 8, 3)),
        "recurrent": (recurrent, _shape(2, 6, 8)),
        "layer_stack": (layers, _shape(2, 8)),
    }
    for name, (function, batch) in cases.items():
        pure = hk.without_apply_rng(hk.transform(function))
        params = jax.eval_shape(pure.init, KEY, batch)
        yield Model("Haiku", name, params, pure.apply, (batch,), layout="out_last")


# ---- Keras


def _keras() -> Iterator[Model]:
    import keras

    if keras.backend.backend() != "jax":
        return
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.Conv2DTranspose(5, 3)(layers.Conv2D(4, 3)(image)))
    x = layers.BatchNormalization()(layers.SeparableConv2D(4, 3, padding="same")(x))
    x = layers.Reshape((-1, 4))(layers.PReLU()(x))
    x = layers.LSTM(5)(layers.MultiHeadAttention(2, 3)(x, x))
    x = layers.Dense(2)(layers.SpectralNormalization(layers.Dense(6))(x))
    yield _of_keras("convolutions and attention", keras.Model(image, x), _shape(2, 8, 8, 3))

    tokens = keras.Input((6,), dtype="int32")
    x = layers.GRU(4, return_sequences=True)(layers.Embedding(11, 8)(tokens))
    x = layers.LayerNormalization()(layers.EinsumDense("abc,cd->abd", output_shape=(None, 5), bias_axes="d")(x))
    yield _of_keras("tokens", keras.Model(tokens, layers.SimpleRNN(3)(x)), _shape(2, 6, dtype=jnp.int32))

    dense = layers.Dense(7)
    features = keras.Input((8,))
    model = keras.Model(features, layers.Dense(3)(dense(features)))
    dense.enable_lora(2)
    yield _of_keras("LoRA", model, _shape(2, 8))


def _of_keras(name: str, model: Any, batch: Any) -> Model:
    return Model("Keras", name, model, None, (batch,), root=model)


# ---- NumPyro, and plain functions


def _numpyro() -> Iterator[Model]:
    import flax.linen as nn
    from numpyro import handlers
    from numpyro.contrib.module import flax_module

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(jnp.tanh(nn.Dense(16)(x)))

    def model(x):
        return flax_module("net", Net(), input_shape=(1, 8))(x)

    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        model(jnp.ones((2, 8)))
    params = {name: site["value"] for name, site in trace.items() if site["type"] == "param"}

    def apply(params, x):
        with handlers.substitute(data=params):
            return model(x)

    yield Model("NumPyro", "flax_module", params, apply, (_shape(2, 8),), layout="out_last")


def _plain() -> Iterator[Model]:
    def mlp(params, x):
        for w, b in params[:-1]:
            x = jnp.tanh(x @ w + b)
        w, b = params[-1]
        return x @ w + b

    sizes = (8, 16, 16, 5)
    params = [(_shape(m, n), _shape(n)) for m, n in pairwise(sizes)]
    yield Model("plain functions", "MLP", params, mlp, (_shape(2, 8),), layout="out_last")

    def gpt(params, tokens):
        x = params["wte"][tokens] + params["wpe"][: tokens.shape[-1]]
        q, k, v = jnp.split(x @ params["qkv"], 3, -1)
        x = x + jax.nn.softmax(q @ k.swapaxes(-1, -2)) @ v @ params["proj"]
        return x @ params["wte"].T

    params = {"wte": _shape(11, 8), "wpe": _shape(9, 8), "qkv": _shape(8, 24), "proj": _shape(8, 8)}
    yield Model("plain functions", "GPT", params, gpt, (_shape(2, 6, dtype=jnp.int32),), layout="out_last")

    def attention(params, x):
        q, k, v = (jnp.einsum("bti,hdi->bhtd", x, params[name]) for name in "qkv")
        y = jax.nn.softmax(jnp.einsum("bhtd,bhsd->bhts", q, k) * params["temperature"]) @ v
        return jnp.einsum("bhtd,ohd->bto", y, params["out"])

    params = {name: _shape(2, 4, 8) for name in "qkv"} | {"out": _shape(8, 2, 4), "temperature": _shape(2, 1, 1)}
    yield Model("plain functions", "attention by einsum", params, attention, (_shape(2, 6, 8),), layout="out_first")


_FAMILIES = {
    "flax": lambda: (*_linen(), *_nnx()),
    "equinox": _equinox,
    "haiku": _haiku,
    "keras": _keras,
    "numpyro": _numpyro,
    "jax": _plain,
}
