"""What `make gpu` shows at its end: the short table, and the picture."""

import importlib.util
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu_run import Run

TARGETS = {"gc_torch": 1.0, "gc_torch, update": 1.0, "gc_jax": 1.15}


def cases(run: Run) -> Iterator[tuple[str, Any]]:
    from benchmarks.harness import Case

    for part, found in run.results["speed"].items():
        for one in found.get("cases", ()):
            yield part, Case(**one)


def show(run: Run) -> None:
    """The short table at the end."""
    about = run.results["about"]
    print(f"\n{about['name']}: " + ", ".join(f"{k} {v}" for k, v in about.items() if k not in ("name", "versions")))
    print(", ".join(f"{k} {v}" for k, v in about["versions"].items()))
    if run.device == "cpu":
        print("A trial without a GPU: Triton's interpreter, NumPy for CuPy. Its figures mean nothing.")
    print("\njudged" + 29 * " " + "jobs  properties   cases  status")
    by_port: dict[str, list[dict[str, Any]]] = {}
    for name, verdict in run.results["judged"].items():
        by_port.setdefault(name if name in ("kernel tests", "sanitizer") else name.split()[0], []).append(verdict)
    for port, verdicts in by_port.items():
        passed = sum(len(v.get("passed", ())) for v in verdicts)
        count = sum(v.get("cases", 0) for v in verdicts)
        statuses = [v["status"] for v in verdicts]
        state = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
        state += "".join(f"; {v['said']}" for v in verdicts if v.get("said"))
        print(f"  {port:32} {len(verdicts):5} {passed:11} {count:7}  {state}")
        for verdict in verdicts:
            for test in verdict.get("tests failed", ()):
                print(f"      {test}")
            for id, why in (verdict.get("failed") or {}).items():
                print(f"      {id}: {why.splitlines()[0][:140]}")
            if "why" in verdict:
                print(f"      {verdict['why'].strip().splitlines()[-1][:160]}")
    print(f"\n{'step':58}{'ms':>9}{'of copy':>9}  {'ours / base':>11}  95 %         A/A    target")
    for _, one in cases(run):
        for peer in one.seconds:
            if peer == one.base or peer.startswith("the same"):
                continue
            low, high = one.interval(peer)
            again = one.ratio("the same again (A/A)") if "the same again (A/A)" in one.seconds else float("nan")
            target = TARGETS.get(peer)
            met = ""
            if target is not None and run.device != "cpu":  # met: within what noise may be
                met = f"{target:.2f} {'met' if low <= target else 'missed'}"
            name = f"{one.name}: {peer}"
            print(
                f"{name:58.58}{1000 * one.median(peer):9.3f}{one.extra[peer]['of copy']:9.2f}  {one.ratio(peer):11.3f}"
                f"  {low:.2f}-{high:.2f}  {again:6.2f}    {met}"
            )
    for part, found in run.results["speed"].items():
        notes = ", ".join(f"{k}: {v}" for k, v in found.get("notes", {}).items())
        print(f"{part}: {found['status']}; {notes}{found.get('why', '')[-200:]}")
    training = run.results["training"]
    print(f"\ntraining: {training.get('status')} {training.get('why', '')[-300:]}")
    for name, one in training.items():
        if isinstance(one, dict):
            print(
                f"  {name}: loss {one['loss at first']:.3f} to {one['loss at last']:.3f}, {one['ms a step']:.3f} of "
                f"{one['ms an iteration']:.3f} ms are the step's ({100 * one['share of the step']:.1f} %)"
            )


def draw(run: Run) -> str:
    from benchmarks.harness import picture

    if importlib.util.find_spec("matplotlib") is None:
        return "no picture: matplotlib is not installed"
    every = list(cases(run))
    models = [one for part, one in every if part == "torch"]
    sweep = [one for part, one in every if part == "sizes" and one.name.startswith("parameters")]
    if not models:
        return "no picture: nothing was measured"
    copy = run.results["speed"]["torch"]["notes"]["copy bytes a second"]
    file = run.folder / f"gpu-{run.slug}.png"
    peers = ["torch fused, no GC", "gc_torch", "gc_torch, update"]
    picture(file, models, {"size": sweep}, peers, ("copy", copy))
    return str(file)
