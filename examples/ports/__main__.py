"""`make ports`: hold the adapters of this folder to the suite, each in its own process, and write docs/ports.md."""

import importlib
import json
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

from gc_core.output import degrade

PAGE = Path("docs/ports.md")
PORTS = (
    "examples.ports.authors_rule:all_layers",
    "examples.ports.authors_rule:convolutions",
    "examples.ports.optax_centralize",
    "examples.ports.optax_centralize:half",
    "examples.ports.pytorch_optimizer_gc",
    "examples.ports.pytorch_optimizer_gc:half",
    "examples.ports.keras_recipe:rule",
    "examples.ports.keras_recipe:override",
)
HEAD = """\
# Public libraries as ports

What the conformance suite finds in other people's implementations of Gradient Centralization. `make ports` installs
them at the versions below, runs the suite, and writes this page; nothing on it is written by hand but this paragraph
and the descriptions and causes, which stand in `examples/ports/`.

The yardstick is [the contract](contract.md), which is stricter than what most of these libraries set out to do: several
of them document a rule by rank, and do what they document. A failure below says that a port differs from the contract,
where, and by how much; whether that matters depends on the models it is used for. What a library does not offer
(other axes, other layouts, other optimizers) counts as not provided. In the chapter `layers` a port is handed gradients
of layers as models for it store them, and chooses the axes itself; what is judged is that choice.
"""


def judged(target: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, "-m", "gc_conformance", "run", target, "--json", str(file)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise SystemExit(f"{target} could not be judged:\n{done.stdout}{done.stderr}")
        return json.loads(file.read_text(encoding="utf-8"))["ports"][0]


def about(target: str) -> tuple[str, str, dict[str, tuple[str, ...]]]:
    """The description of a port, the versions of what it runs on, and the causes of its failures."""
    path, _, attribute = target.partition(":")
    module = importlib.import_module(path)
    port = getattr(module, attribute) if attribute else module
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in module.packages)
    return (module.__doc__ or "").strip(), versions, port.causes


def counts(results: list[dict]) -> str:
    found = [result["status"] for result in results]
    return " | ".join(str(found.count(status)) for status in ("passed", "failed", "not provided"))


def code(text: str) -> str:
    return f"`{' '.join(text.split())}`"


def by_cause(port: dict, causes: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """The failed ids under the first cause that names them."""
    groups: dict[str, list[str]] = {cause: [] for cause in causes}
    for result in failures(port):
        named = (cause for cause, patterns in causes.items() if any(fnmatch(result["id"], p) for p in patterns))
        groups.setdefault(next(named, "Not yet looked into."), []).append(result["id"])
    if stale := [cause for cause, ids in groups.items() if not ids]:
        raise SystemExit(f"{port['port']}: nothing fails any more for this cause: {stale[0]}")
    return groups


def failures(port: dict) -> list[dict]:
    return [result for result in port["results"] if result["status"] == "failed"]


def section(port: dict, description: str, versions: str, causes: dict[str, tuple[str, ...]]) -> list[str]:
    results = port["results"]
    lines = [f"## {port['port']}", "", description, "", f"{versions}; {', '.join(port['dtypes'])}.", ""]
    lines += ["| chapter | passed | failed | not provided |", "|---|---|---|---|"]
    for chapter in dict.fromkeys(result["chapter"] for result in results):
        lines.append(f"| {chapter} | {counts([result for result in results if result['chapter'] == chapter])} |")
    lines += ["", "What fails, by cause:", ""]
    for cause, ids in by_cause(port, causes).items():
        lines.append(f"- {cause} {', '.join(map(code, ids))}")
    lines += ["", "<details><summary>The smallest counterexamples</summary>", ""]
    for result in failures(port):
        lines.append(f"- `{result['id']}`: {result['title']}")
        lines.append(f"  - {code(result['counterexample'])}")
        lines.append(f"  - {code(result['message'])}")
    return [*lines, "", "</details>", ""]


def main() -> None:
    degrade()
    ports = []
    for target in PORTS:
        port = judged(target)
        print(f"{port['port']}: passed | failed | not provided: {counts(port['results'])}", flush=True)
        ports.append((port, *about(target)))
    first = ports[0][0]
    asked = f"Level {first['level']}, profile {first['profile']}, seed {first['seed']}"
    suite = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    lines = [HEAD, f"{asked}, with {suite}.", ""]
    lines += ["| port | with | passed | failed | not provided |", "|---|---|---|---|---|"]
    for port, _, versions, _ in ports:
        lines.append(f"| {port['port']} | {versions} | {counts(port['results'])} |")
    lines.append("")
    for port, description, versions, causes in ports:
        lines += section(port, description, versions, causes)
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
