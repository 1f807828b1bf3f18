"""A suite that holds any port of Gradient Centralization to the mathematics and to the contract.

    >>> import gc_conformance
    >>> def centralize(grad, axis):
    ...     return grad if axis is None else grad - grad.mean(axis, keepdims=True)
    >>> result = gc_conformance.run(centralize, profile="quick", chapters=["operator"])
    >>> result.conforms
    True

The suite has its own oracle and imports no framework: `gc_core` is a port like any other.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gc_core import __version__

    from .port import NotProvided, Port, PortError
    from .port import load as load_port
    from .registry import CHAPTERS, LEVELS, PROPERTIES, VERSION, Property
    from .result import PropertyResult, RunResult, Violation
    from .runner import PROFILES, run
    from .testing import parametrize

# Nothing is imported before it is asked for: the pytest plugin is loaded wherever this distribution is installed.
_HOMES = {
    "port": ("NotProvided", "Port", "PortError", "load_port"),
    "registry": ("CHAPTERS", "LEVELS", "PROPERTIES", "VERSION", "Property"),
    "result": ("PropertyResult", "RunResult", "Violation"),
    "runner": ("PROFILES", "run"),
    "testing": ("parametrize",),
}

# What the extra "conformance" brings, by its own names: this works in a clone and where there is none.
INSTALL = "pip install hypothesis jsonschema ml_dtypes pytest rich typer"

__all__ = [
    "CHAPTERS",
    "LEVELS",
    "PROFILES",
    "PROPERTIES",
    "NotProvided",
    "Port",
    "PortError",
    "Property",
    "PropertyResult",
    "RunResult",
    "VERSION",
    "Violation",
    "__version__",
    "load_port",
    "parametrize",
    "run",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("gc_core").__version__
    for home, names in _HOMES.items():
        if name in names:
            try:
                import_module(".runner", __name__)  # fills the registry
            except ModuleNotFoundError as missing:
                if missing.name and missing.name.startswith(__name__):
                    raise
                raise ImportError(f"gc_conformance needs {missing.name}: {INSTALL}") from missing
            return getattr(import_module(f".{home}", __name__), "load" if name == "load_port" else name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
