"""The command gc-conformance: verdicts, exit codes, reports, known failures."""

import ast
import contextlib
import json
import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import gc_conformance
from gc_conformance import cli, cli_options, mutants, page
from gc_conformance.honest import Straight
from gc_conformance.known import Reason
from gc_conformance.registry import LEVELS, PROPERTIES
from gc_conformance.runner import PROFILES
from gc_conformance.verdict import Verdict

SEVERAL = "operator.several_axes"
FEW = ("operator.definition", "operator.none_leaves_alone", SEVERAL)
QUICK = ("--profile", "quick", *(word for id in FEW for word in ("--property", id)))


def results(folder, name="out.json"):
    return json.loads((folder / name).read_text())


# ---- Verdicts


def test_a_right_function_in_a_file_conforms_and_what_is_not_provided_is_never_passed(gc_process, ports):
    done = gc_process("run", "right.py:centralize", "--profile", "quick", "--json", "out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    scope = "(operator, numerics and theory; layers, sgdm, adam, optimizer and switch not judged)"
    assert done.stdout.rstrip().splitlines()[-1].startswith(f"Conforms {scope}: right.py:centralize at level gc.")
    assert done.stderr == ""
    (port,) = results(ports)["ports"]
    for one in port["results"]:
        if one["chapter"] in ("sgdm", "adam", "optimizer"):
            assert one["status"] == "not provided" and one["message"]
    assert {one["status"] for one in port["results"] if one["chapter"] == "operator"} >= {"passed"}


def test_a_wrong_one_does_not_and_its_three_lines_show_it_without_the_suite(gc, ports, run):
    done = gc("run", "wrong.py", *QUICK, "--json", "out.json")
    assert done.returncode == 1
    assert done.stdout.rstrip().splitlines()[-1].startswith("Does not conform (")
    (port,) = results(ports)["ports"]
    assert not port["conforms"] and results(ports)["exit_code"] == 1
    failed = {one["id"]: one for one in port["results"] if one["status"] == "failed"}
    assert {"operator.definition", SEVERAL} <= set(failed)
    first = next(iter(failed.values()))
    assert first["counterexample"] in done.stdout and first["reproduce"] in done.stdout
    for one in (failed["operator.definition"], failed[SEVERAL]):
        lines = one["reproduce"].splitlines()
        assert len(lines) == 3 and "gc_conformance" not in one["reproduce"]
        shown = run(sys.executable, "-c", one["reproduce"], cwd=ports)
        assert shown.returncode == 0, shown.stderr
        claimed = float(re.search(r" is (-?[\d.e+-]+), and must", one["message"])[1])
        printed = [float(number) for number in re.findall(r"-?\d[\d.]*(?:e[+-]?\d+)?", shown.stdout)]
        assert np.isclose(printed, claimed, rtol=1e-6).any(), (one["message"], shown.stdout)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.py"], "no such file"),
        (["syntax.py"], "SyntaxError"),
        (["raises.py"], "no licence"),
        (["nothing.py"], "offers none of the functions"),
        (["right.py:center"], "center"),
        (["no_such_module"], "no_such_module"),
        (["right.py", "missing.py"], "missing.py"),
        (["right.py", "--level", "strict"], "strict"),
        (["right.py", "--profile", "slow"], "slow"),
        (["right.py", "--chapter", "layer"], "layer"),
        (["right.py", "--property", "operator.nope"], "operator.nope"),
        (["right.py", "--seed", "one"], "--seed"),
        (["right.py", "--wrong-option"], "--wrong-option"),
        (["right.py", "--known", "missing.toml"], "missing.toml"),
        (["right.py", "--html", "no/such/folder.html"], "no folder"),
        ([], "PORT"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_run_is_said_and_is_neither_right_nor_wrong(gc, words, said):
    done = gc("run", *words)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr
    assert "onform" not in done.stdout


def test_a_port_that_provides_nothing_of_what_is_asked_is_not_judged(gc):
    for words in (["refuses.py", *QUICK], ["right.py", "--profile", "quick", "--chapter", "sgdm"]):
        done = gc("run", *words)
        assert done.returncode == 2, done.stdout
        assert "Not judged" in done.stdout and "0 passed" in done.stdout


def test_of_several_ports_the_worst_decides(gc, ports):
    some = ("--profile", "quick", "--property", SEVERAL)
    done = gc("run", "right.py", "wrong.py", *some, "--json", "out.json")
    assert done.returncode == 1
    assert [port["conforms"] for port in results(ports)["ports"]] == [True, False]
    assert gc("run", "right.py", "right.py:centralize", *some).returncode == 0


def test_the_seed_decides_the_cases_and_the_report_echoes_what_was_asked(gc, ports):
    (ports / "writes.py").write_text(
        "def centralize(grad, axis):\n"
        "    with open('cases.txt', 'a') as file:\n"
        "        print(grad.tolist(), axis, file=file)\n"
        "    return grad.copy() if axis is None else grad - grad.mean(axis, keepdims=True)\n"
    )

    def cases(seed):
        done = gc("run", "writes.py", *QUICK, "--seed", seed)
        assert f"profile quick ({PROFILES['quick']} examples a property), seed {seed}" in done.stdout
        assert f"numpy {np.__version__}" in done.stdout
        text = (ports / "cases.txt").read_text()
        (ports / "cases.txt").unlink()
        return text

    three = cases(3)
    assert three == cases(3)
    assert three != cases(4)


def test_levels_and_properties_select_what_is_judged(gc, ports):
    gc("run", "right.py", "--property", SEVERAL, "--profile", "quick", "--json", "out.json")
    assert [one["id"] for one in results(ports)["ports"][0]["results"]] == [SEVERAL]
    gc("run", "right.py", "--level", "contract", "--profile", "quick", "--chapter", "errors", "--json", "out.json")
    assert {one["chapter"] for one in results(ports)["ports"][0]["results"]} == {"errors"}
    listed = gc("properties").stdout.split()
    assert set(PROPERTIES) <= set(listed)


def test_the_choices_of_the_options_are_those_of_the_suite():
    assert get_args(cli_options.Level) == LEVELS
    assert get_args(cli_options.Profile) == tuple(PROFILES)


# ---- Interrupted, or at fault


def test_ctrl_c_shows_what_is_finished(gc_process, ports):
    (ports / "slow.py").write_text(
        "import os, signal\nimport numpy as np\ncalls = 0\n\n\ndef centralize(grad, axis):\n"
        "    global calls\n    calls += 1\n    if calls == 60:\n        os.kill(os.getppid(), signal.SIGINT)\n"
        "    return grad.copy() if axis is None else grad - grad.mean(axis, keepdims=True)\n"
    )
    done = gc_process("run", "slow.py", "--chapter", "operator", "--profile", "quick", "--json", "out.json")
    assert done.returncode == 130
    assert "Interrupted" in done.stdout and "Traceback" not in done.stderr
    (port,) = results(ports)["ports"]
    assert port["interrupted"] and not port["conforms"]
    assert 0 < len(port["results"]) < sum(prop.chapter == "operator" for prop in PROPERTIES.values())


def test_a_fault_of_the_suite_is_not_a_verdict(monkeypatch, capsys, ports):
    def broken(*words, **options):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(cli, "judged", broken)
    monkeypatch.setattr(sys, "argv", ["gc-conformance", "run", str(ports / "right.py")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "fault of the suite" in capsys.readouterr().err


# ---- Known failures


def test_known_failures_are_reported_as_such_and_as_nothing_else(gc, ports):
    gc("run", "wrong.py", *QUICK, "--json", "out.json")
    failed = [one["id"] for one in results(ports)["ports"][0]["results"] if one["status"] == "failed"]
    entries = "\n".join(f'"{id}" = {{cause = "one mean for all", link = "https://example.org/7"}}' for id in failed)
    # A byte order mark, as Windows' editors write it; another port's table; and no link.
    (ports / "known.toml").write_text(f'\ufeff["wrong.py"]\n{entries}\n["right.py"]\n', encoding="utf-8")
    done = gc("run", "wrong.py", *QUICK, "--known", "known.toml", "--json", "out.json")
    assert done.returncode == 0, done.stdout
    assert "but for what is known" in done.stdout and "one mean for all (https://example.org/7)" in done.stdout
    (port,) = results(ports)["ports"]
    assert port["known_failures"] == failed
    assert {one["status"] for one in port["results"] if one["id"] in failed} == {"failed"}
    # One that is not listed still counts.
    (ports / "known.json").write_text(json.dumps({"wrong.py": {id: {"cause": "c", "link": "l"} for id in failed[1:]}}))
    assert gc("run", "wrong.py", *QUICK, "--known", "known.json").returncode == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('["right.py"]\n"operator.several_axes" = {cause = "c", link = "l"}', "Stale: operator.several_axes"),
        ('["right.py"]\n"operator.nope" = {cause = "c", link = "l"}', "stale"),
        ('["rihgt.py"]\n"operator.several_axes" = {cause = "c", link = "l"}', "not run now"),
        ('["wrong.py"]\n"operator.several_axes" = {cause = "c"}\n["gone.py"]', "knows the port gone.py"),
        ('["right.py"]\n"operator.several_axes" = {link = "l"}', "must have a cause and may have a link"),
        ('["right.py"]\n"operator.several_axes" = {cause = "", link = "l"}', "not empty"),
        ('"right.py" = 3', "one table for each port"),
        ("[[[", "cannot be read"),
    ],
)
def test_a_list_that_is_stale_or_wrong_is_an_error(gc, ports, text, said):
    (ports / "known.toml").write_text(text)
    done = gc("run", "right.py", *QUICK, "--known", "known.toml")
    assert done.returncode == 2
    assert said in done.stdout + done.stderr and "Traceback" not in done.stderr


# ---- Reports


def test_json_on_stdout_leaves_stdout_to_json(gc):
    done = gc("run", "right.py", *QUICK, "--json", "-")
    assert json.loads(done.stdout)["ports"][0]["port"] == "right.py"
    assert "Conforms" in done.stderr


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {(name, value) for name, value in attrs if name not in ("class", "content", "colspan")}


def test_the_page_is_self_contained_and_what_ports_say_in_it_is_inert():
    class Hostile:
        name = "<script>alert(1)</script> & <img src=x onerror=alert(1)>"

        def centralize(self, grad, axis):
            raise ValueError("</pre><script>alert(2)</script>")

    result = gc_conformance.run(Hostile(), profile="quick", chapters=["operator"])
    one, two = result.failed[:2]
    known = {
        one.id: Reason("<b>c</b>", "javascript:alert(3)"),
        two.id: Reason("c", 'https://example.org/?a="><script>'),
    }
    text = page.html([Verdict(result, known), Verdict(result, interrupted=True)])
    found = Tags(text)
    assert not found.tags & {"script", "img", "link", "iframe", "b"}
    assert {name for name, _ in found.attributes} <= {"lang", "charset", "name", "open", "href"}
    assert {value for name, value in found.attributes if name == "href"} == {'https://example.org/?a="><script>'}
    assert "&lt;script&gt;alert(2)" in text and "url(" not in text and "@import" not in text
    assert "known failure" in text


def test_html_file(gc, ports):
    assert gc("run", "wrong.py", *QUICK, "--html", "out.html").returncode == 1
    text = (ports / "out.html").read_text()
    assert "Does not conform (operator" in text and SEVERAL in text and "import numpy as np" in text


def test_the_progress_bar_is_for_terminals_only(ports):
    words = ["run", "right.py", "--profile", "quick", "--property", "numerics.large_mean"]
    pty = pytest.importorskip("pty", exc_type=ImportError)  # there is none on Windows
    ours, theirs = pty.openpty()
    shown = b""
    with subprocess.Popen(
        [sys.executable, "-m", "gc_conformance", *words], cwd=ports, stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # the other end is closed
            while chunk := os.read(ours, 1 << 16):
                shown += chunk
        out = process.communicate()[0]
    os.close(ours)
    assert "numerics." in shown.decode()
    assert process.returncode == 0 and "\x1b" not in out


# ---- Mutants


def test_a_mutant_that_survives_is_named_and_fails_the_command(monkeypatch, capsys):
    wrong = mutants.MUTANTS["WholeTensorMean"]
    survivor = mutants.Mutant("NotWrongAtAll", wrong.kills, "Nothing.", Straight)
    for some, code in (({"WholeTensorMean": wrong}, 0), ({"WholeTensorMean": wrong, "NotWrongAtAll": survivor}, 1)):
        monkeypatch.setattr(mutants, "MUTANTS", some)
        monkeypatch.setattr(sys, "argv", ["gc-conformance", "mutants"])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == code
        assert ("SURVIVED: NotWrongAtAll" in capsys.readouterr().out) == bool(code)


# ---- The extra, and without it


# What an adapter imports is there already with whoever has an optimizer for it.
ADAPTERS = {
    "ports/torch.py": {"torch"},
    "ports/torch_model.py": {"torch"},
    "ports/optax.py": {"optax", "jax"},
    "ports/keras.py": {"keras"},
    "ports/jax.py": {"jax"},
}


def test_the_extra_brings_all_that_the_suite_imports():
    suite, all_imported = Path(gc_conformance.__file__).parent, set()
    for file in suite.rglob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
        all_imported |= imported - ADAPTERS.get(file.relative_to(suite).as_posix(), set())
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    needs = [*project["dependencies"], *project["optional-dependencies"]["conformance"]]
    named = {re.match(r"\w+", need)[0] for need in needs}
    assert all_imported - sys.stdlib_module_names - {"gc_conformance", "gc_core"} == named
    assert set(gc_conformance.INSTALL.split()[2:]) == named - {"numpy"}


def test_without_the_extra_one_line_says_what_to_install(tmp_path, run):
    for missing in ("hypothesis", "typer"):  # the first that is looked for, and the last
        code = f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = ['properties']; "
        done = run(sys.executable, "-c", code + "from gc_conformance.cli import main; main()", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert f"needs {missing}: {gc_conformance.INSTALL}\n" in done.stderr
    code = "import sys; sys.modules['hypothesis'] = None; import gc_conformance as g; print(g.__doc__[:7]); g.run"
    done = run(sys.executable, "-c", code, cwd=tmp_path)
    assert done.stdout == "A suite\n"
    assert done.stderr.splitlines()[-1].startswith("ImportError: gc_conformance needs hypothesis: pip install")
