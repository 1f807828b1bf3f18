"""docs/ports.md, made of results and descriptions."""

from __future__ import annotations

from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

PAGE = Path("docs/ports.md")
HEAD = """\
# Public libraries as ports

What the conformance suite finds in other people's implementations of Gradient Centralization. `make ports` installs
them at the versions below, runs the suite through the adapters that it ships, and writes this page; nothing on it is
written by hand but this paragraph and the descriptions and causes, which stand in `examples/ports/ports.toml`.

The yardstick is [the contract](contract.md), which is stricter than what most of these libraries set out to do: several
of them document a rule by rank, and do what they document. So each section begins with what the library says. A failure
below it says that a port differs from the contract, where, and by how much; whether that matters depends on the models
it is used for. What a library does not offer counts as not provided. An optimizer is judged by
[what must hold between its own runs](conformance.md#any-optimizer-with-a-switch), with GC on and off.

Of `pytorch_optimizer` every optimizer with a switch for GC is here. `pytorch_ranger` 0.1.1 and `torch_optimizer` 0.3.0
were looked at, and have no GC.
"""


def versions(packages: list[str]) -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in packages)


def having(result: dict, status: str) -> list[dict]:
    return [one for one in result["results"] if one["status"] == status]


def code(text: str) -> str:
    return f"`{' '.join(text.split())}`"


def by_cause(port: dict, result: dict, causes: dict[str, str]) -> dict[str, list[dict]]:
    """The failures under the first cause of the description that names them."""
    named: dict[str, list[str]] = port.get("causes", {})
    groups: dict[str, list[dict]] = {causes.get(cause, cause): [] for cause in named}
    for failure in having(result, "failed"):
        found = (cause for cause, ids in named.items() if any(fnmatch(failure["id"], pattern) for pattern in ids))
        cause = next(found, "Not yet looked into.")
        groups.setdefault(causes.get(cause, cause), []).append(failure)
    if stale := [cause for cause, found in groups.items() if not found]:
        raise SystemExit(f"{port['name']}: nothing fails any more for this cause: {stale[0]}")
    return groups


def section(port: dict, result: dict, causes: dict[str, str]) -> list[str]:
    lines = [f"## {port['name']}", "", f"What it says: {port['says']}", ""]
    lines += [f"{versions(port['packages'])}; {', '.join(result['dtypes'])}. Judged as {code(result['target'])}", ""]
    if "switch" in port:
        lines[-2] += (
            f" with `--switch {port['switch']}`" + "".join(f" `--with {o}`" for o in port.get("with", [])) + "."
        )
    else:
        lines[-2] += "."
    judged = [one for one in result["results"] if one["status"] != "not provided"]
    lines += ["| chapter | passed | failed |", "|---|---|---|"]
    for chapter in dict.fromkeys(one["chapter"] for one in judged):
        found = [one["status"] for one in judged if one["chapter"] == chapter]
        lines.append(f"| {chapter} | {found.count('passed')} | {found.count('failed')} |")
    groups = by_cause(port, result, causes)
    lines += ["", "Nothing fails.", ""] if not groups else ["", "What fails, by cause:", ""]
    for cause, found in groups.items():
        lines.append(f"- {cause} {', '.join(code(one['id']) for one in found)}")
    if groups:
        lines += ["", "<details><summary>What was found, with the smallest counterexample of each cause</summary>", ""]
        for found in groups.values():
            lines += [f"- `{one['id']}`: {' '.join(one['message'].split())}" for one in found]
            lines += ["", "```text", *found[0]["reproduce"].split("\n"), "```", ""]
        lines += ["</details>", ""]
    return lines


def written(rows: list[tuple[dict, dict | str]], causes: dict[str, str]) -> str:
    judged = [(port, result) for port, result in rows if isinstance(result, dict)]
    first = judged[0][1]
    suite = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    asked = f"Level {first['level']}, profile {first['profile']}, seed {first['seed']}"
    lines = [HEAD, "", f"{asked}, with {suite}.", ""]
    lines += ["| port | with | passed | failed | causes |", "|---|---|---|---|---|"]
    for port, result in judged:
        counts = [len(having(result, status)) for status in ("passed", "failed")]
        different = len(by_cause(port, result, causes))
        lines.append(f"| {port['name']} | {versions(port['packages'])} | {counts[0]} | {counts[1]} | {different} |")
    lines.append("")
    if missing := [(port, why) for port, why in rows if isinstance(why, str)]:
        lines += ["Not judged in this run:", "", *(f"- {port['name']}: {why}" for port, why in missing), ""]
    for port, result in judged:
        lines += section(port, result, causes)
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"
