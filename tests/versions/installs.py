"""`python -m tests.versions.installs`: each extra on each route into an empty environment, and a first step there.

Each environment is removed when it was tried. With `--constraint constraints.txt` the releases are those of
development; without, the newest that there are, as a new user gets them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

NUMBERS = "import numpy as np; w = gct.from_numpy(np.array([[1, 1, 4]], np.float32)); "
UPDATE = NUMBERS + (
    "g = gct.from_numpy(np.array([[3, 0, 0]], np.float32)); "
    "w, state = gct.sgdm_update(w, g, gct.sgdm_init(w), lr=0.5, axis=1); "
    "assert gct.to_numpy(w).tolist() == [[0.0, 1.5, 4.5]]"
)
TORCH = (
    "import torch, gc_torch as gct; layer = torch.nn.Linear(3, 1, bias=False); before = layer.weight.sum().item(); "
    "layer.weight.grad = torch.tensor([[3.0, 0.0, 0.0]]); optimizer = gct.SGD(layer, lr=0.5); optimizer.step(); "
    "assert abs(layer.weight.sum().item() - before) < 1e-5; "
)
# By extra: what a new user does first. A package whose framework is not there says how to get it.
FIRST_STEPS = {
    "": [
        f"import gc_core as gct; {UPDATE}",
        *(
            f"import sys\ntry:\n import {package}\n"
            "except ImportError as error:\n sys.exit('pip install' not in str(error))\n"
            "sys.exit('it was imported')"
            for package in ("gc_torch", "gc_jax", "gc_cupy")
        ),
        "import gc_conformance as g\ntry:\n g.run\nexcept ImportError as error:\n assert g.INSTALL in str(error)",
    ],
    "torch": [TORCH + "assert 'pip install numba' in repr(optimizer), optimizer"],
    "torch-fast": [TORCH + "assert 'implementation: Numba' in repr(optimizer), optimizer"],
    "jax": [f"import gc_jax as gct; {UPDATE}"],
    "cupy-cuda12": ["import gc_cupy; assert gc_cupy.__version__"],  # an array needs a GPU
    "cupy-cuda13": ["import gc_cupy; assert gc_cupy.__version__"],
    "conformance": ["import gc_conformance.cli as cli, sys; sys.argv[1:] = ['properties']; cli.main()"],
    "learn": ["import gc_conformance.cli, jupyterlab, matplotlib"],
    "examples": [],  # they are in a clone, not in a wheel
}
ROUTES = ("clone", "wheel", "sdist", "git", "uv")


def run(*command: object, cwd: Path) -> None:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))[:300]}\n{done.stdout[-2000:]}{done.stderr[-3000:]}")


def source(route: str, folder: Path) -> str:
    """What is handed to an installer."""
    if route in ("wheel", "sdist"):
        run(sys.executable, "-m", "pip", "--version", cwd=ROOT)
        run(sys.executable, "-m", "hatchling", "build", "-t", route, "-d", folder / "dist", cwd=ROOT)
        return str(next((folder / "dist").iterdir()))
    if route == "git":
        return f"git+{ROOT.as_uri()}"  # what is committed
    return str(ROOT)


def attempt(route: str, extra: str, constraint: str | None) -> None:
    """Install an extra on a route, and take its first steps, far from the clone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        what = source(route, folder)
        python = folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        limits = ["--constraint", ROOT / constraint] if constraint else []
        need = f"gradient-centralization[{extra}] @ {what if '+' in what else Path(what).as_uri()}" if extra else what
        if route == "uv":
            uv = shutil.which("uv") or "uv"
            run(uv, "venv", "--quiet", "--python", sys.executable, folder / "env", cwd=folder)
            run(uv, "pip", "install", "--quiet", "--python", python, *limits, need, cwd=folder)
        else:
            run(sys.executable, "-m", "venv", folder / "env", cwd=folder)
            run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *limits, need, cwd=folder)
        for code in FIRST_STEPS[extra]:
            run(python, "-I", "-c", code, cwd=folder)
        if extra == "examples" and route == "clone":
            run(python, "-m", "examples.digits", "--help", cwd=ROOT)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.versions.installs", description=__doc__)
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=ROUTES)
    parser.add_argument("--extras", nargs="+", choices=list(FIRST_STEPS), default=list(FIRST_STEPS))
    parser.add_argument("--constraint", help="a file of pip's, in the clone")
    options = parser.parse_args()
    failed = 0
    for route in options.routes:
        if route == "uv" and not shutil.which("uv"):
            print("uv: not tried, it is not there", flush=True)
            continue
        for extra in options.extras:
            try:
                attempt(route, extra, options.constraint)
                print(f"{route}, {extra or 'no extra'}: well", flush=True)
            except RuntimeError as error:
                failed += 1
                print(f"{route}, {extra or 'no extra'}: FAILED\n{error}", flush=True)
    if failed:
        sys.exit(f"{failed} failed")


if __name__ == "__main__":
    main()
