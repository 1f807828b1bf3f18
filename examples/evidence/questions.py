"""The questions of docs/questions.md as lists: which runs, in the order of their worth, and which are compared."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from examples.evidence import resnet
from examples.evidence.settings import Cell, Images, Setting, Text, Tuning

SGD = Images()
ADAMW = Images(rule="AdamW", lr=3e-3, decay=1e-3)
# Under SGD with L2 decay both places of GC take the same steps.
METHODS = ((SGD, "gradient"), (ADAMW, "gradient"), (ADAMW, "update"))
SHORT, LONG = (10, 20), {2000: 200, 10_000: 60}
BUDGETS = ((2000, 10), (2000, 20), (2000, 60), (10_000, 10), (10_000, 20), (2000, 200), (10_000, 60))

RATES = {"SGD": (0.01, 0.03, 0.1, 0.3, 1.0), "AdamW": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)}
DECAYS = {"SGD": (0.0, 5e-4, 5e-3), "AdamW": (0.0, 1e-3, 1e-1)}
RATES_WITHOUT = {"SGD": (0.003, 0.01, 0.03, 0.1, 0.3), "AdamW": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}

BESIDE = {
    "batch normalization and weight standardization": replace(SGD, standardized=True),
    "group normalization, batches of 4": replace(SGD, norm="group", batch=4, lr=0.01),
    "group normalization, weight standardization, batches of 4": replace(
        SGD, norm="group", batch=4, lr=0.01, standardized=True
    ),
    "no normalization": replace(SGD, norm="none", lr=0.03),
}
STARTS = {(start, shots): Tuning(shots=shots, start=start, lr=lr)
          for start, lr in (("trained", 0.01), ("fresh", 0.1)) for shots in (10, 50)}  # fmt: skip
CENTRED, RAW = replace(SGD, centred=True), replace(SGD, pixels="raw")


class Block(NamedTuple):
    """Runs that are worth having together: all settings of a seed before the next seed."""

    question: int
    settings: list[Setting]
    seeds: int


def with_gc(setting: Setting, gc: str = "gradient", **more) -> Setting:
    return replace(setting, gc=gc, **more)


def of_budget(images: int, epochs: int, schedule: str = "steps") -> list[Setting]:
    """Every method, with and without GC."""
    return [
        replace(rule, images=images, epochs=epochs, schedule=schedule, gc=gc)
        for rule, places in ((SGD, ("off", "gradient")), (ADAMW, ("off", "gradient", "update")))
        for gc in places
    ]


def of_rates(rule: Images, norm: str) -> Iterator[Images]:
    """The grid of one rule, without GC."""
    if norm == "none":
        return (replace(rule, norm=norm, lr=lr) for lr in RATES_WITHOUT[rule.rule])
    return (replace(rule, lr=lr, decay=decay) for decay in DECAYS[rule.rule] for lr in RATES[rule.rule])


def pairs(settings: Iterable[Setting]) -> list[Setting]:
    return [one for setting in settings for one in (setting, with_gc(setting))]


def _grid(norm: str) -> list[Setting]:
    return [
        replace(setting, gc=gc)
        for rule, places in ((SGD, ("off", "gradient")), (ADAMW, ("off", "gradient", "update")))
        for setting in of_rates(rule, norm)
        for gc in places
    ]


BLOCKS = [
    Block(1, [*of_budget(2000, 20)[:2], *of_budget(2000, 10)[:2]], 8),
    Block(1, [*of_budget(2000, 20)[2:], *of_budget(2000, 10)[2:]], 8),
    Block(1, of_budget(2000, 20, "cycle")[:2], 8),
    Block(1, of_budget(2000, 60), 8),
    Block(5, [Text(), with_gc(Text()), with_gc(Text(), "update")], 5),
    Block(6, [SGD, with_gc(SGD), *pairs([RAW]), CENTRED], 5),
    Block(6, [with_gc(SGD, layers=f"{word} {name}") for word in ("only", "not") for name in resnet.LAYERS], 5),
    Block(3, pairs([SGD, *BESIDE.values()]), 5),
    Block(4, [*pairs(STARTS.values()), *(replace(STARTS["trained", n], standardized=True) for n in (10, 50))], 8),
    Block(2, _grid("none"), 5),
    Block(2, _grid("batch"), 5),
    Block(1, [*of_budget(10_000, 10), *of_budget(10_000, 20)], 8),
    Block(1, of_budget(2000, 200), 8),
    Block(1, of_budget(10_000, 60), 8),
    # No reader of these embeddings sees their mean: these can only confirm it.
    Block(5, [with_gc(Text(), gc, embeddings=True) for gc in ("gradient", "update")], 5),
]


def cells(only: Iterable[int] | None = None, blocks: list[Block] | None = None) -> list[Cell]:
    """Every run of these questions once, in order."""
    wanted = None if only is None else set(only)
    found: dict[str, Cell] = {}
    for block in BLOCKS if blocks is None else blocks:
        if wanted is None or block.question in wanted:
            for seed in range(block.seeds):
                for setting in block.settings:
                    cell = Cell(setting, seed)
                    found.setdefault(cell.key, cell)
    return list(found.values())


def cost(cell: Cell) -> float:
    """About how many seconds of a core a run takes: for the bar that says what is left."""
    s = cell.setting
    if isinstance(s, Text):
        return 10 + s.steps * s.batch * s.context * s.layers * s.width**2 / 8e8
    if isinstance(s, Tuning):
        return 15 + (s.before_images * s.before_epochs * (s.start == "trained") + s.shots * 5 * s.epochs) / 1000
    return 20 + s.images * s.epochs / (1000 if s.batch >= 32 else 500)
