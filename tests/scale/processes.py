"""Runs the checks of a script in N real processes that talk over gloo, and says what became of each check.

A script defines functions `check_…()` and ends with `processes.main(globals())`. Starting processes is what
takes long, so one start serves all the checks of a script.
"""

import json
import os
import subprocess
import sys
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import single
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

HERE = Path(__file__).parent


def run(script, size, folder):
    """What each check of the script said, by name: what went wrong, rank by rank, or nothing."""
    environment = {**os.environ, "SCALE_SIZE": str(size), "SCALE_FOLDER": str(folder), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, HERE / script],
            env={**environment, "SCALE_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    assert not any(worker.returncode for worker in workers), "\n".join(errors)
    reports = [json.loads((folder / f"{Path(script).stem}.{rank}.json").read_text()) for rank in range(size)]
    assert reports[0] and all(report.keys() == reports[0].keys() for report in reports)
    return {
        name: "\n".join(f"rank {rank}: {report[name]}" for rank, report in enumerate(reports) if report[name])
        for name in reports[0]
    }


def folder():
    """Where processes leave files for those that come later."""
    return Path(os.environ["SCALE_FOLDER"])


def main(names):
    rank, size = int(os.environ["SCALE_RANK"]), int(os.environ["SCALE_SIZE"])
    script = Path(names["__file__"]).stem
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(folder() / f"{script}.rendezvous").as_uri(),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),  # a check that one process alone has left
    )
    warnings.simplefilter("error")
    report = {}
    for name, check in names.items():
        if name.startswith("check_"):
            torch.manual_seed(0)
            try:
                check()
                report[name] = ""
            except Exception:
                report[name] = traceback.format_exc()
                print(f"{name}: {report[name]}", file=sys.stderr)  # the others may wait for this process
            dist.barrier()
    (folder() / f"{script}.{rank}.json").write_text(json.dumps(report))
    dist.barrier()
    os._exit(0)  # threads of gloo may still be alive, and end a process that leaves in good order


# ---- What checks share


def mine(mesh=None):
    """This process's part of the data, for equal parts have the mean of all as the mean of their means."""
    size, rank = (dist.get_world_size(), dist.get_rank()) if mesh is None else (mesh.size(), mesh.get_local_rank())
    return [tuple(part.chunk(size)[rank] for part in batch) for batch in single.batches()]


def whole(model):
    """The weights, put together from all processes."""
    return {name: full(p.detach()).clone() for name, p in model.named_parameters()}


def full(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def collectives(optimizer):
    """How many collectives a step of the optimizer has."""
    with CommDebugMode() as counted:
        optimizer.step()
    return counted.get_total_counts()


def raised(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def allowed_after(steps, alone, moved, known):
    """How far apart two runs may be that see the same gradients.

    They round alike but for the order in which means are summed: M·u of the largest gradient. Of that, so much arrives
    in the weights as of the known amount by which the gradients of `moved` differ from those of `alone`. Elementwise, a
    step has fewer than 16 operations.
    """
    pairs = list(zip(alone.parameters(), moved.parameters(), strict=True))
    arrives = max((p - q).abs().max().item() for p, q in pairs) / known
    fan_in = max(p[0].numel() for p, _ in pairs)
    weight = max(p.abs().max().item() for p, _ in pairs)
    return 2.0**-53 * (4 * fan_in * arrives + 16 * steps * weight)


LAYERS = {  # how to make them, and the axes of the stored weight that run along its weight vectors
    "linear": (lambda: nn.Linear(5, 7), {1}),
    "fewer units than processes": (lambda: nn.Linear(4, 1), {1}),
    "convolution": (lambda: nn.Conv1d(2, 6, 3), {1, 2}),
    "transposed, in groups": (lambda: nn.ConvTranspose1d(6, 4, 3, groups=2), {0, 2}),
}


def check_split_parameters(mesh, placements, kinds=tuple(single.OPTIMIZERS)):
    """Given gradients, steps on N processes are those on one, with no more collectives than there must be."""
    known = 2.0**-30
    for layer, along in LAYERS.values():
        for kind, make in ((kind, single.OPTIMIZERS[kind]) for kind in kinds):
            for fused in (None, False):
                alone, moved = layer().double(), layer().double()
                start = alone.weight.detach().clone()
                moved.load_state_dict(alone.state_dict())
                split = [layer().double() for _ in placements]
                for module, where in zip(split, placements, strict=True):
                    module.weight = nn.Parameter(distribute_tensor(start.clone(), mesh, where))
                    module.bias = None
                optimizers = [make(module, fused=fused) for module in (alone, moved, *split)]
                for step in range(2):
                    grad = torch.randn_like(start)
                    dist.broadcast(grad, 0)
                    alone.weight.grad = grad
                    moved.weight.grad = grad + known * grad.abs().max() * torch.randn_like(grad)
                    for optimizer in optimizers[:2]:
                        optimizer.step()
                    allowed = allowed_after(step + 1, alone, moved, known)
                    for module, where, optimizer in zip(split, placements, optimizers[2:], strict=True):
                        module.weight.grad = distribute_tensor(grad, mesh, where)
                        over = [
                            i
                            for i, one in enumerate(where)
                            if isinstance(one, Shard) and one.dim in along and mesh.size(i) > 1
                        ]
                        assert collectives(optimizer) == len(over), (layer, where)
                        error = (full(module.weight.detach()) - alone.weight).abs().max().item()
                        assert error <= allowed, (kind, where, fused, error, allowed)
                    assert (alone.weight - start).abs().max() > 1e6 * allowed, (
                        kind,
                        where,
                        alone.weight - start,
                        allowed,
                    )
