"""Deliberately wrong ports, each with the one property that must catch it: the proof that the suite can fail.

Every mutant is an honest port with one idea broken, a mistake that somebody has made or could make. `kill` holds it to
its property alone. Every property of the suite has at least one mutant of its own. The files are those of the chapters.
"""

from __future__ import annotations

from ..judging import judge
from ..port import load
from ..registry import PROPERTIES
from ..result import PropertyResult
from ..runner import PROFILES
from . import adam, errors, layers, low_precision, numerics, operator, optimizer, sgdm, switch, theory  # noqa: F401
from .register import MUTANTS, Mutant

__all__ = ["MUTANTS", "Mutant", "kill"]


def kill(mutant: Mutant, *, seed: int = 0, profile: str = "standard") -> PropertyResult:
    """Hold the mutant to its own property, all others off. It is killed if the result's status is "failed"."""
    prop = PROPERTIES[mutant.kills]
    examples = prop.examples(PROFILES[profile])
    return judge(prop, load(mutant.make()), seed=seed, examples=examples, shrink=False)
