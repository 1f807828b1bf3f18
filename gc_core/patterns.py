"""Many rows as few: those that are alike but for numbers in their names, under a pattern that stands for exactly these.

A pattern is what `overrides` takes (`*`, `?`, `[…]` as in file names), so that what is printed can be given back.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


def collapsed(rows: Sequence[Any], every: Iterable[str] | None = None) -> list[tuple[str, list[Any]]]:
    """Groups of rows that differ in numbers in their names alone, each with its pattern, in the order of the first.

    Args:
        rows: named tuples, whose first field is the name.
        every: all names among which the patterns must stand for these; not given, those of the rows.
    """
    alike: dict[Any, list[Any]] = {}
    for row in rows:
        alike.setdefault((tuple(_texts(row[0])), *row[1:]), []).append(row)
    lines = "\n".join((row[0] for row in rows) if every is None else every)
    shown = [
        (pattern, [row for row in same if row[0] in names])
        for same in alike.values()
        for pattern, names in exact([row[0] for row in same], lines)
    ]
    place = {row[0]: i for i, row in enumerate(rows)}
    return sorted(shown, key=lambda one: place[one[1][0][0]])


def exact(names: list[str], every: str) -> Iterator[tuple[str, set[str]]]:
    """Patterns for names that differ in their numbers alone, each with the names it stands for among `every` one.

    Args:
        names: without repetitions.
        every: all names there are, one a line.

    >>> list(exact(["h.0.w", "h.2.w"], "h.0.w\\nh.1.w\\nh.2.w"))[0][0]
    'h.[02].w'
    """
    if len(names) == 1:
        yield names[0], set(names)
        return
    parts = [re.split(r"(\d+)", name) for name in names]
    columns = [sorted(set(column), key=lambda text: (len(text), text)) for column in zip(*parts, strict=True)]
    for write in (_star, _digits):
        written = [_literal(column[0]) if len(column) == 1 else write(column) for column in columns]
        pattern, regular = ("".join(texts) for texts in zip(*written, strict=True))
        if set(re.findall(f"(?m)^{regular}$", every)) == set(names):
            yield pattern, set(names)
            return
    # Apart by how many digits a number has, or by a number: the one that falls into the fewest parts.
    cuts = []
    for i, column in enumerate(columns):
        if len(column) > 1:
            lengths = {len(text) for text in column}
            keys = [len(part[i]) if len(lengths) > 1 else part[i][:-1] or part[i] for part in parts]
            keys = keys if len(set(keys)) > 1 else [part[i] for part in parts]
            cuts.append((len(set(keys)), keys))
    _, keys = min(cuts, key=lambda cut: cut[0])
    for key in dict.fromkeys(keys):
        yield from exact([name for name, its in zip(names, keys, strict=True) if its == key], every)


def _texts(name: str) -> list[str]:
    return re.split(r"\d+", name)


# Each gives a piece of the pattern, and the same as a regular expression within a line.


def _literal(text: str) -> tuple[str, str]:
    return re.sub(r"([*?[])", r"[\1]", text), re.escape(text)


def _star(numbers: list[str]) -> tuple[str, str]:
    return "*", ".*"


def _digits(numbers: list[str]) -> tuple[str, str]:
    """For each place the digits that stand there; of numbers of different lengths, nothing that could be right."""
    if len({len(number) for number in numbers}) > 1:
        return _star(numbers)
    text = "".join(_class(sorted(set(place))) for place in zip(*numbers, strict=True))
    return text, text


def _class(digits: list[str]) -> str:
    """`[0-24]` for 0, 1, 2 and 4."""
    if len(digits) == 1:
        return digits[0]
    runs: list[list[str]] = []
    for digit in digits:
        if runs and ord(digit) == ord(runs[-1][-1]) + 1:
            runs[-1].append(digit)
        else:
            runs.append([digit])
    return "[" + "".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else "".join(run) for run in runs) + "]"
