"""Text for people on a terminal or a pipe whose encoding lacks some of our letters: it degrades, and never fails."""

import codecs
import io
import sys

# What stands for a letter where an encoding lacks it; for any other it is "?".
PLAIN = {
    "×": "x", "−": "-", "–": "-", "—": "-", "‖": "||", "·": "*", "±": "+/-", "≤": "<=", "≥": ">=", "≈": "~", "≠": "!=",
    "→": "->", "←": "<-", "…": "...", "∞": "inf", "√": "sqrt", "Φ": "Phi", "φ": "phi", "λ": "lambda", "η": "eta",
    "μ": "mu", "σ": "sigma", "β": "beta", "∇": "grad", "✓": "ok", "✗": "x", "“": '"', "”": '"', "’": "'", "ᵗ": "^t",
}  # fmt: skip


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error("gc_core.plainly", _plainly)


def printable(text: str) -> str:
    """The text as standard output can say it: letters that its encoding lacks are written in plain ones.

    >>> printable("‖Φ(g)‖ of 3×4: −1").isascii() or "×" in printable("×")
    True
    """
    try:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        return text.encode(encoding, "gc_core.plainly").decode(encoding)
    except LookupError:
        return text


def degrade() -> None:
    """For a command: what it prints from now on degrades where its encoding lacks a letter."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="gc_core.plainly")
