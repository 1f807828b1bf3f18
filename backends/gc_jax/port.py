"""gc_jax as the conformance suite asks for it: all of its functions, its own choice of axes, its transformations.

    gc-conformance run gc_jax.port

`centralize_layer` builds the layer that the words describe, of Equinox where the output is stored first and of Flax
where it is last, and asks `gc_jax.plan`. What these libraries do not have is not provided.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gc_core import checks
from gc_core.plan import Plan, Row
from gc_core.reasons import GCWarning
from gc_jax import (
    adam,
    adam_init,
    adam_update,
    adamw,
    arrays,
    centralize,
    centralize_gradients,
    fan_in_axes,
    from_numpy,
    plan,
    sgd,
    sgdm_init,
    sgdm_update,
    to_numpy,
)

__all__ = [
    "adam_init",
    "adam_update",
    "centralize",
    "centralize_layer",
    "fan_in_axes",
    "from_numpy",
    "name",
    "optimizer",
    "rounding",
    "sgdm_init",
    "sgdm_update",
    "to_numpy",
]

name = "gc_jax"
rounding = checks.WAYS


def __getattr__(attribute: str) -> Any:
    if attribute == "dtypes":
        return arrays.dtypes()
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")


# ---- Layers


def centralize_layer(
    kind: str,
    grad: jax.Array,
    *,
    stored: str,
    part: str = "weight",
    groups: int = 1,
    stack: str | None = None,
    tied: bool = False,
) -> jax.Array:
    """The gradient of one parameter of a layer, centralized as the plan of that layer says.

    Args:
        kind, stored, part, groups, stack, tied: the words of `gc_conformance.chapters.layers`.
        grad: the gradient, of the shape that `stored` names.

    Raises:
        NotImplementedError: Flax and Equinox have no such layer, or neither is installed.

    >>> import jax.numpy as jnp
    >>> centralize_layer("linear", jnp.array([[1.0, 3.0]]), stored="out in")
    Array([[-1.,  1.]], dtype=float32)
    """
    words = " ".join([kind, part, stored, *(["stack"] if stack else []), *(["tied"] if tied else [])])
    sizes = dict(zip(stored.split(), grad.shape, strict=True))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GCWarning)  # a table alone is a model without a weight, and meant
            made = _layer(kind, part, stored, groups, stack, tied, sizes)
    except ImportError as error:
        raise NotImplementedError(f"{words}: {error.name} is not installed") from error
    if made is None:
        raise NotImplementedError(f"neither Flax nor Equinox has this layer, stored so: {words}")
    rows, row = made
    assert rows[row].shape == grad.shape, f"{words}: built {rows[row].shape} for a gradient of {grad.shape}"
    updates: Any
    updates, _ = centralize_gradients(rows).update({row: grad}, optax.EmptyState())
    return updates[row]


def _layer(kind, part, stored, groups, stack, tied, n) -> tuple[Plan, str] | None:
    """The plan of the layer that the words describe, and the name of the parameter in it."""
    first = stored.split()[0 if stack is None else 1]
    spatial = tuple(n[axis] for axis in "dhw" if axis in n)
    if stack is not None:
        return _stacked(kind, stored, stack, spatial, n)
    if kind == "linear" and part != "weight":
        return _parametrized(part, n)
    if kind == "linear" and first == "out":
        return plan(_equinox("Linear", n["in"], n["out"])), "weight"
    if kind == "linear":
        return plan(_nnx("Linear", n["in"], n["out"])), "kernel"
    if kind.startswith("conv") and first == "out":
        name = kind.replace("conv_transpose", "ConvTranspose").replace("conv", "Conv")
        return plan(_equinox(name, n["in"] * groups, n["out"], spatial, groups=groups)), "weight"
    if kind.startswith("conv_transpose") and first in "dhw":
        flipped = stored.endswith("out in")
        return plan(_nnx("ConvTranspose", n["in"], n["out"], spatial, transpose_kernel=flipped)), "kernel"
    if kind.startswith("conv") and first in "dhw":
        return plan(_nnx("Conv", n["in"] * groups, n["out"], spatial, feature_group_count=groups)), "kernel"
    if kind in ("lstm", "gru") and part in ("weight_ih", "weight_hh"):
        cell, gates = {"lstm": ("LSTMCell", 4), "gru": ("GRUCell", 3)}[kind]
        return plan(_equinox(cell, n["in"], n["out"] // gates)), part
    if kind == "attention":
        return _attention(part, stored, n)
    if kind == "embedding" and tied:
        return _tied_embedding(n)
    if kind in ("embedding", "position_embedding") and "one" not in n:
        return plan(_nnx("Embed", n.get("vocab", n.get("positions")), n["dim"])), "embedding"
    if kind == "norm_scale" and stored == "channels":
        return plan(_nnx("LayerNorm", n["channels"])), "scale"
    if kind == "norm_scale":
        return plan(_equinox("LayerNorm", tuple(n.values()), keyless=True)), "weight"
    if kind == "bias" and stored == "out":
        return plan(_nnx("Linear", 3, n["out"])), "bias"
    if kind == "bias" and "heads" in n:
        return plan(_nnx_attention(5, n["heads"], n["head_dim"])), "query.bias"
    # What models hold themselves, by the names that they give it.
    own = {
        "bias": "bias",
        "layer_scale": "layer_scale",
        "class_token": "cls_token",
        "position_embedding": "pos_embedding",
        "relative_position_table": "relative_position_bias",
        "unknown": "theta",
    }.get(kind)
    return None if own is None else (plan(_module_with(own, tuple(n.values()))), own)


# Shapes are enough for a plan, and are had without drawing weights.


def _equinox(name, *arguments, keyless=False, **options) -> Any:
    import equinox

    key = {} if keyless else {"key": jax.random.key(0)}
    return equinox.filter_eval_shape(lambda: getattr(equinox.nn, name)(*arguments, **options, **key))


def _nnx(name, *arguments, **options) -> Any:
    from flax import nnx

    return nnx.eval_shape(lambda: getattr(nnx, name)(*arguments, **options, rngs=nnx.Rngs(0)))


def _nnx_attention(size_in, heads, head_dim, out=None) -> Any:
    return _nnx("MultiHeadAttention", heads, size_in, heads * head_dim, out, decode=False)


def _module_with(parameter, shape) -> Any:
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self):
            setattr(self, parameter, nnx.Param(jnp.zeros(shape)))

    return Model()


def _parametrized(part, n) -> tuple[Plan, str] | None:
    import equinox

    linear = equinox.nn.Linear(n.get("in", 3), n["out"], key=jax.random.key(0))
    if part.startswith("weight_norm."):
        return plan(equinox.nn.WeightNorm(linear)), "g" if part.endswith("magnitude") else "layer.weight"
    if part == "spectral_norm.original":
        return plan(equinox.nn.SpectralNorm(linear, "weight", key=jax.random.key(0))), "layer.weight"
    return None


def _attention(part, stored, n) -> tuple[Plan, str] | None:
    if stored == "out in" and part in ("query", "key", "value", "out"):
        sizes = {
            "query": dict(query_size=n["in"], qk_size=n["out"]),
            "key": dict(query_size=3, key_size=n["in"], qk_size=n["out"]),
            "value": dict(query_size=3, value_size=n["in"], vo_size=n["out"]),
            "out": dict(query_size=3, vo_size=n["in"], output_size=n["out"]),
        }[part]
        return plan(_equinox("MultiheadAttention", 1, **sizes)), f"{part.replace('out', 'output')}_proj.weight"
    if stored == "in heads head_dim" and part in ("query", "key", "value"):
        return plan(_nnx_attention(n["in"], n["heads"], n["head_dim"])), f"{part}.kernel"
    if stored == "heads head_dim out" and part == "out":
        return plan(_nnx_attention(5, n["heads"], n["head_dim"], n["out"])), "out.kernel"
    return None


def _tied_embedding(n) -> tuple[Plan, str]:
    import equinox

    pair = (_equinox("Embedding", n["vocab"], n["dim"]), _equinox("Linear", n["dim"], n["vocab"], use_bias=False))
    # The head keeps the table, and the embedding reads it there: the harder way round.
    return plan(equinox.nn.Shared(pair, lambda pair: pair[0].weight, lambda pair: pair[1].weight)), "pytree.1.weight"


def _stacked(kind, stored, stack, spatial, n) -> tuple[Plan, str] | None:
    """Equinox and NNX layers by vmap; Linen layers under scan, and under vmap for experts, with the stack declared."""
    if kind == "linear" and stored == "stack out in":
        import equinox

        keys = jax.random.split(jax.random.key(0), n["stack"])
        make = equinox.filter_vmap(lambda key: equinox.nn.Linear(n["in"], n["out"], key=key))
        return plan(equinox.filter_eval_shape(make, keys)), "weight"
    if (kind, stored) not in (("linear", "stack in out"), ("conv2d", "stack h w in out")):
        return None
    if stack == "vmap":
        from flax import nnx

        @nnx.vmap
        def make(key):
            rngs = nnx.Rngs(key)
            if kind == "linear":
                return nnx.Linear(n["in"], n["out"], rngs=rngs)
            return nnx.Conv(n["in"], n["out"], spatial, rngs=rngs)

        return plan(make(jax.random.split(jax.random.key(0), n["stack"]))), "kernel"

    from flax import linen

    class Layer(linen.Module):
        @linen.compact
        def __call__(self, carry, x):
            layer = linen.Dense(n["out"]) if kind == "linear" else linen.Conv(n["out"], spatial)
            return carry, layer(x)

    lift = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    many: Callable = (
        linen.scan(Layer, **lift, length=n["stack"])
        if stack == "scan"
        else linen.vmap(Layer, **lift, in_axes=(None, 0), axis_size=n["stack"])  # pyright: ignore[reportArgumentType]
    )
    x = jnp.zeros((n["stack"], *(4 for _ in spatial), n["in"]))
    variables = jax.eval_shape(many().init, jax.random.key(0), 0.0, x)
    layer = "Dense_0" if kind == "linear" else "Conv_0"
    return plan(variables["params"], "out_last", stacked={"*": 0}), f"{layer}.kernel"


# ---- Optimizers


class optimizer:  # the suite calls it as a function
    """The transformations behind the suite's stateful interface.

    Args:
        kind: "sgd", "adam" or "adamw".
        params, axes: arrays and fan-in axes by name.
        hyper: the suite's names; Optax has no dampening and no amsgrad.

    Raises:
        NotImplementedError: an option that Optax's optimizer of this kind does not have.
        TypeError, ValueError: as the transformations.

    >>> import jax.numpy as jnp
    >>> one = optimizer("sgd", {"w": jnp.array([[1.0, 3.0]])}, {"w": 1}, lr=0.5)
    >>> one.step({"w": jnp.array([[2.0, 4.0]])})
    >>> one.params()
    {'w': Array([[1.5, 2.5]], dtype=float32)}
    """

    def __init__(self, kind: str, params: dict, axes: dict, **hyper: Any):
        for option in ("dampening", "amsgrad"):
            if hyper.pop(option, False):
                raise NotImplementedError(f"Optax has no {option}")
        lr, decay = hyper.pop("lr", 1e-3), hyper.pop("weight_decay", 0.01 if kind == "adamw" else 0.0)
        checks.number("lr", lr, low=0.0)
        checks.number("weight_decay", decay, low=0.0)
        if "betas" in hyper:
            checks.adam(
                lr=lr, eps=0.0, weight_decay=0.0, decoupled=False, amsgrad=False, gc_on="update", betas=hyper["betas"]
            )
            hyper["b1"], hyper["b2"] = hyper.pop("betas")
        rows = [
            Row(name, w.shape, w.shape, checks.axis(axes[name], w.shape, f"axis of {name!r}:"), "given")
            for name, w in params.items()
        ]
        if kind != "adam":
            hyper["weight_decay"] = decay
        transform = {"sgd": sgd, "adam": adam, "adamw": adamw}[kind](lr, plan=Plan(rows), **hyper)
        self._transform = optax.chain(optax.add_decayed_weights(decay), transform) if kind == "adam" else transform
        self._params: Any = dict(params)
        self._state = self._transform.init(params)

    def step(self, grads: dict) -> None:
        """Update every parameter, or none if an error is raised."""
        for name, grad in grads.items():  # in JAX a list is a tree of gradients, not a wrong one
            checks.array(arrays.JAX, f"grads[{name!r}]", grad)
            checks.like(arrays.JAX, self._params[name], f"grads[{name!r}]", grad)
        updates, self._state = self._transform.update(grads, self._state, self._params)
        self._params = optax.apply_updates(self._params, updates)

    def params(self) -> dict:
        """The parameters by name."""
        return {**self._params}
