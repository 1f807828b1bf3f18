"""A suite that holds any port of Gradient Centralization to the mathematics and to the contract.

    >>> import gc_conformance
    >>> def centralize(grad, axis):
    ...     return grad if axis is None else grad - grad.mean(axis, keepdims=True)
    >>> result = gc_conformance.run(centralize, profile="quick", chapters=["operator"])
    >>> result.conforms
    True

The suite has its own oracle and imports no framework: `gc_core` is a port like any other.
"""

from .port import NotProvided, Port, PortError, load
from .registry import CHAPTERS, LEVELS, PROPERTIES, Property
from .result import PropertyResult, RunResult, Violation
from .runner import PROFILES, run

load_port = load

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
    "Violation",
    "load_port",
    "run",
]
