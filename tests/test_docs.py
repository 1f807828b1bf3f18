"""The code, the commands and the links in README.md, CONTRIBUTING.md and docs/ are right.

Python blocks of one page run in order and share their names. Console and bash blocks are held against what exists.
What a test cannot run says so, for readers and for this file: "# not run: reason" on the line of the command, or
as the first line of a Python block, which then must still be valid Python.
"""

import doctest
import json
import re
import shlex
import tomllib
from contextlib import nullcontext
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from gc_conformance import cli
from tests.cupy.gpu import cupy_or_stand_in

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = re.compile(r"# not run: \w+")
HERE = re.compile(r"-e|--editable|\.(\[[\w,-]+\])?")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MAKE_TARGETS = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def parse(page):
    return MarkdownIt().enable("table").parse(page.read_text())


def fences(page, *languages):
    """(first line number, text) of the page's code blocks in these languages."""
    return [
        (token.map[0] + 2, token.content)
        for token in parse(page)
        if token.type == "fence" and token.info.strip() in languages
    ]


# ---- Python


def run_python(page, line, code, names):
    if NOT_RUN.match(code):
        compile(code, str(page), "exec")
    elif ">>>" in code:
        test = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), line - 1)
        report = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(test, out=report.append, clear_globs=False)
        names.update(test.globs)
        assert not runner.failures, "".join(report)
    else:
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


@every_page
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    # Where there is no GPU, NumPy stands in for CuPy.
    with cupy_or_stand_in() if page.name == "cupy.md" else nullcontext():
        for line, code in fences(page, "python"):
            run_python(page, line, code, names)


@pytest.mark.parametrize("page", ["README.md", "docs/contract.md"])
@pytest.mark.parametrize("package", ["gc_core", "gc_torch", "gc_jax", "gc_cupy"])
def test_a_backend_is_chosen_by_its_import(page, package):
    ((_, code),) = (block for block in fences(ROOT / page, "python") if "import gc_core as gct" in block[1])
    with cupy_or_stand_in() if package == "gc_cupy" else nullcontext():
        exec(code.replace("import gc_core as gct", f"import {package} as gct"), {})


# ---- Commands


def commands(language, text):
    """The command lines of a block. In a console block with "$ " in front of some lines, the others are output."""
    lines = text.replace("\\\n", " ").splitlines()
    if language == "console" and any(line.startswith("$ ") for line in lines):
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def wrong(command):
    """What is wrong with a command line, or None."""
    if NOT_RUN.search(command):
        return None
    words = shlex.split(command, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    words[0] = words[0].removeprefix(".venv/bin/")
    if words[:2] == ["python", "-m"] and words[2] in ("pip", "pytest"):
        words = words[2:]
    match words:
        case ["make", *rest]:
            unknown = [word for word in rest if "=" not in word and word not in MAKE_TARGETS]
            return f"no make target {unknown}" if unknown else None
        case ["gc-conformance", *rest] | ["python", "-m", "gc_conformance", *rest]:
            # --help comes before the work but after the names of subcommands and options are read.
            done = CliRunner().invoke(cli.app, [*rest, "--help"])
            return done.output if done.exit_code else None
        case ["python", "-m", module, *_]:
            return None if find_spec(module) else f"no module {module}"
        case ["python", file, *_] if file.endswith(".py"):
            return None if (ROOT / file).is_file() else f"no file {file}"
        case ["pytest", *rest]:
            paths = [word.partition("::")[0] for word in rest if "/" in word and not word.startswith("-")]
            missing = [path for path in paths if not (ROOT / path).exists()]
            return f"no test {missing}" if missing else None
        case ["cd" | "source", _]:
            return None
        # From this folder: what is installed is held against it elsewhere, the extras below.
        case ["pip", "install", *rest] if all(map(HERE.fullmatch, rest)):
            return None
    return "nothing checks it; if no test can, end the line with '# not run: reason'"


@every_page
def test_commands_exist(page):
    for language in ("console", "bash"):
        for line, text in fences(page, language):
            for command in commands(language, text):
                assert not (why := wrong(command)), f"{page.name}:{line}: {command}: {why}"


@every_page
def test_other_blocks_are_of_a_known_kind(page):
    known = {"python", "console", "bash", "json", "toml", "yaml", "text", "math", "bibtex", "{toctree}", "{include}"}
    used = {token.info.partition(" ")[0] for token in parse(page) if token.type == "fence"}
    assert used <= known
    assert not [token for token in parse(page) if token.type == "code_block"], "an indented block says no language"
    for _, text in fences(page, "json"):
        json.loads(text)
    for _, text in fences(page, "toml"):
        tomllib.loads(text)


# ---- Names and links


@every_page
def test_extras_exist(page):
    named = re.findall(r"(?:gradient-centralization|['\"]\.)\[([\w,]+)\]", page.read_text())
    assert {extra for names in named for extra in names.split(",")} <= EXTRAS.keys()


def anchors(page):
    """The fragments that GitHub gives to a page's headings."""
    tokens = parse(page)
    found = set(re.findall(r'<a (?:id|name)="([^"]+)"', page.read_text()))
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            shown = "".join(child.content for child in inline.children)
            slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
            found.add(slug if slug not in found else f"{slug}-1")
    return found


def links(page):
    inside = [child for token in parse(page) for child in token.children or ()]
    found = [
        child.attrs.get("href") or child.attrs.get("src") for child in inside if child.type in ("link_open", "image")
    ]
    return [*found, *re.findall(r'<[^>]+(?:src|href)="([^"]+)"', page.read_text())]


@every_page
def test_links_lead_somewhere(page):
    for link in links(page):
        if re.match(r"(https?|mailto):", link):
            continue
        path, _, fragment = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), f"{link} leads out of the project"
        assert not fragment or fragment in anchors(target), link
