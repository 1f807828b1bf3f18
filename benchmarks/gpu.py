"""Everything that only a GPU can show, in one command that installs nothing and takes less than nine minutes.

    make gpu                                on the GPU that PyTorch sees
    make gpu ARGS="--device cpu --small"    the same program without one, to try it: its figures mean nothing

1. The conformance suite on the device: gc_torch on every path, gc_jax, gc_cupy; the Triton kernel's own tests;
   compute-sanitizer over them, where it is installed. In as many processes as there are cores.
2. What steps cost, beside the fastest step without GC (page `gpu_speed`).
3. Two training runs (page `gpu_training`).

Results go to benchmarks/results/, by the name of the GPU; of a trial on a CPU, to runs/gpu_trial/. What could not be
run is there as "not run", with the reason, and never as passed. The exit code is 0 only if nothing failed.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

LIMIT = 525  # seconds for everything
JUDGED = 240  # of them, at most, for what is judged
# Jobs of a port, among which its properties are dealt out; those that compile much for each case get more.
JOBS = {
    "functions": 2, "for-loop": 2, "foreach": 2, "fused": 2, "capturable": 2, "triton": 8, "graph": 6, "compile": 5,
    "jax": 8, "cupy": 3,
}  # fmt: skip
WARMED = 6  # processes that compile what will be measured
# Seconds at most for each part, in the order in which they are run.
PARTS = {"torch": 130, "training": 70, "layouts": 60, "jax": 80, "cupy": 50, "sizes": 60, "start": 40}
KERNEL_TESTS = "tests/torch/test_kernels_gpu.py"
TARGETS = {"gc_torch": 1.0, "gc_torch, update": 1.0, "gc_jax": 1.15}


class Run:
    """What is known so far, written down as soon as it is."""

    def __init__(self, device: str, small: bool):
        self.device, self.small = device, small
        self.deadline = time.monotonic() + LIMIT
        self.results: dict[str, Any] = {"about": hardware(device), "judged": {}, "speed": {}, "training": {}}
        name = self.results["about"]["name"]
        self.slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        self.folder = Path("runs/gpu_trial") if device == "cpu" else Path(__file__).parent / "results"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.caches = tempfile.TemporaryDirectory()
        self.environment = {
            **os.environ,
            "GC_DEVICE": device,
            "TRITON_CACHE_DIR": str(Path(self.caches.name) / "triton"),
            "JAX_COMPILATION_CACHE_DIR": str(Path(self.caches.name) / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",  # there are as many processes as cores
            **({"TRITON_INTERPRET": "1", "JAX_PLATFORMS": "cpu"} if device == "cpu" else {}),
        }

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    def save(self) -> Path:
        file = self.folder / f"gpu-{self.slug}.json"
        file.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        return file

    def command(self, *arguments: str, seconds: float, **environment: str) -> tuple[int | None, str, str]:
        """Exit code (None: it took too long), output and errors of a command, with this added to its environment."""
        if seconds <= 0:
            return None, "", ""
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8") as out,
            tempfile.TemporaryFile("w+", encoding="utf-8") as error,
        ):
            environment = self.environment | environment
            process = subprocess.Popen(arguments, stdout=out, stderr=error, text=True, env=environment)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = None
            out.seek(0)
            error.seek(0)
            return code, out.read(), error.read()


def hardware(device: str) -> dict[str, Any]:
    from benchmarks.harness import machine

    about = {**machine(), "device": device, "name": "cpu"}
    import torch

    if device != "cpu":
        one = torch.cuda.get_device_properties(0)
        about |= {
            "name": one.name,
            "capability": f"{one.major}.{one.minor}",
            "multiprocessors": one.multi_processor_count,
            "GiB": round(one.total_memory / 2**30, 1),
            "L2 MiB": round(getattr(one, "L2_cache_size", 0) / 2**20, 1),
            "CUDA": torch.version.cuda,
        }
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        if shutil.which(query[0]):
            about["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    for name in ("jax_cuda13_plugin", "jax_cuda12_plugin", "cupy", "flax", "apex"):
        if importlib.util.find_spec(name):
            about.setdefault("also there", []).append(name)
    return about


# ---- What is judged


def jobs(run: Run) -> Iterator[tuple[str, list[str]]]:
    """Commands by name, those first that take longest."""
    os.environ["GC_DEVICE"] = run.device
    from benchmarks.gpu_ports import properties

    profile = "quick" if run.small else "standard"
    dealt = []
    for port, number in JOBS.items():
        ids = properties(port)
        if run.small:
            # Of the interpreter a little, and one more that every port has.
            ids = [
                id for id in ids if id in ("sgdm.rule", "adam.rule", "operator.definition", "optimizer.adamw")
            ] or ids[:1]
            number = 1
        for i in range(number):
            if some := ids[i::number]:
                dealt.append((f"{port} {i + 1}/{number}", ["benchmarks.gpu_ports", port, profile, *some]))
    yield "kernel tests", kernel_tests(run)
    yield "sanitizer", sanitizer()
    shares = 1 if run.small else WARMED
    for i in range(shares):
        warm = [sys.executable, "-m", "benchmarks.gpu_speed", "warm", f"{i}/{shares}"]
        yield f"compiled {i + 1}/{shares}", [*warm, *["--small"] * run.small]
    warm = [sys.executable, "-m", "benchmarks.gpu_speed", "jax", str(Path(run.caches.name) / "jax.json")]
    yield "compiled jax", [*warm, "--rounds", "0", *["--small"] * run.small]
    yield from sorted(((name, [sys.executable, "-m", *command]) for name, command in dealt), key=_turn)


LONGEST = ("compile", "triton", "jax", "graph")


def _turn(job: tuple[str, list[str]]) -> int:
    port = job[0].split()[0]
    return LONGEST.index(port) if port in LONGEST else len(LONGEST)


def pytest(*arguments: str) -> list[str]:
    # Without our own settings, which ask for the versions that we develop with.
    return [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "--rootdir=.",
        "--import-mode=importlib",
        "-q",
        *arguments,
    ]


def kernel_tests(run: Run) -> list[str]:
    tests = ["-k", "every_kind_of_block and axes6" if run.small else "not wrong_kernels", KERNEL_TESTS]
    parallel = ["-n", "4"] if importlib.util.find_spec("xdist") and not run.small else []
    return pytest("-p", "no:cacheprovider", *parallel, *tests)


def sanitizer() -> list[str]:
    found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if found is None:
        return []
    options = ["--tool", "memcheck", "--error-exitcode", "9", "--target-processes", "all"]
    return [found, *options, *pytest("-p", "no:cacheprovider", "-k", "every_kind_of_block", KERNEL_TESTS)]


def _absent(why: str) -> bool:
    """Whether something is not there, rather than wrong."""
    last = why.strip().splitlines()[-1:]
    return bool(last) and ("sees no GPU" in last[0] or last[0].startswith("ModuleNotFoundError"))


def summary(found: list[dict[str, Any]], asked: int) -> dict[str, Any]:
    """The verdict of one job, from those on its properties."""
    by_status: dict[str, list[str]] = {}
    for one in found:
        by_status.setdefault(one["status"], []).append(one["id"])
    status = "failed" if "failed" in by_status else "passed" if "passed" in by_status else "not provided"
    if status != "failed" and len(found) < asked:
        status = "in part" if found else "not run"
    return {
        "status": status,
        "asked": asked,
        "passed": by_status.get("passed", []),
        "cases": sum(one["cases"] for one in found),
        "failed": {
            one["id"]: f"{one['message']}\n{one['counterexample']}" for one in found if one["status"] == "failed"
        },
        "not provided": {one["id"]: one["message"] for one in found if one["status"] == "not provided"},
        **{what: found[0][what] for what in ("profile", "seed", "dtypes") if found},
    }


def judge(run: Run) -> None:
    """Run all jobs side by side."""
    end = time.monotonic() + min(JUDGED, run.left)
    judged = run.results["judged"]

    def one(job: tuple[str, list[str]]) -> None:
        name, command = job
        if not command:
            judged[name] = {"status": "not run", "why": "it is not installed"}
            return
        if name == "sanitizer" and run.device == "cpu":
            judged[name] = {"status": "not run", "why": "no GPU"}
            return
        # So that every tensor has bounds of its own.
        alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if name == "sanitizer" else {}
        start = time.monotonic()
        code, out, error = run.command(*command, seconds=end - start, **alone)
        verdict: dict[str, Any] = {"seconds": round(time.monotonic() - start, 1)}
        lines = out.splitlines()
        if command[2] == "benchmarks.gpu_ports":
            verdict |= summary([json.loads(line) for line in lines if line.startswith("{")], len(command) - 5)
        if code is None:
            verdict.setdefault("status", "not run")
            verdict["why"] = "there was no time left"
        elif code and not lines and _absent(error):
            verdict |= {"status": "not run", "why": error.strip()[-1500:]}
        elif code:
            verdict |= {"status": "failed", "why": f"{out}\n{error}".strip()[-3000:]}
        else:
            verdict.setdefault("status", "done" if name.startswith("compiled") else "passed")
        if command[2] == "pytest" or name == "sanitizer":
            verdict["said"] = (lines or [""])[-1]
        judged[name] = verdict
        print(f"  {name}: {verdict['status']} ({verdict['seconds']:.0f} s)", file=sys.stderr)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    with ThreadPoolExecutor(max(2, cores)) as pool:
        list(pool.map(one, jobs(run)))
    run.save()


# ---- What is measured


def measure(run: Run) -> None:
    for part, seconds in PARTS.items():
        page = "gpu_training" if part == "training" else "gpu_speed"
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.json"
            command = [sys.executable, "-m", f"benchmarks.{page}", *([part] if part != "training" else []), str(out)]
            start = time.monotonic()
            limit = min(seconds, run.left - 10)
            code, _, error = run.command(*command, *["--small"] * run.small, seconds=limit, OMP_NUM_THREADS="8")
            taken = round(time.monotonic() - start, 1)
            found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
            found |= {"status": "measured", "seconds": taken}
            if code is None:
                status = "in part" if found.get("cases") else "not run"
                found |= {"status": status, "why": f"not done within {taken:.0f} s"}
            elif code:
                found |= {"status": "not run" if _absent(error) else "failed", "why": error.strip()[-2000:]}
        where = run.results if part == "training" else run.results["speed"]
        where["training" if part == "training" else part] = found
        print(f"  {part}: {found['status']} ({taken:.0f} s) {found.get('why', '')[-300:]}", file=sys.stderr)
        run.save()


# ---- What is shown


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


def failed(run: Run) -> bool:
    judged = any(one["status"] == "failed" for one in run.results["judged"].values())
    parts = [*run.results["speed"].values(), run.results["training"]]
    measured = any(one.get("status") == "failed" for one in parts)
    return judged or measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="a little of everything")
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            sys.exit('make gpu: PyTorch sees no GPU here; to try it without one: make gpu ARGS="--device cpu --small"')
    run = Run(arguments.device, arguments.small)
    print(json.dumps(run.results["about"], indent=1), file=sys.stderr)
    with run.caches:
        judge(run)
        measure(run)
    run.results["seconds"] = round(LIMIT - run.left, 1)
    file = run.save()
    show(run)
    print(f"\n{draw(run)}\n{file}, after {run.results['seconds']:.0f} s")
    sys.exit(1 if failed(run) else 0)


if __name__ == "__main__":
    main()
