"""What weights in bfloat16 lose, and what compensated summation and stochastic rounding keep: drift, error, time.

    python -m benchmarks.low_precision [--seeds 5] [--rounds 15] [--peers] [--only PART]

A network learns from another one, by 300 steps of GC-SGD with and without momentum: in float32, in bfloat16, and in
bfloat16 with each option. Measured are how far the means of the weight vectors have moved, the compensation counted
in, and the error at the end on all data, as the ratio to that of float32 from the same start. Then weights at 1 under
AdamW, which no step of lr 1e-4 can move in bfloat16. Then the time of a step, as the ratio to the step without the
option, and that ratio by the bytes that each moves.

--peers: beside them optimi's kahan_sum and torchao's stochastic rounding, if they are installed, without GC.
"""

import argparse
import copy
import json
import statistics
from typing import Any

import torch
from torch import Tensor, nn

import gc_torch as gct
from benchmarks import harness

WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {},
    "kahan": {"low_precision": "kahan"},
    "stochastic": {"low_precision": "stochastic"},
}
STEPS, WIDTH, DATA = 300, 64, 512


def network(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, hidden), nn.Tanh(), nn.Linear(hidden, 1))


def optimizer_of(way: str, model: nn.Module, momentum: float, gc_on: str | None) -> torch.optim.Optimizer:
    if way == "optimi":
        import optimi  # type: ignore[import-not-found]

        return optimi.SGD(
            model.parameters(), lr=0.05, momentum=momentum, dampening=False, kahan_sum=True, foreach=False
        )
    return gct.SGD(model, lr=0.05, momentum=momentum, gc_on=gc_on, **WAYS[way])


def trained(way: str, momentum: float, gc_on: str | None, seed: int) -> tuple[float, float]:
    """The largest drift of a mean, and the error at the end."""
    torch.manual_seed(seed)
    model, teacher = network(WIDTH), network(16)
    if way != "float32":
        model = model.to(torch.bfloat16)
    dtype = model[0].weight.dtype
    optimizer = optimizer_of(way, model, momentum, gc_on)
    x = torch.randn(DATA, WIDTH)
    y = teacher(x).detach()

    def means() -> Tensor:
        weights = [model[0].weight, model[2].weight]
        left = [optimizer.state[w].get("compensation", optimizer.state[w].get("kahan_comp")) for w in weights]
        exact = [w.detach().double() + (0 if c is None else c.double()) for w, c in zip(weights, left, strict=True)]
        return torch.cat([w.mean(1) for w in exact])

    start = means()
    for _ in range(STEPS):
        some = torch.randint(DATA, (64,))
        optimizer.zero_grad()
        (model(x[some].to(dtype)).float() - y[some]).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        error = (copy.deepcopy(model).float()(x) - y).square().mean().item()
    return float((means() - start).abs().max()), error


def training(seeds: int, ways: list[str]) -> list[dict[str, Any]]:
    """Over some seeds: the median of the drifts, of the errors, and of the ratios of errors to that of float32."""
    found = []
    for momentum, place in ((0.0, "gradient"), (0.9, "gradient"), (0.9, "update")):
        here = [way for way in ways if way != "optimi" or place == "gradient"]  # it has no GC
        runs = {way: [trained(way, momentum, place, seed) for seed in range(seeds)] for way in here}
        for way, one in runs.items():
            ratios = [error / base for (_, error), (_, base) in zip(one, runs["float32"], strict=True)]
            found.append(
                dict(
                    momentum=momentum,
                    gc_on=None if way == "optimi" else place,
                    way=way,
                    drift=None if way == "optimi" else statistics.median(drift for drift, _ in one),  # without GC
                    error=statistics.median(error for _, error in one),
                    error_ratio=statistics.median(ratios),
                    error_ratios=ratios,
                )
            )
            print(json.dumps({name: value for name, value in found[-1].items() if name != "error_ratios"}), flush=True)
    return found


def at_one(ways: list[str], steps: int = 300, lr: float = 1e-4) -> list[dict[str, Any]]:
    """How far weights at 1 have moved, on the average, by steps of lr in one direction, the compensation counted."""
    found = []
    for way in ways:
        dtype = torch.float32 if way == "float32" else torch.bfloat16
        w = nn.Parameter(torch.ones(64, 64, dtype=dtype))
        options = dict(lr=lr, weight_decay=0.0)
        if way == "torchao":
            from torchao.optim import _AdamW  # type: ignore[import-not-found]

            optimizer: Any = _AdamW([w], **options, bf16_stochastic_round=True)
        elif way == "optimi":
            import optimi  # type: ignore[import-not-found]

            optimizer = optimi.AdamW([w], **options, kahan_sum=True, foreach=False)
        else:
            optimizer = gct.AdamW([w], **options, gc_on=None, **WAYS[way])
        for _ in range(steps):
            w.grad = torch.ones_like(w)
            optimizer.step()
        left = optimizer.state[w].get("compensation", optimizer.state[w].get("kahan_comp"))
        exact = w.detach().double() + (0 if left is None else left.double())
        found.append(dict(way=way, moved=1 - float(exact.mean()), meant=steps * lr))
        print(json.dumps(found[-1]), flush=True)
    return found


# Bytes that a step moves for each parameter in bfloat16: parameter and states read and written, gradient read.
MOVED = {"sgd": 2 + 4 * 2, "adam": 2 + 4 * 3}


def speed(rounds: int) -> list[dict[str, Any]]:
    """The time of a step with each option, as the ratio to that without, and that ratio by bytes moved."""
    found = []
    for kind, make in (
        ("sgd", lambda p, **o: gct.SGD(p, lr=1e-3, momentum=0.9, plan="out_first", **o)),
        ("adam", lambda p, **o: gct.AdamW(p, lr=1e-3, plan="out_first", **o)),
    ):
        optimizers = {}
        for way in (*list(WAYS)[1:], harness.AGAIN):
            params = [nn.Parameter(torch.randn(1024, 1024).to(torch.bfloat16)) for _ in range(8)]
            for p in params:
                p.grad = torch.randn_like(p)
            optimizers[way] = make(params, **WAYS.get(way, {}))
        seconds = harness.measure({way: one.step for way, one in optimizers.items()}, rounds)
        base = statistics.median(seconds["bfloat16"])
        for way, times in seconds.items():
            moved = (MOVED[kind] + 4 * (way == "kahan")) / MOVED[kind]
            ratio = statistics.median(times) / base
            found.append(dict(kind=kind, way=way, bytes=MOVED[kind] * moved, ratio=ratio, per_byte=ratio / moved))
            print(json.dumps(found[-1]), flush=True)
    return found


NAMES = {
    "float32": "float32",
    "bfloat16": "bfloat16, to the nearest",
    "kahan": 'bfloat16, `"kahan"`',
    "stochastic": 'bfloat16, `"stochastic"`',
    "optimi": "bfloat16, optimi's `kahan_sum`, without GC",
    "torchao": "bfloat16, torchao's `bf16_stochastic_round`, without GC",
}


def tables(result: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    lines = [
        "| weights | momentum | GC on the | drift of the means | error | relative to float32 |",
        "|---|--:|---|--:|--:|--:|",
    ]
    for one in result["training"]:
        drift = "" if one["drift"] is None else f"{one['drift']:.1e}"
        place = one["gc_on"] or ""
        cells = (
            NAMES[one["way"]],
            f"{one['momentum']:g}",
            place,
            drift,
            f"{one['error']:.5f}",
            f"{one['error_ratio']:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| weights at 1 | moved by | meant |", "|---|--:|--:|"]
    lines += [f"| {NAMES[one['way']]} | {one['moved']:.4f} | {one['meant']:.4f} |" for one in result["at_one"]]
    lines += ["", "| step of | weights | bytes moved | time | time by byte |", "|---|---|--:|--:|--:|"]
    for one in result["speed"]:
        name = NAMES.get(one["way"], one["way"])
        kind = {"sgd": "SGD with momentum", "adam": "AdamW"}[one["kind"]]
        lines.append(f"| {kind} | {name} | {one['bytes']:.0f} | {one['ratio']:.2f} | {one['per_byte']:.2f} |")
    return "\n".join(lines)


PATH = harness.RESULTS.parents[1] / "docs" / "results" / "low_precision.json"

if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--peers", action="store_true")
    arguments.add_argument("--only", choices=("training", "at_one", "speed"), help="the rest stays as it was measured")
    asked = arguments.parse_args()
    peers = ["optimi"] if asked.peers else []
    parts = {
        "training": lambda: training(asked.seeds, [*WAYS, *peers]),
        "at_one": lambda: at_one([*WAYS, *peers, *(["torchao"] if asked.peers else [])]),
        "speed": lambda: speed(asked.rounds),
    }
    result = json.loads(PATH.read_text(encoding="utf-8")) if asked.only else {"machine": harness.machine()}
    for part, measured in parts.items():
        if asked.only in (None, part):
            result[part] = measured()
    PATH.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(tables(result))
