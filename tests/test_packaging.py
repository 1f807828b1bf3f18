"""What is distributed is what is in this folder, and what is in this folder may be distributed."""

import email
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gc_core import versions

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "gc_core": ROOT / "gc_core",
    "gc_torch": ROOT / "backends/gc_torch",
    "gc_jax": ROOT / "backends/gc_jax",
    "gc_cupy": ROOT / "backends/gc_cupy",
    "gc_conformance": ROOT / "conformance/gc_conformance",
}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*command, cwd):
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def git_files(*options):
    if not (ROOT / ".git").exists():
        pytest.skip("this folder is not a git checkout")
    # The owner of the folder may be someone else, as in a container.
    listing = run("git", "-c", "safe.directory=*", "ls-files", "-z", *options, cwd=ROOT)
    return {name for name in listing.split("\0") if name and (ROOT / name).exists()}


def project_files():
    return git_files("--cached", "--others", "--exclude-standard")


def build(kind, source, folder):
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder, cwd=source)
    (file,) = folder.iterdir()
    return file


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def about(wheel):
    (text,) = (data for name, data in contents(wheel).items() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(text)


def test_the_wheel_holds_the_five_packages_file_by_file(wheel):
    packed = {name: data for name, data in contents(wheel).items() if ".dist-info/" not in name}
    expected = {
        f"{package}/{file.relative_to(folder).as_posix()}": file.read_bytes()
        for package, folder in PACKAGES.items()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert packed.keys() == expected.keys()
    assert packed == expected
    for package in PACKAGES:
        assert {f"{package}/__init__.py", f"{package}/py.typed"} <= packed.keys()


def test_the_sdist_holds_the_project_and_builds_the_same_wheel(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (top,) = tmp_path.iterdir()
    packed = {file.relative_to(top).as_posix() for file in top.rglob("*") if file.is_file()}
    assert packed >= {"LICENSE", "README.md", "Makefile", "tests/test_packaging.py", "docs/contract.md"}
    assert contents(build("wheel", top, tmp_path / "again")) == contents(wheel)
    assert packed - {"PKG-INFO"} == project_files()


def test_the_installed_wheel_runs_its_examples_with_numpy_alone(wheel, tmp_path):
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path)
    for name in ("numpy", "numpy.libs"):
        if (installed := Path(np.__file__).parents[1] / name).exists():
            (site / name).symlink_to(installed)
    code = """
import doctest, importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import gc_core
names = ["gc_core", *(module.name for module in pkgutil.walk_packages(gc_core.__path__, "gc_core."))]
results = [doctest.testmod(importlib.import_module(name)) for name in names]
assert sum(result.attempted for result in results) > len(names)
assert not any(result.failed for result in results)
print(gc_core.__file__)
"""
    # Neither the current folder nor any site-packages is on the path.
    out = run(sys.executable, "-I", "-S", "-W", "error", "-c", code, site, cwd=tmp_path)
    assert Path(out.splitlines()[-1]) == site / "gc_core/__init__.py"


def test_an_editable_install_is_three_folders_on_the_path(tmp_path):
    code = "import sys, hatchling.build; hatchling.build.build_editable(sys.argv[1])"
    run(sys.executable, "-c", code, tmp_path, cwd=ROOT)
    (editable,) = tmp_path.iterdir()
    ((name, data),) = ((n, d) for n, d in contents(editable).items() if ".dist-info/" not in n)
    assert name.endswith(".pth")
    assert {Path(line) for line in data.decode().split("\n") if line} == {f.parent for f in PACKAGES.values()}


def test_the_metadata_asks_for_numpy_alone_and_pins_nothing(about):
    needs = [Requirement(text) for text in about.get_all("Requires-Dist")]
    assert [str(need) for need in needs if need.marker is None] == ["numpy>=1.26"]
    assert all(need.marker is None or "extra ==" in str(need.marker) for need in needs)
    assert not [str(need) for need in needs if "==" in str(need.specifier)]
    assert not [str(need) for need in needs if re.search("[<~!]", str(need.specifier))]  # no upper bounds
    extras = {"torch", "torch-fast", "jax", "cupy-cuda12", "cupy-cuda13", "conformance", "examples", "learn"}
    assert set(about.get_all("Provides-Extra")) == extras
    assert about["Requires-Python"] == ">=3.11"


def test_classifiers_name_the_pythons_and_systems_that_were_run(about):
    results = json.loads((ROOT / "tests/versions/results.json").read_text(encoding="utf-8"))
    named = [line.split(" :: ") for line in about.get_all("Classifier")]
    pythons = {words[-1] for words in named if words[:2] == ["Programming Language", "Python"]} - {"3"}
    assert pythons == {".".join(result["python"].split(".")[:2]) for result in results.values()}
    systems = {words[-1] for words in named if words[0] == "Operating System"}
    assert systems == {result["system"].split()[0] for result in results.values()}


def test_the_lower_bounds_are_those_that_imports_ask_for(about):
    bounds: dict[str, set] = {}
    for need in map(Requirement, about.get_all("Requires-Dist")):
        name = re.sub("-cuda1.x", "", need.name)
        if name in versions.OLDEST:
            bounds.setdefault(name, set()).add(str(need.specifier).removeprefix(">="))
    assert {name: min(of, key=versions.release) for name, of in bounds.items()} == versions.OLDEST
    table = tomllib.loads((ROOT / "tests/versions/environments.toml").read_text(encoding="utf-8"))
    tested = [need for environment in table["environment"] for need in environment["needs"]]
    for name, oldest in versions.OLDEST.items():
        pins = [
            versions.release(need.partition("==")[2])
            for need in tested
            if need.startswith(f"{name}==") or (name == "cupy" and re.match("cupy-cuda12x==", need))
        ]
        assert min(pins)[: len(versions.release(oldest))] == versions.release(oldest), name


def test_every_package_says_the_version_of_the_one_place():
    for package in PACKAGES:
        code = f"import sys, gc_core, {package} as p; sys.exit(p.__version__ != gc_core.__version__)"
        run(sys.executable, "-c", code, cwd=ROOT)


def test_the_version_stands_in_one_place(about):
    assert "version" not in PYPROJECT["project"]
    assert about["Version"] == re.search(r'^__version__ = "(.+)"$', (ROOT / "gc_core/__init__.py").read_text(), re.M)[1]
    assert f"\nversion: {about['Version']}\n" in (ROOT / "CITATION.cff").read_text()  # which cannot ask
    assigns = [
        name
        for name in project_files()
        if name.endswith(".py") and re.search(r"^__version__ *=", (ROOT / name).read_text(), re.M)
    ]
    assert assigns == ["gc_core/__init__.py"]


def test_every_development_dependency_is_pinned():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9.]+(b[0-9]+|\.post[0-9]+)?", line)] == []
    pins = {line.partition("==")[0] for line in lines}
    project = PYPROJECT["project"]
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name != "cupy-cuda12"}
    waiting = [Requirement(need) for needs in extras.values() for need in needs]
    groups = PYPROJECT["dependency-groups"].values()
    waiting += [Requirement(need) for group in groups for need in group if isinstance(need, str)]
    waiting += [Requirement(need) for need in project["dependencies"]]
    seen = set()
    while waiting:
        need = waiting.pop()
        name, extras = canonicalize_name(need.name), frozenset(need.extras)
        if name == project["name"] or (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            its_needs = metadata.requires(need.name) or []
        except metadata.PackageNotFoundError:
            continue  # not of this platform
        for inner in map(Requirement, its_needs):
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                waiting.append(inner)
    assert {name for name, _ in seen} - pins == set()


def test_no_file_names_a_registry_or_a_path_of_some_machine():
    # In pieces, so that this file does not hold what it forbids.
    hosts = "|".join(["py" + "pi", "python" + "hosted", "ana" + "conda", "npm" + "js", "download.py" + "torch"])
    folders = "|".join(["work", "tmp", "root", "home", "opt", "Users"])
    forbidden = re.compile(rf"({hosts})\.(org|com)|index-{'url'}|(?<![\w.~-])/({folders})/")
    found = []
    for name in sorted(project_files()):
        text = (ROOT / name).read_bytes().decode(errors="replace")
        found += [f"{name}: {match[0]}" for match in forbidden.finditer(text)]
    assert found == []


def test_every_file_is_tracked_or_ignored():
    assert git_files("--others", "--exclude-standard") == set(), "git add them, or name them in .gitignore"
