"""The page docs/versions.md, of what was run."""

from typing import Any

from gc_core.versions import OLDEST

NAMES = {"numpy": "NumPy", "numba": "Numba", "torch": "PyTorch", "jax": "JAX", "optax": "Optax", "cupy": "CuPy"}


def pythons(results: dict[str, Any]) -> list[str]:
    """The Pythons on which something was run: "3.11", "3.12"."""
    minors = {tuple(map(int, result["python"].split(".")[:2])) for result in results.values()}
    return [f"{major}.{minor}" for major, minor in sorted(minors)]


def page(table: dict[str, Any], results: dict[str, Any]) -> str:
    """The page, from environments.toml and results.json."""
    ran = sum(environment["name"] in results for environment in table["environment"])
    lines = [
        "# Versions",
        "",
        "Needed are, at least: "
        + ", ".join(f"{NAMES[name]} {release}" for name, release in OLDEST.items())
        + ", Python 3.11.",
        "There are no upper bounds. An import with an older release says which one is there and which is needed.",
        "",
        f"Of {len(table['environment'])} environments, {ran} {'was' if ran == 1 else 'were'} run"
        + (f", on Python {', '.join(pythons(results))}." if ran else "."),
        "`make test-versions` (`python -m tests.versions`) runs the tests of each backend with these releases; it",
        "wrote this page. Only what was run stands here as such.",
        "",
        "| | Python | with | passed | failed | not run | on | when |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for environment in table["environment"]:
        name = environment["name"]
        result = results.get(name)
        if result is None:
            wanted = ", ".join(environment["needs"])
            lines.append(f"| {name} | {environment['python']} | {wanted} | not tested | | | | |")
            continue
        packages = ", ".join(f"{package} {release}" for package, release in result["packages"].items())
        lines.append(
            f"| {name} | {result['python']} | {packages} | {result['passed']:,} | {len(result['failed'])} "
            f"| {result['skipped']} | {result['system']} | {result['date']} |"
        )
    lines += [f"| {name} | | | not tested: {why} | | | | |" for name, why in table["not_tested"].items()]
    lines += ["", "## What failed", ""]
    bad = {name: result["failed"] for name, result in results.items() if result["failed"]}
    if not bad:
        lines.append("Nothing.")
    for name, tests in bad.items():
        lines += [f"{name}:", "", *(f"- `{test}`" for test in tests), ""]
        if why := table.get("why", {}).get(name):
            lines += [why, ""]
    lines += ["", "## What was not run, and why", ""]
    for name, result in results.items():
        for reason in result["not run"]:
            lines.append(f"- {name}: {' '.join(reason.split())}")
    while lines[-1] == "":
        lines.pop()
    return "\n".join(lines) + "\n"
