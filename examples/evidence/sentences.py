"""What each question found, in sentences: every word that judges is made of a verdict, every number of the lines."""

import numpy as np

from examples.digits.report import signed
from examples.digits.statistics import Interval, interval
from examples.evidence import answers
from examples.evidence.answers import Answer, Reply, Runs, Verdict
from examples.evidence.questions import BUDGETS, METHODS
from examples.evidence.settings import Text

POINTS, BITS = "points", "bits per character"
LISTED = 6  # comparisons of which nothing is shown: more are counted


def in_numbers(answer: Answer, unit: str) -> str:
    """The difference, its interval, and how many seeds it has."""
    seeds = f"{len(answer.by_seed)} of {answer.planned} seeds"
    if answer.interval is None:
        return seeds
    form = "{:+.3f}" if unit == BITS else "{:+.1f}"
    mean, low, high = (
        signed(value, form) for value in (answer.interval.mean, answer.interval.low, answer.interval.high)
    )
    return f"{mean} {unit}, {low} to {high}; {seeds}"


def by_verdict(found: list[Answer], unit: str = POINTS) -> str:
    """One sentence for each verdict that there is; where nothing is shown, and that often, how often."""
    lines = []
    for verdict in Verdict:
        own = [answer for answer in found if answer.verdict is verdict and answer.by_seed]
        if own and verdict is Verdict.NOT_SHOWN and len(own) > LISTED:
            lines.append(f"- **{verdict.value.capitalize()}**: {len(own)} of {len(found)} comparisons.")
        elif own:
            said = "; ".join(f"{answer.name} ({in_numbers(answer, unit)})" for answer in own)
            lines.append(f"- **{verdict.value.capitalize()}**: {said}.")
    unrun = [answer for answer in found if not answer.by_seed]
    if unrun:
        lines.append(f"- **Not run yet**: {len(unrun)} of {len(found)} comparisons, 0 of {unrun[0].planned} seeds.")
    return "\n".join(lines)


def in_short(runs: Runs) -> str:
    """Three lines, which the README has too."""
    found, text_found = answers.budgets(runs), answers.text(runs)
    faster, better = [], []
    for base, gc in METHODS:
        name = answers.method_name(base.rule, gc)
        at = in_numbers(found[base.rule, gc, 2000, 20], POINTS)
        faster.append(f"{name}: {answers.faster(found, base.rule, gc).value} (20 epochs: {at})")
        at = in_numbers(found[base.rule, gc, 2000, 200], POINTS)
        better.append(f"{name}: {answers.better_at_the_end(found, base.rule, gc).value} (200 epochs: {at})")
    said = [f"{one.name}: {one.verdict.value} ({in_numbers(one, BITS)})" for one in text_found if "left" in one.name]
    return "\n".join(
        [
            f"- Faster on natural images? {'; '.join(faster)}.",
            f"- Better there after long training? {'; '.join(better)}.",
            f"- Better on text? {'; '.join(said)}.",
        ]
    )


def first(runs: Runs) -> str:
    found = answers.budgets(runs)
    lines = []
    for base, gc in METHODS:
        own = [found[base.rule, gc, images, epochs] for images, epochs in BUDGETS]
        faster, better = answers.faster(found, base.rule, gc), answers.better_at_the_end(found, base.rule, gc)
        most = max((a for a in own if a.interval), key=lambda a: a.interval.mean if a.interval else 0.0, default=None)
        said = f" The largest difference is that of {budget(most)} ({in_numbers(most, POINTS)})." if most else ""
        name = answers.method_name(base.rule, gc)
        lines.append(f"- **{name}**. Faster: {faster.value}. Better at the end: {better.value}.{said}")
    pilot = answers.pilot(runs)
    lines.append(
        f"- **With a one-cycle schedule**, as in the pilot: {pilot.verdict.value} ({in_numbers(pilot, POINTS)})."
    )
    return "\n".join(lines)


def budget(answer: Answer) -> str:
    """The budget in an answer's name."""
    return ", ".join(answer.name.split(", ", 2)[2:])


def second(runs: Runs) -> str:
    best, collapse = answers.rates(runs)
    return "\n\n".join(
        [
            "Each method at its own best learning rate and decay, GC minus none:",
            by_verdict(best),
            "How much of the range of learning rates ends in collapse, GC minus none:",
            by_verdict(collapse, "points of 100"),
        ]
    )


def sixth(runs: Runs) -> str:
    layers = [answer for two in answers.layers(runs).values() for answer in two]
    parts = [by_verdict(answers.mechanism(runs)), by_verdict(layers)]
    says = answers.share_says(runs)
    asked = "Does what GC removes at a layer say whether it helps there?"
    if len(says) >= answers.FEWEST:
        found = interval(says)
        reply = Reply.YES if found.low > 0 else Reply.NOT_SHOWN
        said = f"the correlation of ranks is {shown(found, '{:+.2f}')}; {len(says)} of 5 seeds"
        parts.append(f"{asked} {reply.value.capitalize()}: {said}.")
    else:
        parts.append(f"{asked} {Reply.FEW.value.capitalize()}: {len(says)} of 5 seeds.")
    return "\n\n".join(parts)


SENTENCES = {
    1: first,
    2: second,
    3: lambda runs: f"SGD with GC on the gradient minus the same without:\n\n{by_verdict(answers.beside(runs))}",
    4: lambda runs: by_verdict(answers.tuning(runs)),
    5: lambda runs: f"AdamW, lower is better:\n\n{by_verdict(answers.text(runs), BITS)}{of_layers(runs)}",
    6: sixth,
}


def of_layers(runs: Runs) -> str:
    """Where a transformer has anything for GC to remove."""
    found = runs.all(Text(), 5)
    if not found:
        return ""
    shares = {name: float(np.mean([np.mean(one["share"][name]) for one in found])) for name in found[0]["share"]}
    behind = [share for name, share in shares.items() if name.endswith(("qkv", "up", "head"))]
    rest = [share for name, share in shares.items() if not name.endswith(("qkv", "up", "head"))]
    if not behind or not rest:
        return ""
    return (
        "\n\nNot asked before: a linear layer behind a layer normalization is given inputs that are centred already. "
        f"There GC would remove at most {max(behind):.1g} of the squared gradient, and in the other linear layers "
        f"{min(rest):.2f} to {max(rest):.2f} (mean over training without GC, {len(found)} of 5 seeds)."
    )


def shown(found: Interval, form: str) -> str:
    half = "" if found.half_width is None else f" ± {form.replace('+', '').format(found.half_width)}"
    return f"{signed(found.mean, form)}{half}"
