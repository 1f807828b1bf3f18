"""How `make gpu` runs its parts: each in processes of its own, with its own time, and written down as it goes.

What is known so far is in the file of results at every moment: it can be killed at any. Then, too, nothing that it has
started goes on: a small process beside it sees it end, however it ends, and ends what is left.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOOK = 2.0  # seconds between two looks at what a part has written

# Reads "+PID" and "-PID" of the groups of processes that run, until whoever writes them has ended.
GUARD = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        if hasattr(os, "killpg"):
            os.killpg(group, signal.SIGKILL)
        else:
            os.kill(group, signal.SIGTERM)
    except OSError:
        pass
"""


class Run:
    """What is known so far, written down as soon as it is."""

    def __init__(self, device: str, small: bool, limit: float):
        self.device, self.small, self.limit = device, small, limit
        self.deadline = time.monotonic() + limit
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
            # There are as many processes as cores.
            "OMP_NUM_THREADS": "1",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            **({"TRITON_INTERPRET": "1", "JAX_PLATFORMS": "cpu"} if device == "cpu" else {}),
        }
        self._lock = threading.Lock()
        guard = [sys.executable, "-c", GUARD]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, text=True, start_new_session=True)

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def file(self) -> Path:
        return self.folder / f"gpu-{self.slug}.json"

    def save(self) -> Path:
        with self._lock:
            self.results["seconds"] = round(self.limit - self.left, 1)
            new = self.file.with_suffix(".new")
            new.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
            new.replace(self.file)
        return self.file

    def command(
        self, *arguments: str, seconds: float, look: Callable[[str], Any] = lambda out: None, **environment: str
    ) -> tuple[int | None, str, str]:
        """Exit code (None: it took too long), output and errors of a command, and the end of all that it has started.

        Args:
            arguments: the command.
            seconds: at most.
            look: is given what the command has written so far, every few seconds.
            environment: what is added to its environment.
        """
        end = time.monotonic() + seconds
        if seconds <= 0:
            return None, "", ""
        with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as error:
            process = subprocess.Popen(
                arguments, stdout=out, stderr=error, env=self.environment | environment, start_new_session=True
            )
            self._tell(f"+{process.pid}")
            code = None
            try:
                while code is None and (left := end - time.monotonic()) > 0:
                    try:
                        code = process.wait(min(LOOK, left))
                    except subprocess.TimeoutExpired:
                        look(_text(out))
            finally:
                with contextlib.suppress(ProcessLookupError):
                    if hasattr(os, "killpg"):
                        os.killpg(process.pid, signal.SIGKILL)
                    else:
                        process.kill()
                process.wait()
                self._tell(f"-{process.pid}")
            return code, _text(out), _text(error)

    def _tell(self, line: str) -> None:
        with self._lock:
            assert self._guard.stdin is not None
            self._guard.stdin.write(line + "\n")
            self._guard.stdin.flush()

    def close(self) -> None:
        """End what is left, and the guard."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()
        self.caches.cleanup()


def _text(file: Any) -> str:
    """What is in it; the command goes on writing at its own place."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode("utf-8", "replace")


def is_absent(why: str) -> bool:
    """Whether something is not there, rather than wrong."""
    last = why.strip().splitlines()[-1:]
    return bool(last) and ("sees no GPU" in last[0] or "No module named" in last[0])


def hardware(device: str) -> dict[str, Any]:
    from benchmarks.harness import machine

    about = {**machine(), "device": device, "name": "cpu"}
    if device != "cpu":
        import torch

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
    for name in ("jax_cuda13_plugin", "jax_cuda12_plugin", "cupy", "optax", "flax", "apex", "hypothesis"):
        if importlib.util.find_spec(name):
            about.setdefault("also there", []).append(name)
    return about
