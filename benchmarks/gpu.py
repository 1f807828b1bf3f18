"""Everything that only a GPU can show, in one command that installs nothing and takes less than nine minutes.

    make gpu                                on the GPU that PyTorch sees
    make gpu ARGS="--device cpu --small"    the same program without one, to try it: its figures mean nothing

In the order of their worth, each in processes of its own and with its own time:

1. The conformance suite on the device, quickly: gc_torch on every path, gc_jax, gc_cupy; the Triton kernel's own tests;
   compute-sanitizer over them, where it is installed. In as many processes as there are cores.
2. What steps cost, beside the fastest step without GC (page `gpu_speed`): known models, sizes, layouts, a first step.
3. Two training runs (page `gpu_training`); gc_jax and gc_cupy.

Results go to benchmarks/results/, by the name of the GPU; of a trial on a CPU, to runs/gpu_trial/. They are there as
soon as they are known: whoever kills it keeps what was done. What could not be run is there as "not run", with the
reason, and never as passed. The exit code is 0 only if nothing failed.
"""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu_run import Run, is_absent
from benchmarks.gpu_show import draw, show

LIMIT = 525  # seconds for everything
JUDGED = 180  # of them, at most, for what is judged
# Jobs of a port, among which its properties are dealt out; those that compile much for each case get more.
JOBS = {
    "triton": 8, "fused": 2, "foreach": 2, "for-loop": 2, "capturable": 2, "graph": 6, "functions": 2, "jax": 8,
    "cupy": 3, "compile": 5,
}  # fmt: skip
WARMED = 6  # processes that compile what will be measured
# Seconds at most for each part, in the order in which they are run; what one leaves, the last ones have.
PARTS = {"torch": 120, "sizes": 40, "layouts": 50, "start": 40, "training": 50, "jax": 60, "cupy": 40}
KERNEL_TESTS = "tests/torch/test_kernels_gpu.py"


# ---- What is judged


def jobs(run: Run) -> Iterator[tuple[str, list[str] | str]]:
    """Commands by name, or why there is none; in the order in which they are begun."""
    os.environ["GC_DEVICE"] = run.device
    yield "kernel tests", kernel_tests(run)
    shares = 1 if run.small else WARMED
    for i in range(shares):
        warm = [sys.executable, "-m", "benchmarks.gpu_speed", "warm", f"{i}/{shares}"]
        yield f"compiled {i + 1}/{shares}", [*warm, *["--small"] * run.small]
    warm = [sys.executable, "-m", "benchmarks.gpu_speed", "jax", str(Path(run.caches.name) / "jax.json")]
    yield "compiled jax", [*warm, "--rounds", "0", *["--small"] * run.small]
    for port, number in JOBS.items():
        try:
            from benchmarks.gpu_ports import properties

            ids = properties(port)
        except ImportError as error:  # the suite needs Hypothesis
            yield port, str(error)
            continue
        if run.small:
            # Of the interpreter a little, and one more that every port has.
            few = ("sgdm.rule", "adam.rule", "operator.definition", "optimizer.adamw")
            ids = [id for id in ids if id in few] or ids[:1]
            number = 1
        for i in range(number):
            if some := ids[i::number]:
                command = [sys.executable, "-m", "benchmarks.gpu_ports", port, "quick", *some]
                yield f"{port} {i + 1}/{number}", command
    yield "sanitizer", sanitizer(run)


def pytest(*arguments: str) -> list[str]:
    # Without our own settings, which ask for the versions that we develop with.
    settings = ["-c", os.devnull, "--rootdir=.", "--import-mode=importlib", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", *settings, *arguments]


def kernel_tests(run: Run) -> list[str]:
    tests = ["-k", "every_kind_of_block and axes6" if run.small else "not wrong_kernels", KERNEL_TESTS]
    parallel = ["-n", "8"] if importlib.util.find_spec("xdist") and not run.small else []
    return pytest("-v", *parallel, *tests)


def sanitizer(run: Run) -> list[str] | str:
    found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if run.device == "cpu":
        return "no GPU"
    if found is None:
        return "compute-sanitizer is not installed"
    options = ["--tool", "memcheck", "--error-exitcode", "9", "--target-processes", "all"]
    return [found, *options, *pytest("-v", "-k", "every_kind_of_block", KERNEL_TESTS)]


def verdicts(out: str) -> list[dict[str, Any]]:
    """The lines of a port's job; the last one may have been cut off."""
    found = []
    for line in out.splitlines():
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if isinstance(one, dict) and "id" in one:
            found.append(one)
    return found


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


def of_tests(out: str) -> dict[str, Any]:
    """What pytest has said so far, test by test."""
    words = [line.split() for line in out.splitlines() if "::" in line]
    count = {what: sum(what in line for line in words) for what in ("PASSED", "FAILED", "ERROR")}
    bad = sorted({word for line in words for word in line if {"FAILED", "ERROR"} & set(line) and "::" in word})
    return {"tests passed": count["PASSED"], "tests failed": bad}


def judge(run: Run) -> None:
    """Run all jobs side by side."""
    end = time.monotonic() + min(JUDGED, run.left)
    judged = run.results["judged"]

    def one(job: tuple[str, list[str] | str]) -> None:
        name, command = job
        if isinstance(command, str):
            judged[name] = {"status": "not run", "why": command}
            run.save()
            return
        is_port = "benchmarks.gpu_ports" in command

        def so_far(out: str) -> dict[str, Any]:
            if is_port:
                return summary(verdicts(out), len(command) - 5)
            return of_tests(out) if "pytest" in command else {}

        def look(out: str) -> None:
            judged[name] = {**so_far(out), "status": "not done", "why": "it was still running"}
            run.save()

        # So that every tensor has bounds of its own.
        alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if name == "sanitizer" else {}
        start = time.monotonic()
        code, out, error = run.command(*command, seconds=end - start, look=look, **alone)
        verdict: dict[str, Any] = {"seconds": round(time.monotonic() - start, 1), **so_far(out)}
        if code is None:
            bad = verdict.get("status") == "failed" or verdict.get("tests failed")
            done = verdict.get("passed") or verdict.get("tests passed")
            verdict |= {"status": "failed" if bad else "in part" if done else "not run"}
            verdict["why"] = "there was no time left"
        elif code and not verdict.get("passed") and is_absent(error):
            verdict |= {"status": "not run", "why": error.strip()[-1500:]}
        elif code:
            verdict |= {"status": "failed", "why": f"{out}\n{error}".strip()[-3000:]}
        else:
            verdict.setdefault("status", "done" if name.startswith("compiled") else "passed")
        if "pytest" in command:
            verdict["said"] = (out.splitlines() or [""])[-1].strip("= ")
        judged[name] = verdict
        run.save()
        print(f"  {name}: {verdict['status']} ({verdict['seconds']:.0f} s)", file=sys.stderr)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    with ThreadPoolExecutor(max(2, cores)) as pool:
        list(pool.map(one, jobs(run)))
    run.save()


# ---- What is measured


def measure(run: Run) -> None:
    for part, seconds in PARTS.items():
        page = "gpu_training" if part == "training" else "gpu_speed"
        where = run.results if part == "training" else run.results["speed"]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "out.json"
            command = [sys.executable, "-m", f"benchmarks.{page}", *([part] if part != "training" else []), str(file)]

            def known(file: Path = file) -> dict[str, Any]:
                return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

            def look(out: str, where: Any = where, part: str = part, known: Any = known) -> None:
                where[part] = {**known(), "status": "in part", "why": "it was still running"}
                run.save()

            start = time.monotonic()
            limit = min(seconds, run.left - 10)
            code, _, error = run.command(
                *command, *["--small"] * run.small, seconds=limit, look=look, OMP_NUM_THREADS="8"
            )
            taken = round(time.monotonic() - start, 1)
            found = {**known(), "status": "measured", "seconds": taken}
            if code is None:
                some = (
                    found.get("cases") or found.get("notes") or any(isinstance(x, dict) and x for x in found.values())
                )
                status = "in part" if some else "not run"
                found |= {"status": status, "why": f"not done within {taken:.0f} s"}
            elif code:
                found |= {"status": "not run" if is_absent(error) else "failed", "why": error.strip()[-2000:]}
        where[part] = found
        print(f"  {part}: {found['status']} ({taken:.0f} s) {found.get('why', '')[-300:]}", file=sys.stderr)
        run.save()


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
    run = Run(arguments.device, arguments.small, LIMIT)
    print(json.dumps(run.results["about"], indent=1), file=sys.stderr)

    def stop(number: int, frame: Any) -> None:
        """Threads wait for processes: nothing is waited for, the guard ends them."""
        print(f"\nstopped; what was done is in {run.file}", file=sys.stderr)
        os._exit(128 + number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    judge(run)
    measure(run)
    file = run.save()
    run.close()
    show(run)
    print(f"\n{draw(run)}\n{file}, after {run.results['seconds']:.0f} s")
    sys.exit(1 if failed(run) else 0)


if __name__ == "__main__":
    main()
