"""The adapters: an optimizer with a switch for GC is a port as it is, and what cannot be built says why."""

import contextlib
import io
import re
import sys
import textwrap
from pathlib import Path

import pytest

from gc_conformance import PortError, run
from gc_conformance.ports import adapt

TORCH = """
    import torch

    class WithGC(torch.optim.Optimizer):
        "Momentum, right but for layers that no optimizer can see; AFTER is what its mutant does to the gradient."

        def __init__(self, params, lr=0.125, use_gc=True, weight_decay=0.0):
            super().__init__(params, dict(lr=lr, use_gc=use_gc, weight_decay=weight_decay))

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    g = p.grad.clone()
                    if BEFORE: g = g * min(1.0, 10 / g.norm())
                    if group["use_gc"] and g.ndim > 1:
                        g = g - g.mean(tuple(range(1, g.ndim)), keepdim=True)
                    if not BEFORE: g = g * min(1.0, 10 / g.norm().clamp(min=1e-6))
                    m = self.state[p].setdefault("m", torch.zeros_like(p))
                    m.mul_(0.875).add_(g)
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(m, alpha=-group["lr"])

    class NeedsMore(WithGC):
        def __init__(self, params, total_steps, use_gc=True):
            super().__init__(params, use_gc=use_gc)

    class Closure(WithGC):
        def step(self, closure=None):
            closure()
            super().step()

    def build(params, gc, momentum=0.5):
        return WithGC(params, use_gc=gc)

    class NoOptimizer:
        def __init__(self, params, use_gc=True):
            pass
"""
# What goes by shape alone cannot know.
BY_RANK = {"switch.transposed_convolutions", "switch.fan_in_one", "switch.embeddings"}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module with optimizers, right with BEFORE False; its clipping is in front of GC with BEFORE True."""
    (tmp_path / "library_of_tests.py").write_text(textwrap.dedent(TORCH) + "\nBEFORE = False\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("library_of_tests", None)
    import library_of_tests  # type: ignore[import-not-found]

    yield library_of_tests
    sys.modules.pop("library_of_tests", None)


def failed(port, **options):
    return {one.id for one in run(port, profile="quick", chapters=["switch"], **options).failed}


def test_a_class_of_torch_is_judged_as_it_is(module):
    assert failed(adapt(module.WithGC, switch="use_gc")) == BY_RANK


def test_a_function_that_builds_one_and_one_that_needs_a_closure(module):
    assert failed(adapt(module.build, switch="gc", built_with=["momentum=0.25"])) == BY_RANK
    assert failed(adapt(module.Closure, switch="use_gc")) == BY_RANK


def test_a_clipping_in_front_of_gc_is_found(module):
    module.BEFORE = True
    assert failed(adapt(module.WithGC, switch="use_gc")) >= {
        "switch.large_gradients",
        "switch.constant_does_not_matter",
    }


def test_what_is_printed_runs_without_the_suite_and_shows_the_numbers(module):
    port = adapt(module.WithGC, switch="use_gc")
    result = run(port, profile="quick", only=["switch.embeddings"]).failed[0]
    assert "gc_conformance" not in result.reproduce
    assert len(result.reproduce.splitlines()) <= 10
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(result.reproduce, {})
    shown = [float(number) for number in re.findall(r"-?\d+\.\d*(?:e[+-]?\d+)?", out.getvalue())]
    is_, must = (float(n) for n in re.findall(r" is (\S+), and must be (\S+) ", result.message)[0])
    assert any(abs(n - is_) < 1e-3 * abs(is_) for n in shown)
    assert any(abs(n - must) < 1e-3 * abs(must) for n in shown)


BAD = [
    ("WithGC", {"switch": "use_gcc"}, r"no switch 'use_gcc'; it has lr, use_gc, weight_decay"),
    ("WithGC", {"switch": "use_gc", "built_with": ["rate=1"]}, "no argument 'rate'"),
    ("WithGC", {"switch": "use_gc", "built_with": ["rate"]}, "--with must be NAME=VALUE, and is 'rate'"),
    ("WithGC", {"switch": "use gc"}, "--switch must be NAME"),
    ("WithGC", {}, "name the argument that switches GC by --switch"),
    ("NeedsMore", {"switch": "use_gc"}, "without total_steps: give --with total_steps=VALUE"),
    ("NoOptimizer", {"switch": "use_gc", "framework": "torch"}, "NoOptimizer, which has no step"),
    ("NoOptimizer", {"switch": "use_gc", "framework": "tensorflow"}, "no framework can be told"),
    ("WithGC", {"switch": "use_gc", "built_with": ["lr=nothing:at_all"]}, "--with nothing:at_all"),
]


@pytest.mark.parametrize(("name", "how", "text"), BAD)
def test_what_cannot_be_built_says_so_in_one_sentence(module, name, how, text):
    with pytest.raises(PortError, match=re.escape(text)) as refused:
        adapt(getattr(module, name), **how)
    assert "\n" not in str(refused.value)


def test_both_commands_take_a_switch(module, gc, suite, ports):
    (ports / "library.py").write_text(Path(module.__file__).read_text())
    words = ("--switch", "use_gc", "--with", "lr=0.5", "--profile", "quick", "--property", "switch.embeddings")
    done = gc("run", "library.py:WithGC", *words)
    assert done.returncode == 1 and "switch.embeddings" in done.stdout
    ask = ("--pyargs", "gc_conformance", "--gc-port", "library.py:NeedsMore", "--gc-switch", "use_gc")
    done = suite(*ask)
    assert done.returncode == 4 and "total_steps=VALUE" in done.stderr
    done = suite(*ask, "--gc-with", "total_steps=9", "--gc-adapter", "torch", "--gc-profile", "quick", "-k", "switches")
    assert done.returncode == 0 and "1 passed" in done.stdout


def test_a_transformation_in_front_of_another_is_judged():
    optax = pytest.importorskip("optax")
    from gc_conformance.ports.optax import in_front, optimizer

    ids = ["switch.first_step", "switch.state", "switch.off_is_plain", "switch.embeddings"]
    result = run(in_front(optax.centralize, optax.sgd, learning_rate=0.125, momentum=0.5), profile="quick", only=ids)
    assert [one.id for one in result.failed] == ["switch.embeddings"]

    def late(gc, learning_rate=0.125):
        clip = optax.clip_by_global_norm(1.0)
        return (
            optax.chain(clip, optax.centralize(), optax.sgd(learning_rate))
            if gc
            else optax.chain(clip, optax.sgd(learning_rate))
        )

    port = optimizer(late, "gc", layout="out_first")
    assert [one.id for one in run(port, profile="quick", only=["switch.large_gradients"]).failed]
    with pytest.raises(PortError, match="no switch 'gcc'"):
        optimizer(late, "gcc")


def test_functions_on_tensors_are_ports():
    jax = pytest.importorskip("jax")
    import torch

    from gc_conformance.ports.jax import function as of_jax
    from gc_conformance.ports.torch import function as of_torch

    def in_place(grad):
        if grad.ndim > 1:
            grad.sub_(grad.mean(tuple(range(1, grad.ndim)), keepdim=True))

    ids = ["operator.definition", "layers.linear_out_first", "layers.embedding"]
    result = run(of_torch(in_place), profile="quick", only=ids)
    assert len(result.passed) == 2
    assert {one.id for one in result.failed} == {"layers.embedding"}
    out_last = of_jax(lambda g: g - g.mean(tuple(range(g.ndim - 1)), keepdims=True) if g.ndim > 1 else g)
    result = run(out_last, profile="quick", only=["layers.linear_out_last", "layers.conv2d_out_last"])
    assert result.conforms
    assert jax and torch


IMPORTS = {"torch": ("jax", "keras", "tensorflow"), "jax": ("torch", "optax", "keras"), "optax": ("torch", "keras")}


@pytest.mark.parametrize("framework", IMPORTS)
def test_an_adapter_imports_its_framework_and_no_other(framework, run):
    pytest.importorskip(framework)
    others = IMPORTS[framework]
    code = f"import sys, gc_conformance.ports.{framework}; print([m for m in {others} if m in sys.modules])"
    assert run(sys.executable, "-c", code, cwd=None).stdout.strip() == "[]"
