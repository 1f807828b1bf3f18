"""`make zoo`: compare what layers, programs and numbers say of many models' parameters, and write docs/zoo.md.

`python -m examples.zoo timm peft` looks at these libraries again; what was found of the others is kept in `runs/zoo`.
With `--continue` a run that was ended goes on: of models that are there nothing is asked again.
"""

import importlib
import json
import logging
import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from examples.zoo import page
from examples.zoo.model import Found

KEPT = Path("runs/zoo")
# Library -> its page, and the page of the sources that are asked.
LIBRARIES = {
    "transformers": ("examples.zoo.transformers_models", "examples.zoo.torch_sources"),
    "timm": ("examples.zoo.timm_models", "examples.zoo.torch_sources"),
    "diffusers": ("examples.zoo.diffusers_models", "examples.zoo.torch_sources"),
    "geometric": ("examples.zoo.geometric_models", "examples.zoo.torch_sources"),
    "peft": ("examples.zoo.peft_models", "examples.zoo.torch_sources"),
    "jax": ("examples.zoo.jax_models", "examples.zoo.jax_sources"),
}
PACKAGES = (
    "torch", "transformers", "timm", "torchvision", "diffusers", "torch-geometric", "peft",
    "jax", "flax", "equinox", "dm-haiku", "keras", "numpyro",
)  # fmt: skip
LONGEST = 300  # seconds for one model


def main(arguments: list[str]) -> None:
    go_on = "--continue" in arguments
    names = [name for name in arguments if name != "--continue"]
    unknown = [name for name in names if name not in LIBRARIES]
    if unknown:
        raise SystemExit(f"libraries are {', '.join(LIBRARIES)}; got {', '.join(unknown)}")
    KEPT.mkdir(parents=True, exist_ok=True)
    names = names or list(LIBRARIES)
    if not go_on:
        for name in names:
            (KEPT / f"{name}.json").unlink(missing_ok=True)
    for name in names:  # each in a process of its own: what one imports is not the others' concern
        subprocess.run(
            [sys.executable, "-c", f"from examples.zoo import __main__ as zoo; zoo.look_at({name!r})"],
            check=True,
            env={**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_backend_optimization_level=0"},
        )
    found = [one for name in LIBRARIES for one in kept(name)]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES if _installed(name))
    page.write(found, f"Written with {versions}.")
    print(f"{len(found)} models; see {page.PAGE}")


def look_at(library: str) -> None:
    """Ask all sources about a library's models, and keep the answers."""
    logging.disable(logging.ERROR)  # of libraries; what matters is in the results
    models, sources = map(importlib.import_module, LIBRARIES[library])
    results = [one._asdict() for one in kept(library)]
    there = {(one["family"], one["name"]) for one in results}
    for one in models.models():
        if (one.family, one.name) in there:
            continue
        result = _within(lambda one=one: sources.found(one), Found(one.family, one.name, problem="takes too long"))
        result = _within(lambda one=one, result=result: sources.checked(one, result), result)
        results.append(result._asdict())
        new = KEPT / f"{library}.json.new"  # whole, or not there
        new.write_text(json.dumps(results, indent=1), encoding="utf-8")
        new.replace(KEPT / f"{library}.json")
        counts = f"{result.centralized} of {result.parameters}, {len(result.contradictions)} contradictions"
        print(f"{one.family}, {one.name}: {result.problem or counts}", flush=True)


def kept(library: str) -> list[Found]:
    """What has been found of a library's models."""
    file = KEPT / f"{library}.json"
    return [Found(**one) for one in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []


def _within(call: Any, otherwise: Found) -> Found:
    """What a call gives, or something else if it takes too long; it may take any time where there is no alarm."""
    if not hasattr(signal, "SIGALRM"):  # Windows
        return call()

    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        return call()
    except TimeoutError:
        return otherwise
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
