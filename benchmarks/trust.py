"""Whether the suite's verdicts can be trusted: python -m benchmarks.trust [--seeds 10] [--cases 4]

Every wrong port is held to the property meant for it, at each profile: none may survive. Every right port is held to
every property, with many seeds: none may be accused. A row is written when it is finished, and not repeated while the
suite's version stays: what was interrupted goes on where it was.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from benchmarks.harness import RESULTS, machine
from gc_conformance import PROFILES, PROPERTIES, VERSION, load_port
from gc_conformance.honest import HONEST
from gc_conformance.judging import judge
from gc_conformance.mutants import MUTANTS, kill

FILE = RESULTS / "conformance_trust.json"
OF_HONEST = "quick"


def mutants(profile: str) -> dict[str, int]:
    """The last case of each is the one that kills it."""
    results = {name: kill(mutant, profile=profile) for name, mutant in MUTANTS.items()}
    survivors = [name for name, result in results.items() if result.status != "failed"]
    print("".join(f"  survived: {name}\n" for name in survivors), end="")
    return {"ports": len(results), "cases": sum(one.examples + 1 for one in results.values()), "wrong": len(survivors)}


def honest(seed: int, most: int | None) -> dict[str, int]:
    cases = accused = 0
    for right in HONEST:
        port = load_port(right)
        examples = {id: most or prop.examples(PROFILES[OF_HONEST]) for id, prop in PROPERTIES.items()}
        results = [judge(prop, port, seed=seed, examples=examples[id]) for id, prop in PROPERTIES.items()]
        failed = [one for one in results if one.status == "failed"]
        print("".join(f"  accused: {port.name}: {one.id}: {one.message}\n" for one in failed), end="", flush=True)
        cases, accused = cases + sum(one.examples for one in results), accused + bool(failed)
    return {"ports": len(HONEST), "cases": cases, "wrong": accused}


def main(
    seeds: Annotated[int, typer.Option(help="Of the right ports.")] = 10,
    cases: Annotated[int | None, typer.Option(help="Of each property; as the profile quick has, if left out.")] = None,
) -> None:
    kept = json.loads(FILE.read_text(encoding="utf-8"))["rows"] if FILE.exists() else {}
    rows: dict[str, Callable[[], dict[str, int]]]
    rows = {f"wrong ports, {profile}": partial(mutants, profile) for profile in PROFILES}
    of_each = f"{cases} cases of each property" if cases else OF_HONEST
    rows |= {f"right ports, {of_each}, seed {seed}": partial(honest, seed, cases) for seed in range(seeds)}
    for name, judged in rows.items():
        if kept.get(name, {}).get("suite") != VERSION:
            kept[name] = {**judged(), "suite": VERSION}
            FILE.write_text(json.dumps({"about": machine(), "rows": kept}, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {kept[name]['ports']} ports, {kept[name]['cases']} cases, {kept[name]['wrong']} wrong verdicts")
    sys.exit(any(kept[name]["wrong"] for name in rows))


if __name__ == "__main__":
    typer.run(main)
