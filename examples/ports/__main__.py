"""`make ports`: hold the ports of ports.toml to the suite, each in its own process, and write docs/ports.md."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from gc_core.output import degrade

from .page import PAGE, written

DESCRIPTIONS = Path(__file__).with_name("ports.toml")


def command(port: dict, clones: Path | None) -> list[str] | None:
    """The words after `gc-conformance run`; None for a port in a clone that is not here."""
    if "clone" in port and (clones is None or not (clones / port["clone"]).is_dir()):
        return None
    place = str(clones / port["clone"]) if clones and "clone" in port else ""
    words = [port["target"].replace("{clone}", place)]
    if "switch" in port:
        given = (option.replace("{clone}", place) for option in port.get("with", []))
        words += ["--switch", port["switch"], *(f"--with={option}" for option in given)]
    if "adapter" in port:
        words += ["--adapter", port["adapter"]]
    return words + (["--call"] if port.get("call") else [])


def judged(words: list[str], asked: argparse.Namespace) -> dict | str:
    """What the suite says of a port, or why it could not be judged."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        options = ["--profile", asked.profile, "--json", str(file), "--time-limit", "600"]
        done = subprocess.run(
            [sys.executable, "-m", "gc_conformance", "run", *words, *options], capture_output=True, text=True
        )
        if not file.exists():
            lines = done.stderr.strip().splitlines()
            said = [line for line in lines if line.startswith("gc-conformance: ")] or lines[-1:]
            return said[0] if said else f"exit {done.returncode}"
        text = file.read_text(encoding="utf-8")
        if asked.clones:  # the page is of no machine's
            text = text.replace(str(asked.clones), "clones")
        return json.loads(text)["ports"][0]


def main() -> None:
    degrade()
    parser = argparse.ArgumentParser(prog="python -m examples.ports", description=__doc__)
    parser.add_argument("--profile", default="standard", choices=("quick", "standard", "thorough"))
    parser.add_argument("--clones", type=Path, help="folder with the repositories that no registry has")
    parser.add_argument("--keep", type=Path, help="folder for results: what is there is not judged again")
    parser.add_argument("--only", action="append", help="judge these ports alone, by name, and write no page")
    asked = parser.parse_args()
    described = tomllib.loads(DESCRIPTIONS.read_text(encoding="utf-8"))
    rows = []
    for port in described["port"]:
        if asked.only and port["name"] not in asked.only:
            continue
        kept = asked.keep / f"{port['name'].replace('/', ' ')}.json" if asked.keep else None
        if kept and kept.exists():
            result = json.loads(kept.read_text(encoding="utf-8"))
        elif words := command(port, asked.clones):
            result = judged(words, asked)
            if kept and isinstance(result, dict):
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(result), encoding="utf-8")
        else:
            result = f"its repository is not here: --clones FOLDER, with {port['clone']} in it"
        failed = (
            result if isinstance(result, str) else f"{sum(r['status'] == 'failed' for r in result['results'])} failed"
        )
        print(f"{port['name']}: {failed}", flush=True)
        rows.append((port, result))
    if not asked.only:
        PAGE.write_text(written(rows, described["cause"]), encoding="utf-8")
        print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
