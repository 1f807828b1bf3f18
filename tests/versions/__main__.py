"""`python -m tests.versions`: run the tests with the releases in environments.toml, and write docs/versions.md.

One environment after the other, each removed when its tests are done: a PyTorch with CUDA takes 6 GB. What was run is
kept in results.json beside this file, so that a run of some leaves the rows of the others.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any

from tests.versions.page import page

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.json"
TOOLS = ["pytest", "pytest-xdist", "hypothesis", "jsonschema", "ml_dtypes", "rich", "typer", "matplotlib", "setuptools"]
SHOWN = ["torch", "numba", "jax", "optax", "flax", "cupy-cuda12x", "cupy-cuda13x", "numpy"]


def find_python(release: str) -> str | None:
    """The interpreter of this release that is on the path, of pyenv, or of uv."""
    candidates = [shutil.which(f"python{release}"), sys.executable]
    candidates += sorted(map(str, Path.home().glob(f".pyenv/versions/{release}.*/bin/python")))
    for candidate in filter(None, candidates):
        code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip() == release:
            return candidate
    return None


def build(folder: Path, python: str, needs: list[str], index: str | None) -> Path:
    """An environment with these packages, by uv where it is there."""
    inside = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    extra = ["--extra-index-" + "url", index] if index else []
    if uv := shutil.which("uv"):
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", python, folder], check=True)
        if index:
            extra += ["--index-strategy", "unsafe-best-match"]
        install = [uv, "pip", "install", "--quiet", "--python", inside]
    else:
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        install = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*map(str, install), *extra, *needs], check=True)
    return inside


def run_tests(python: Path, environment: dict[str, Any], folder: Path, jobs: int) -> dict[str, Any]:
    """What the tests of a backend say with these packages."""
    report = folder / "report.xml"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "backends", ROOT / "conformance"]))}
    # Other releases of other libraries warn of other things; tests of our own warnings look for them.
    command = [python, "-m", "pytest", *environment["tests"], "-q", "-n", jobs, "-o", "filterwarnings=default"]
    command += ["-o", "cache_dir=" + str(folder / "cache"), f"--junitxml={report}"]
    subprocess.run(list(map(str, command)), cwd=ROOT, env={**env, "PYTHONUTF8": "1"}, check=False)
    cases = list(xml.parse(report).getroot().iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "passed": len(cases) - len(bad) - len(skipped),
        "failed": sorted({f"{case.get('classname')}::{case.get('name')}" for case in bad}),
        "not run": sorted({str(case.find("skipped").get("message")) for case in skipped}),  # type: ignore[union-attr]
        "skipped": len(skipped),
    }


def installed(python: Path) -> dict[str, str]:
    """The releases that came, of what the table shows."""
    code = (
        "import importlib.metadata as m, json, sys; "
        "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
    )
    there = json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)
    return {name: there[name] for name in SHOWN if name in there}


def main() -> None:
    table = tomllib.loads((HERE / "environments.toml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__)
    parser.add_argument("only", nargs="*", help="names of environments, or parts of them; all, if none is given")
    parser.add_argument("--index", help="a further index, such as PyTorch's own for CPU builds, which are 1 GB")
    parser.add_argument("--jobs", type=int, default=2, help="processes that run tests")
    parser.add_argument("--keep", action="store_true", help="leave the environments where they are")
    parser.add_argument("--page", action="store_true", help="run nothing: write the page from what was run")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    failed = []
    for environment in [] if options.page else table["environment"]:
        name = environment["name"]
        if options.only and not any(part in name for part in options.only):
            continue
        python = find_python(environment["python"])
        if python is None:
            print(f"{name}: not tested, there is no Python {environment['python']} here", flush=True)
            continue
        print(f"{name}: building it", flush=True)
        folder = ROOT / ".venv-versions" / "".join(c if c.isalnum() else "-" for c in name)
        try:
            inside = build(folder, python, [*environment["needs"], *TOOLS], options.index)
            result = run_tests(inside, environment, folder, options.jobs)
            version = subprocess.run([inside, "-c", "import platform; print(platform.python_version())"],
                                     capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
            results[name] = {
                **result,
                "packages": installed(inside),
                "python": version,
                "system": f"{platform.system()} {platform.machine()}",
                "date": datetime.date.today().isoformat(),
            }
        except (subprocess.CalledProcessError, OSError, xml.ParseError) as error:
            print(f"{name}: not tested, {error}", flush=True)
            failed.append(name)
            continue
        finally:
            if not options.keep:
                shutil.rmtree(folder, ignore_errors=True)
        print(f"{name}: {results[name]['passed']} passed, {len(results[name]['failed'])} failed", flush=True)
        if results[name]["failed"]:
            failed.append(name)
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (ROOT / "docs/versions.md").write_text(page(table, results), encoding="utf-8")
    (ROOT / "docs/versions.md").write_text(page(table, results), encoding="utf-8")
    if failed:
        sys.exit(f"not all is well: {', '.join(failed)}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; what was run before is written")
