"""Ports as programs: the protocol's lines, the examples in other languages, and programs that do not answer."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

import gc_conformance
from gc_conformance import PortError, protocol
from gc_conformance.protocol import Program

PROGRAMS = Path(__file__).parents[2] / "examples/programs"


def found(tool):
    return pytest.mark.skipif(not shutil.which(tool), reason=f"{tool} was not found")


def judged(command, *ids, **options):
    options = options or {"chapters": ["operator", "numerics"]}
    return gc_conformance.run(f"command: {command}", profile="quick", only=ids, **options)


@pytest.fixture
def in_c(tmp_path):
    program = tmp_path / "port"
    subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", program, PROGRAMS / "port.c"], check=True)
    return program


@found("node")
def test_in_javascript():
    chapters = ["operator", "sgdm", "adam"]
    result = gc_conformance.run(f"command: node {PROGRAMS / 'port.mjs'}", profile="quick", chapters=chapters)
    assert [(one.id, one.message) for one in result.failed] == []
    assert result.port == "Gradient Centralization in JavaScript" and result.judged == tuple(chapters)
    # Nothing is passed that is about memory, which a program does not share.
    absent = {one.id for one in result.not_provided}
    assert absent >= {"operator.input_unchanged", "sgdm.no_aliasing", "adam.memory_layouts", "operator.strided"}


@found("cc")
def test_in_c(in_c):
    result = judged(in_c)
    assert result.conforms, result.failed
    assert result.judged == ("operator", "numerics")


@found("perl")
def test_in_perl():
    if subprocess.run(["perl", "-MJSON::PP", "-e", "1"], capture_output=True).returncode:
        pytest.skip("JSON::PP was not found")
    result = judged(f"perl {PROGRAMS / 'port.pl'}")
    assert result.conforms, result.failed


WRONG = """
import json, sys, time

how = sys.argv[1]
for line in sys.stdin:
    question = json.loads(line)
    answer = {"seq": question["seq"]}
    if question["do"] == "start":
        answer["result"] = {"version": 1, "name": how, "provides": ["centralize", "optimizer"]}
    elif how == "refuses":
        answer["not_provided"] = "not yet"
    elif how == "raises":
        answer["error"] = {"kind": "ValueError", "message": "no such axis"}
    elif how == "identity" or len(question["grad"]["shape"]) < 3:
        answer["result"] = question["grad"]
    elif how == "rubbish":
        print("hello", flush=True)
        continue
    elif how == "dies":
        print("out of cheese", file=sys.stderr)
        sys.exit(7)
    elif how == "hangs":
        time.sleep(600)
    elif how == "too much":
        while True:
            sys.stdout.write("x" * (1 << 20))
    elif how == "another number":
        answer = {"seq": 0, "result": question["grad"]}
    elif how == "another form":
        answer["results"] = question["grad"]
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def wrong(tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG)
    return lambda how: f"{sys.executable} {tmp_path / 'wrong.py'} {how!r}"


ENDS = {
    "rubbish": ("dies", "no JSON in centralize: hello"),
    "dies": ("dies", "ended with exit code 7 in centralize"),
    "hangs": ("hangs", "has not ended after 1 s"),
    "too much": ("dies", "prints too much"),
    "another number": ("dies", "answers 0, and was asked"),
    "another form": ("dies", "is not as protocol.schema.json says"),
}


@pytest.mark.parametrize("what", ENDS)
def test_a_program_that_does_not_answer_is_reported_and_started_again(wrong, what):
    ids = ("operator.none_leaves_alone", "operator.scalars_and_vectors")
    result = judged(wrong(what), *ids, time_limit=1 if what == "hangs" else 60)
    (failed,) = result.failed
    assert failed.id == ids[0] and [one.id for one in result.passed] == [ids[1]]
    assert failed.how == ENDS[what][0] and ENDS[what][1] in failed.message
    assert failed.counterexample.startswith("centralize(grad, None)")
    assert (what != "dies") or "out of cheese" in failed.details


def test_what_a_program_refuses_or_raises(wrong):
    refused = judged(wrong("refuses"), "operator.definition")
    assert [one.message for one in refused.not_provided] == ["not yet"]
    raised = judged(wrong("raises"), "operator.definition")
    assert raised.failed[0].message == "centralize raised ValueError: no such axis"


def test_a_failure_is_shrunk_and_asked_again_without_the_suite(wrong):
    (failed,) = judged(wrong("identity"), "operator.definition").failed
    assert failed.counterexample.endswith("np.array([[-1.0, 2.0, 5.0], [1.0, 4.0, 0.0]], 'float32')")
    assert "gc_conformance" not in failed.reproduce
    lines = subprocess.run(["bash", "-c", failed.reproduce], capture_output=True, text=True).stdout.splitlines()
    assert json.loads(lines[-1])["result"]["shape"] == [2, 3]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-program here", "cannot be started"),
        ("", "must name a program"),
        (f"{sys.executable} -c pass", "has ended with exit code 0 in start"),
        (f"{sys.executable} -c \"print('hello')\"", "no JSON in start"),
        (
            f'{sys.executable} -c "input(); print(\'{{\\"seq\\": 1, \\"result\\": 3}}\')"',
            "does not say what it provides",
        ),
    ],
)
def test_what_cannot_be_started_is_one_sentence_and_exit_2(gc, command, said):
    done = gc("run", "--command", command, "--profile", "quick")
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_pytest_and_the_vectors_take_a_command_too(gc, suite, wrong, tmp_path):
    ask = ("--pyargs", "gc_conformance", "--gc-command", wrong("identity"), "--gc-profile", "quick")
    done = suite(*ask, "-k", "operator.definition or operator.keeps_shape")
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout


def test_every_line_is_as_the_schema_says(monkeypatch, wrong):
    jsonschema.Draft202012Validator.check_schema(protocol.schema())
    questions = jsonschema.Draft202012Validator({**protocol.schema(), "$ref": "#/$defs/question"})
    asked = []
    ask = Program._answer
    monkeypatch.setattr(Program, "_answer", lambda self, q: (asked.append(q), ask(self, q))[1])
    if not shutil.which("node"):
        pytest.skip("node was not found")
    port = gc_conformance.load_port(f"command: node {PROGRAMS / 'port.mjs'}")
    ids = ["operator.int_axis", "operator.none_leaves_alone", "sgdm.all_options", "adam.all_options"]
    result = gc_conformance.run(port, profile="quick", only=[*ids, "layers.fan_in_axes_none"])
    assert result.conforms and {q["do"] for q in asked} >= {"start", "centralize", "sgdm_update", "adam_init"}
    for question in asked:
        questions.validate({"seq": 1, **protocol._plain(question)})


def test_a_program_of_another_version_is_refused(tmp_path):
    (tmp_path / "new.py").write_text(WRONG.replace('"version": 1', '"version": 2'))
    with pytest.raises(PortError, match="version 2 of the protocol, and not 1"):
        Program(f"{sys.executable} {tmp_path / 'new.py'} x")
