"""Which releases of the frameworks a backend needs, and what its import says where they are not there.

The lower bounds are the oldest releases that `make test-versions` runs; the metadata of the package say the same.
"""

import importlib
import re
import types

OLDEST = {"numpy": "1.26", "numba": "0.59", "torch": "2.6", "jax": "0.5", "optax": "0.2.4", "cupy": "13.4"}
# What to install where a framework has another name, or several, on an index.
INSTALLS = {"cupy": "cupy-cuda13x (cupy-cuda12x for CUDA 12)"}


def release(version: str) -> tuple[int, ...]:
    """The numbers of a release, for comparison; what follows them (a1, rc2, +cu128, .dev3) is left out.

    >>> release("2.13.0+cpu"), release("2.15.0a0+git12") < release("2.15.1"), release("0.5") <= release("0.5.0")
    ((2, 13), True, True)
    """
    numbers = [int(part) for part in re.match(r"\d*(?:\.\d+)*", version.strip())[0].split(".") if part]  # type: ignore[index]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def require(package: str, framework: str) -> types.ModuleType:
    """The module of a framework, if it is one that the package works with.

    Args:
        package: of ours, for the message.
        framework: a name in `OLDEST`.

    Raises:
        ImportError: it is not installed, or too old; the message has the command that mends it.

    >>> require("gc_core", "numpy").__name__
    'numpy'
    """
    oldest = OLDEST[framework]
    what = INSTALLS.get(framework, f"'{framework}>={oldest}'")  # in quotes: > is a shell's redirection
    try:
        module = importlib.import_module(framework)
    except ModuleNotFoundError as missing:
        if missing.name != framework:
            raise
        raise ModuleNotFoundError(
            f"{package} needs {framework} {oldest} or newer, and there is none here: pip install {what}", name=framework
        ) from None
    there = getattr(module, "__version__", "")
    if there and release(there) < release(oldest):
        raise ImportError(
            f"{package} needs {framework} {oldest} or newer; here is {there}, for which there is no release of "
            f"gradient-centralization: pip install {what}",
            name=framework,
        )
    return module
