"""What a plan read from a JAX program costs, beside one forward of the model on the same sample.

Writes `benchmarks/results/jax_plan_time.json`, by turns in one process. A plan is a trace, as `jit` makes one, and the
reading of it. Of a function that was jitted the trace is kept, so that the plan and the first step make one between
them: `reading` is what is left then. The forward is taken compiled, on all cores; op by op, without `jit`; and as
it is the first time, when it is traced and compiled.
"""

import json
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import gc_jax as gct

FILE = Path("benchmarks/results/jax_plan_time.json")
ROUNDS = 5


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(12)(h, mask=nn.make_causal_mask(x[..., 0]))
        return x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x))))


class Gpt2(nn.Module):
    """As large as GPT-2's smallest: 12 layers of width 768, a tied table."""

    @nn.compact
    def __call__(self, tokens):
        table = nn.Embed(50257, 768)
        x = table(tokens) + nn.Embed(1024, 768)(jnp.arange(tokens.shape[-1]))
        for _ in range(12):
            x = Block()(x)
        return table.attend(nn.LayerNorm()(x))


class Bottleneck(nn.Module):
    width: int
    strides: int

    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.BatchNorm(True)(nn.Conv(self.width, (1, 1), use_bias=False)(x)))
        y = nn.relu(nn.BatchNorm(True)(nn.Conv(self.width, (3, 3), self.strides, use_bias=False)(y)))
        y = nn.BatchNorm(True)(nn.Conv(4 * self.width, (1, 1), use_bias=False)(y))
        if x.shape != y.shape:
            x = nn.BatchNorm(True)(nn.Conv(4 * self.width, (1, 1), self.strides, use_bias=False)(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(True)(nn.Conv(64, (7, 7), 2, use_bias=False)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                x = Bottleneck(64 * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def measured(model: nn.Module, sample: jax.Array) -> dict[str, Any]:
    variables = jax.jit(model.init)(jax.random.key(0), sample)
    params, rest = variables["params"], {name: value for name, value in variables.items() if name != "params"}

    def apply(params, sample):
        return model.apply({"params": params, **rest}, sample)

    jitted = jax.jit(apply)
    plan = lambda apply: gct.plan(params, apply=apply, batch=sample).rows and None  # noqa: E731
    parts: dict[str, Callable[[], Any]] = {
        "plan": lambda: plan(apply),
        "reading": lambda: plan(jitted),
        "trace": lambda: jax.make_jaxpr(lambda *args: apply(*args))(params, sample).consts and None,
        "forward": lambda: jitted(params, sample),
        "forward_op_by_op": lambda: apply(params, sample),
        "forward_first": lambda: jax.jit(lambda *args: apply(*args))(params, sample),
    }
    for part in parts.values():
        part()
    rounds = [{name: seconds(part) for name, part in parts.items()} for _ in range(ROUNDS)]
    tracemalloc.start()
    plan(apply)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    pairs = [(a, b) for a in ("plan", "reading") for b in parts if b.startswith("forward")]
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        **{f"{name}_seconds": statistics.median(one[name] for one in rounds) for name in parts},
        **{f"{a}_over_{b}": statistics.median(one[a] / one[b] for one in rounds) for a, b in pairs},
        "peak_python_megabytes": peak / 1e6,
    }


if __name__ == "__main__":
    results = {
        "GPT-2 124M": measured(Gpt2(), jnp.zeros((1, 128), int)),
        "ResNet-50": measured(ResNet50(), jnp.zeros((1, 224, 224, 3))),
    }
    FILE.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))
