"""From lines to answers: differences of pairs, intervals that hold together, verdicts that follow from them alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from examples.digits.statistics import Interval, interval
from examples.evidence import questions, resnet
from examples.evidence.questions import ADAMW, BESIDE, BUDGETS, CENTRED, LONG, METHODS, RAW, SGD, SHORT, STARTS, with_gc
from examples.evidence.settings import Cell, Images, Setting, Text

FEWEST = 3  # pairs: below, no verdict
POINTS, BITS = 1.0, 0.01  # differences below are not worth having
COLLAPSED = 0.2  # of test accuracy
CONFIDENCE = 0.95  # of all intervals of a question together
COUNTED = {1: 22, 2: 12, 3: 5, 4: 6, 5: 4, 6: 19}  # comparisons, as docs/questions.md counts them


class Verdict(Enum):
    BETTER = "better"
    WORSE = "worse"
    LITTLE = "no difference worth having"
    NOT_SHOWN = "not shown"
    FEW = "too few runs"


class Reply(Enum):
    """To a question of yes or no."""

    YES = "yes"
    NO = "no"
    NOT_SHOWN = "not shown"
    FEW = "too few runs to say"


@dataclass(frozen=True)
class Answer:
    """One comparison: the difference of each pair, their interval, and what it shows."""

    name: str
    by_seed: list[float]
    planned: int
    interval: Interval | None
    verdict: Verdict


class Runs:
    """The results of runs by setting and seed."""

    def __init__(self, lines: dict[str, dict[str, Any]]):
        self._lines = lines

    def found(self, setting: Setting, seed: int) -> dict[str, Any] | None:
        line = self._lines.get(Cell(setting, seed).key)
        return None if line is None else line["found"]

    def all(self, setting: Setting, seeds: int) -> list[dict[str, Any]]:
        """Of the seeds that are there."""
        return [found for seed in range(seeds) if (found := self.found(setting, seed)) is not None]

    def accuracies(self, setting: Setting, seeds: int) -> list[float]:
        """Test accuracies in per cent."""
        return [100 * found["test_accuracy"] for found in self.all(setting, seeds)]

    def differences(self, plain: Setting, gc: Setting, seeds: int, name: str = "test_accuracy") -> list[float]:
        """GC minus plain, of the seeds of which both are there: accuracies in points."""
        scale = 100 if name.endswith("accuracy") else 1
        both = ((self.found(plain, seed), self.found(gc, seed)) for seed in range(seeds))
        return [scale * (g[name] - p[name]) for p, g in both if p and g and p[name] is not None and g[name] is not None]


def judge(
    name: str, by_seed: list[float], planned: int, question: int, worth: float = POINTS, lower_is_better: bool = False
) -> Answer:
    """The verdict on one of the comparisons of a question."""
    if len(by_seed) < FEWEST:
        return Answer(name, by_seed, planned, None, Verdict.FEW)
    found = interval(by_seed, 1 - (1 - CONFIDENCE) / COUNTED[question])
    if -worth < found.low and found.high < worth:
        verdict = Verdict.LITTLE
    elif found.low > 0 or found.high < 0:
        verdict = Verdict.BETTER if (found.low > 0) != lower_is_better else Verdict.WORSE
    else:
        verdict = Verdict.NOT_SHOWN
    return Answer(name, by_seed, planned, found, verdict)


def method_name(rule: str, gc: str) -> str:
    return f"{rule}, GC on the {gc}"


# ---- 1


def budgets(runs: Runs) -> dict[tuple[str, str, int, int], Answer]:
    """By rule, place of GC, images and epochs."""
    found = {}
    for base, gc in METHODS:
        for images, epochs in BUDGETS:
            plain = replace(base, images=images, epochs=epochs)
            name = f"{method_name(base.rule, gc)}, {images:,} images, {epochs} epochs"
            by_seed = runs.differences(plain, with_gc(plain, gc), 8)
            found[base.rule, gc, images, epochs] = judge(name, by_seed, 8, 1)
    return found


def pilot(runs: Runs) -> Answer:
    plain = replace(SGD, schedule="cycle")
    return judge(
        "SGD, GC on the gradient, 2,000 images, 20 epochs, one cycle", runs.differences(plain, with_gc(plain), 8), 8, 1
    )


def reply(answers: list[Answer]) -> Reply:
    """Yes if one is better, no if none can be, as docs/questions.md has it."""
    verdicts = {answer.verdict for answer in answers}
    if Verdict.BETTER in verdicts:
        return Reply.YES
    if verdicts <= {Verdict.WORSE, Verdict.LITTLE}:
        return Reply.NO
    return Reply.FEW if verdicts == {Verdict.FEW} else Reply.NOT_SHOWN


def faster(found: dict[tuple[str, str, int, int], Answer], rule: str, gc: str) -> Reply:
    return reply([found[rule, gc, images, epochs] for images in LONG for epochs in SHORT])


def better_at_the_end(found: dict[tuple[str, str, int, int], Answer], rule: str, gc: str) -> Reply:
    return reply([found[rule, gc, images, epochs] for images, epochs in LONG.items()])


# ---- 2


def grid(rule: Images, norm: str) -> list[Images]:
    return list(questions.of_rates(rule, norm))


def at_own_best(runs: Runs, settings: list[Images], gc: str, seeds: int = 5) -> dict[int, float]:
    """By seed: the accuracy of the setting that is best on the mean of the other seeds. Of grids that are complete."""
    table = {}
    for seed in range(seeds):
        found = [runs.found(replace(setting, gc=gc), seed) for setting in settings]
        if all(found):
            table[seed] = np.array([100 * one["test_accuracy"] for one in found if one])
    if len(table) < 2:
        return {}
    return {
        seed: float(own[np.argmax(np.mean([table[other] for other in table if other != seed], axis=0))])
        for seed, own in table.items()
    }


def collapses(runs: Runs, settings: list[Images], gc: str, seeds: int = 5) -> dict[int, float]:
    """By seed: the share of learning rates, in per cent, that end in collapse."""
    table = {}
    for seed in range(seeds):
        found = [runs.found(replace(setting, gc=gc), seed) for setting in settings]
        if all(found):
            table[seed] = 100 * float(
                np.mean([one["test_loss"] is None or one["test_accuracy"] < COLLAPSED for one in found if one])
            )
    return table


def middle(rule: Images, norm: str) -> list[Images]:
    """The settings of a grid that have the usual decay."""
    return [setting for setting in grid(rule, norm) if setting.decay == rule.decay]


def rates(runs: Runs) -> tuple[list[Answer], list[Answer]]:
    """Accuracy at each method's own best, and the share of learning rates that collapse."""
    best, collapse = [], []
    for norm in ("batch", "none"):
        for base, gc in METHODS:
            name = f"{method_name(base.rule, gc)}, {'batch' if norm == 'batch' else 'no'} normalization"
            for answers, measure, settings, lower in (
                (best, at_own_best, grid(base, norm), False),
                (collapse, collapses, middle(base, norm), True),
            ):
                plain, with_it = measure(runs, settings, "off"), measure(runs, settings, gc)
                by_seed = [with_it[seed] - plain[seed] for seed in plain.keys() & with_it.keys()]
                answers.append(judge(name, by_seed, 5, 2, lower_is_better=lower))
    return best, collapse


# ---- 3 to 6


def beside(runs: Runs) -> list[Answer]:
    """GC minus no GC beside other methods; and what weight standardization does to the gain."""
    found = [judge(name, runs.differences(plain, with_gc(plain), 5), 5, 3) for name, plain in BESIDE.items()]
    standardized = BESIDE["batch normalization and weight standardization"]
    gains = []
    for seed in range(5):
        four = [runs.found(one, seed) for one in (standardized, with_gc(standardized), SGD, with_gc(SGD))]
        if all(four):
            off, on, off_without, on_without = (100 * one["test_accuracy"] for one in four if one)
            gains.append((on - off) - (on_without - off_without))
    return [*found, judge("gain with weight standardization minus gain without", gains, 5, 3)]


def tuning(runs: Runs) -> list[Answer]:
    found = []
    for (start, shots), plain in STARTS.items():
        name = f"from {start} weights, {shots} images a class: GC minus none"
        found.append(judge(name, runs.differences(plain, with_gc(plain), 8), 8, 4))
    for shots in (10, 50):
        plain = STARTS["trained", shots]
        name = f"from trained weights, {shots} images a class: weight standardization minus none"
        found.append(judge(name, runs.differences(plain, replace(plain, standardized=True), 8), 8, 4))
    return found


def text(runs: Runs) -> list[Answer]:
    found = []
    for gc in ("gradient", "update"):
        for embeddings in (False, True):
            name = f"GC on the {gc}, embeddings {'too' if embeddings else 'left alone'}"
            by_seed = runs.differences(Text(), Text(gc=gc, embeddings=embeddings), 5, "test_bits")
            found.append(judge(name, by_seed, 5, 5, worth=BITS, lower_is_better=True))
    return found


def layers(runs: Runs) -> dict[str, tuple[Answer, Answer]]:
    """By layer: GC there alone minus none, and GC on all minus on all others."""
    found = {}
    for name in resnet.LAYERS:
        only, others = with_gc(SGD, layers=f"only {name}"), with_gc(SGD, layers=f"not {name}")
        found[name] = (
            judge(f"GC on {name} alone, minus none", runs.differences(SGD, only, 5), 5, 6),
            judge(f"GC on all, minus on all but {name}", runs.differences(others, with_gc(SGD), 5), 5, 6),
        )
    return found


def mechanism(runs: Runs) -> list[Answer]:
    """Inputs that are centred by hand, and pixels that are not."""
    pairs: dict[str, tuple[Setting, Setting]] = {
        "GC minus none": (SGD, with_gc(SGD)),
        "inputs centred by hand minus none": (SGD, CENTRED),
        "GC minus inputs centred by hand": (CENTRED, with_gc(SGD)),
        "GC minus none, pixels not centred": (RAW, with_gc(RAW)),
    }
    return [judge(name, runs.differences(*pair, 5), 5, 6) for name, pair in pairs.items()]


def shares(runs: Runs, seeds: int = 5) -> dict[str, list[float]]:
    """By layer, of each seed: the share of the squared gradient that GC would remove, mean over a run without GC."""
    return {name: [float(np.mean(found["share"][name])) for found in runs.all(SGD, seeds)] for name in resnet.LAYERS}


def share_says(runs: Runs) -> list[float]:
    """By seed: Spearman's correlation, over layers, of the share that GC would remove with the gain from GC there."""
    found = []
    for seed in range(5):
        plain = runs.found(SGD, seed)
        alone = [runs.found(with_gc(SGD, layers=f"only {name}"), seed) for name in resnet.LAYERS]
        if plain and all(alone):
            share = [np.mean(plain["share"][name]) for name in resnet.LAYERS]
            gain = [one["test_accuracy"] - plain["test_accuracy"] for one in alone if one]
            found.append(float(spearmanr(share, gain).statistic))
    return found


ALL: dict[int, Callable[[Runs], list[Answer]]] = {
    1: lambda runs: [*budgets(runs).values(), pilot(runs)],
    2: lambda runs: [answer for answers in rates(runs) for answer in answers],
    3: beside,
    4: tuning,
    5: text,
    6: lambda runs: [*(a for two in layers(runs).values() for a in two), *mechanism(runs)[1:]],
}
__all__ = ["ADAMW", "ALL", "Answer", "Reply", "Runs", "Verdict"]
