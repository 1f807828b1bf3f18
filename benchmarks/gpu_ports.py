"""Every path of gc_torch on a device as a port of the conformance suite, and one job of it.

    python -m benchmarks.gpu_ports PORT PROFILE [PROPERTY …]        writes a line of JSON for each property

PORT is one of PATHS, "functions", "jax" or "cupy". GC_DEVICE names the device (cuda when not set; with cpu, Triton's
interpreter runs the kernel, a call stands in for a CUDA graph, torch.compile has no code generator, and NumPy stands in
for CuPy).
"""

import json
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

DEVICE = os.environ.get("GC_DEVICE", "cuda")
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

PATHS = ("for-loop", "foreach", "fused", "triton", "capturable", "graph", "compile")
FEW = 4  # cases a property under torch.compile
# Compiling takes seconds a case: of these properties, which see every branch of the rules, a few cases each.
COMPILED = (
    "sgdm.rule", "adam.rule", "optimizer.sgd", "optimizer.adam", "optimizer.adamw", "optimizer.amsgrad",
    "optimizer.nesterov", "optimizer.l2_decay", "optimizer.gc_on_update", "optimizer.gradients_are_centralized",
)  # fmt: skip


class TorchPort:
    """gc_torch on a device, where every update is one step of its optimizers on one path."""

    dtypes = ("float16", "bfloat16", "float32", "float64")
    rounding = ("kahan", "stochastic")
    sgd_first_step = "undamped"

    def __init__(self, path: str):
        import torch

        import gc_torch as gct

        self.torch, self.gct, self.path = torch, gct, path
        self.name = f"gc_torch on {DEVICE}: {path}"
        self.fan_in_axes = gct.fan_in_axes
        self.sgdm_init, self.adam_init, self.to_numpy = gct.sgdm_init, gct.adam_init, gct.to_numpy
        if path == "functions":
            self.centralize, self.sgdm_update, self.adam_update = gct.centralize, gct.sgdm_update, gct.adam_update
            return
        force(path)
        self.sgdm_update, self.adam_update, self.optimizer = self._sgdm_update, self._adam_update, self._optimizer

    def from_numpy(self, array):
        return self.gct.from_numpy(array).to(DEVICE)

    def _made(self, kind: str, params: dict[str, Any], axes: dict[str, Any], hyper: dict[str, Any]):
        """The optimizer and its parameters, by name."""
        torch, gct = self.torch, self.gct
        held = torch.nn.Module()
        for i, p in enumerate(params.values()):
            held.register_parameter(f"p{i}", torch.nn.Parameter(p.clone()))
        plan = gct.plan(held, {f"p{i}": axes[name] for i, name in enumerate(params)})
        if self.path == "capturable" and kind == "sgd":
            raise NotImplementedError("PyTorch's SGD has no capturable")
        if self.path in ("capturable", "graph") and kind != "sgd":
            hyper = {**hyper, "capturable": DEVICE != "cpu"}
        if self.path in ("for-loop", "foreach", "capturable"):
            hyper = {**hyper, "foreach": self.path != "for-loop", "fused": False}
        elif self.path == "fused":
            hyper = {**hyper, "fused": True}
        if kind == "sgd":
            hyper = {"momentum": 0.9, **hyper}
        optimizer = {"sgd": gct.SGD, "adam": gct.Adam, "adamw": gct.AdamW}[kind](held, plan=plan, **hyper)
        return optimizer, dict(zip(params, held.parameters(), strict=True))

    def _step(self, optimizer, params, restart: bool) -> Callable[[], None]:
        """A function that takes the next steps; `restart`: to be found as before the first one."""
        if self.path == "compile":
            self.torch._dynamo.reset()  # after so many recompilations it would quietly compile no more
            backend = "inductor" if DEVICE != "cpu" else "aot_eager"
            return self.torch.compile(optimizer.step, backend=backend)
        if self.path != "graph":
            return optimizer.step
        tensors = [
            *params,
            *(x for p in params for x in optimizer.state[p].values() if isinstance(x, self.torch.Tensor)),
        ]
        before = [x.detach().clone() for x in tensors]
        optimizer.step()  # nothing may be made or compiled during the capture
        if restart:
            with self.torch.no_grad():
                for x, old in zip(tensors, before, strict=True):
                    x.copy_(old)
        return captured(optimizer.step)

    def _updated(self, kind, w, grad, state, axis, hyper):
        optimizer, params = self._made(kind, {"w": w}, {"w": axis}, hyper)
        (p,) = params.values()
        p.grad = grad.clone()
        optimizer.state[p].update(state)
        self._step(optimizer, [p], restart=True)()
        return p.detach().clone(), optimizer.state[p]

    def _sgdm_update(self, w, grad, state, *, lr, axis, decoupled=False, **hyper):
        if hyper.get("momentum") == 0:
            raise NotImplementedError("PyTorch's SGD keeps no momentum buffer then")
        if decoupled and hyper.get("weight_decay"):
            raise NotImplementedError("PyTorch's SGD has no decoupled decay")
        found = {"momentum_buffer": state.momentum_buffer.clone()}
        w, found = self._updated("sgd", w, grad, found, axis, {"lr": lr, **hyper})
        return w, type(state)(found["momentum_buffer"])

    def _adam_update(self, w, grad, state, *, axis, decoupled=False, **hyper):
        found = {name: x.clone() for name, x in state._asdict().items() if name != "step" and x is not None}
        on_device = self.path in ("fused", "triton", "capturable", "graph")
        found["step"] = self.torch.tensor(float(state.step), device=DEVICE if on_device else "cpu")
        hyper["decoupled_weight_decay"] = decoupled
        hyper.setdefault("amsgrad", False)
        w, found = self._updated("adam", w, grad, found, axis, hyper)
        largest = found.get("max_exp_avg_sq")
        return w, type(state)(int(found["step"].item()), found["exp_avg"], found["exp_avg_sq"], largest)

    def _optimizer(self, kind, params, axes, **hyper):
        optimizer, held = self._made(kind, params, axes, hyper)
        replay: list[Callable[[], None]] = []

        def step(grads):
            for name, grad in grads.items():
                p = held[name]
                if p.grad is None:
                    p.grad = grad.clone()
                else:
                    p.grad.copy_(grad)  # a graph reads this memory
            if replay:
                replay[0]()
            elif self.path == "graph" and not optimizer.state:
                optimizer.step()
            else:
                replay.append(self._step(optimizer, list(held.values()), restart=True))
                replay[0]()

        return SimpleNamespace(step=step, params=lambda: {name: p.detach() for name, p in held.items()})


def force(path: str) -> None:
    """Let gc_torch take PyTorch's own steps, or, with "triton" and "graph", the kernel, also in the interpreter."""
    from gc_torch import path as paths

    if path in ("triton", "graph"):
        if DEVICE == "cpu":
            from tests.torch import triton_on_cpu  # noqa: F401

            paths.KERNELS = {"cpu": "gc_torch.kernels_gpu"}
    else:
        paths.KERNELS = {}


def captured(step: Callable[[], Any]) -> Callable[[], Any]:
    """The step as a CUDA graph; on a CPU, the step itself."""
    import torch

    if DEVICE == "cpu":
        return step
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def port(name: str) -> Any:
    if name == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
        if DEVICE != "cpu" and jax.default_backend() != "gpu":
            raise RuntimeError(f"JAX sees no GPU, only {jax.devices()}")
        return "gc_jax.port"
    if name == "cupy":
        return "gc_cupy.port" if DEVICE != "cpu" else "tests.cupy.gc_cupy_on_numpy"
    return TorchPort(name)


def properties(name: str) -> list[str]:
    """The ids of the properties that a port is held to."""
    import gc_conformance

    if name == "compile":
        return list(COMPILED)
    every = [one.id for one in gc_conformance.PROPERTIES.values() if one.level != "contract"]
    return [id for id in every if name not in PATHS or id.split(".")[0] in ("sgdm", "adam", "optimizer")]


def main(name: str, profile: str, *only: str) -> None:
    import gc_conformance
    from gc_conformance.runner import PROFILES

    PROFILES["few"] = FEW
    held = gc_conformance.load_port(port(name))
    for id in only or properties(name):  # one at a time: what is done is written, whenever the time is over
        result = gc_conformance.run(held, profile="few" if name == "compile" else profile, only=[id])
        (one,) = result.results
        verdict = {
            "id": id,
            "status": one.status,
            "cases": one.examples,
            "message": one.message,
            "counterexample": one.counterexample,
            "seed": result.seed,
            "profile": result.profile,
            "dtypes": result.dtypes,
        }
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
