"""A tool that strangers run: no port reaches another or the verdict on itself, and every way of ending is a verdict."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import gc_conformance
from gc_conformance import PortError, load_port

DEFINITION = ("operator.definition",)
RIGHT = "grad.copy() if axis is None else grad - grad.mean(axis, keepdims=True)"


def written(folder, text, name="port.py"):
    (folder / name).write_text(text)
    return str(folder / name)


def judged(target, *ids, **options):
    return gc_conformance.run(target, profile="quick", only=ids or DEFINITION, **options)


# ---- Ports apart


@pytest.fixture
def two(ports):
    """Two ports in folders of their own, each with a module of one name. The second is wrong."""
    for folder, mean in (("a", "g.mean(axis, keepdims=True)"), ("b", "g.mean()")):
        (ports / folder).mkdir()
        written(ports / folder, f"def mean(g, axis):\n    return {mean}\n", "helper.py")
        written(
            ports / folder,
            "import sys\n\n\ndef centralize(grad, axis):\n    from helper import mean\n    sys.path.clear()\n"
            "    return grad.copy() if axis is None else grad - mean(grad, axis)\n",
        )
    return ports


def test_each_port_has_its_own_modules_and_path(gc, two, run):
    done = gc("run", "a/port.py", "b/port.py", "--profile", "quick", "--property", *DEFINITION)
    assert done.returncode == 1
    assert "Conforms (operator): a/port.py" in done.stdout and "Does not conform (operator): b/port.py" in done.stdout
    reproduction = next(i for i, line in enumerate(done.stdout.splitlines()) if line.startswith("import numpy"))
    lines = "\n".join(done.stdout.splitlines()[reproduction : reproduction + 3])
    assert run(sys.executable, "-c", lines, cwd=two).returncode == 0


def test_with_pytest_too(suite, two):
    ports = ("--gc-port", "a/port.py", "--gc-port", "b/port.py")
    done = suite("--pyargs", "gc_conformance", *ports, "--gc-profile", "quick", "-k", *DEFINITION, "-v")
    assert "1 failed, 1 passed" in done.stdout and f"{DEFINITION[0]}[b/port.py] - " in done.stdout


@pytest.mark.parametrize(
    "deed",
    [
        "np.seterr(divide='raise', invalid='raise')",
        "decimal.getcontext().prec = 2",
        "sys.setrecursionlimit(80)",
        "warnings.simplefilter('error')",
        "sys.stdout = sys.stderr = None",
        "sys.path = None",
        "np.random.seed(1); random.seed(1)",
        "os.chdir('/')",
    ],
)
@pytest.mark.parametrize("named", [True, False], ids=["named", "object"])
def test_what_a_port_does_to_the_process_is_its_own_affair(tmp_path, monkeypatch, deed, named):
    monkeypatch.chdir(tmp_path)
    text = "import decimal, os, random, sys, warnings\nimport numpy as np\n\n\ndef centralize(grad, axis):\n"
    path = written(tmp_path, f"{text}    {deed}\n    return {RIGHT}\n")
    ids = (*DEFINITION, "operator.mean_is_zero", "operator.symmetric", "numerics.subnormal")
    names = {}
    if not named:
        exec((tmp_path / "port.py").read_text(), names)
    before = sys.path, sys.stdout, sys.getrecursionlimit()
    result = judged(path if named else names["centralize"], *ids)
    assert [(one.id, one.message) for one in result.failed] == [] and len(result.passed) == 4
    if not (deed.startswith("sys.path") and not named):
        assert (sys.path, sys.stdout, sys.getrecursionlimit()) == before
    else:
        sys.path = before[0]


# ---- Every way of ending


def test_a_port_that_ends_the_process_is_wrong_and_the_next_property_is_judged(tmp_path):
    text = "import os, sys\n\n\ndef centralize(grad, axis):\n    if axis is None:\n"
    path = written(
        tmp_path, text + f"        print('goodbye', file=sys.stderr)\n        os._exit(0)\n    return {RIGHT}\n"
    )
    result = judged(path, *DEFINITION, "operator.none_leaves_alone", "operator.negative_axes")
    assert [one.id for one in result.failed] == ["operator.none_leaves_alone"]
    (failed,) = result.failed
    assert failed.how == "dies" and "exit code 0" in failed.message and "goodbye" in failed.details
    assert failed.counterexample.startswith("centralize(grad, None)") and "axis = None" in failed.reproduce


HANGS = f"""
import time

def centralize(grad, axis):
    if axis is None:
        time.sleep(600)
    return {RIGHT}
"""


def test_a_hang_is_a_verdict_of_its_own_and_is_tried_once(tmp_path):
    started = time.monotonic()
    result = judged(written(tmp_path, HANGS), *DEFINITION, "operator.none_leaves_alone", time_limit=1)
    assert time.monotonic() - started < 60
    (failed,) = result.failed
    assert failed.how == "hangs" and "1 s" in failed.message
    assert "time.sleep(600)" in failed.details and "gc_conformance" not in failed.details
    assert failed.counterexample.startswith("centralize(grad, None)")


def test_a_hang_of_an_object_ends_too(tmp_path):
    names: dict = {}
    exec(HANGS, names)
    result = judged(names["centralize"], "operator.none_leaves_alone", time_limit=0.5)
    assert [one.how for one in result.failed] == ["hangs"]
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_after_three_hangs_the_others_are_not_waited_for(tmp_path):
    path = written(tmp_path, "import time\n\n\ndef centralize(grad, axis):\n    time.sleep(600)\n")
    result = gc_conformance.run(path, profile="quick", chapters=["operator"], time_limit=0.2)
    assert {one.how for one in result.failed} == {"hangs"} and len(result.causes) == 1
    assert sum("not tried" in one.message for one in result.failed) >= len(result.failed) - 4


def test_a_time_limit_of_pytest_is_not_swallowed(tmp_path):
    class OfPytest(BaseException):
        pass

    OfPytest.__module__ = "_pytest.outcomes"

    def centralize(grad, axis):
        raise OfPytest("Timeout")

    with pytest.raises(OfPytest):
        judged(centralize)


def test_ctrl_c_in_the_first_property_is_130_and_names_it(ports):
    written(ports, "import time\n\n\ndef centralize(grad, axis):\n    open('there', 'w').close()\n    time.sleep(60)\n")
    command = [sys.executable, "-m", "gc_conformance", "run", "port.py", "--chapter", "operator"]

    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, cwd=ports, **pipes) as process:
        while not (ports / "there").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Interrupted in operator.definition" in out and "Traceback" not in err


EXITS = f"""
import sys
calls = 0

def centralize(grad, axis):
    return {RIGHT}

def from_numpy(array):
    return array

def to_numpy(array):
    global calls
    calls += 1
    if calls > 3:
        sys.exit(0)
    return array
"""


def test_an_exit_in_to_numpy_is_a_verdict_in_both_commands(gc, ports, tmp_path_factory):
    from gc_conformance import vectors

    written(ports, EXITS)
    folder = tmp_path_factory.mktemp("vectors")
    vectors.write(folder)
    done = gc("vectors", "check", folder, "port.py")
    assert done.returncode == 1 and "Does not conform" in done.stdout and "SystemExit" in done.stdout
    assert gc("run", "port.py", "--profile", "quick", "--property", *DEFINITION).returncode == 1


# ---- Adapters


@pytest.mark.parametrize("command", ["run", "vectors"])
def test_arrays_that_do_not_come_through_are_a_fault_of_the_adapter(gc, ports, tmp_path, command):
    written(ports, EXITS.replace("return array\n\ndef to_numpy", "raise ValueError('no such device')\n\ndef to_numpy"))
    if command == "vectors":
        from gc_conformance import vectors

        vectors.write(tmp_path / "v")
    words = ("run", "port.py") if command == "run" else ("vectors", "check", tmp_path / "v", "port.py")
    done = gc(*words)
    assert done.returncode == 2
    assert "fault of the adapter" in done.stderr and "no such device" in done.stderr and "Traceback" in done.stderr
    assert "onform" not in done.stdout


def test_the_adapters_own_code_failing_is_exit_2_with_its_traceback_and_one_cause(gc, ports):
    written(ports, EXITS.replace("calls > 3", "False").replace("return grad", "return grad.centred() + grad"))
    done = gc("run", "port.py", "--profile", "quick", "--chapter", "operator")
    assert done.returncode == 2
    assert "Cannot be judged: the adapter of port.py" in done.stdout and "for 1 cause" in done.stdout
    assert "Traceback" in done.stdout and "port.py" in done.stdout


def test_a_dtype_that_is_not_claimed_may_be_refused():
    class Double:
        dtypes = ("float64",)

        def from_numpy(self, array):
            if array.dtype != np.float64:
                raise RuntimeError("doubles only")
            return array

        to_numpy = staticmethod(np.asarray)

        def centralize(self, grad, axis):
            return grad.copy() if axis is None else grad - grad.mean(axis, keepdims=True)

    result = gc_conformance.run(Double(), profile="quick", chapters=["operator", "numerics"])
    assert result.conforms, result.failed


def test_a_class_is_not_a_port(gc, ports):
    written(ports, f"class Port:\n    def centralize(self, grad, axis):\n        return {RIGHT}\n")
    done = gc("run", "port.py:Port", "--property", *DEFINITION)
    assert done.returncode == 2 and "port.py:Port is a class; name an instance or --call." in done.stderr
    assert gc("run", "port.py:Port", "--call", "--profile", "quick", "--property", *DEFINITION).returncode == 0

    class Static:
        @staticmethod
        def centralize(grad, axis):
            return grad

    assert load_port(Static).provides("centralize")
    with pytest.raises(PortError, match="is a class"):
        load_port(type("Port", (), {"centralize": lambda self, grad, axis: grad}))


# ---- Inputs, in every call

OVERWRITES = {
    "strided": "not grad.flags.c_contiguous",
    "large": "grad.size > 100",
    "without axes": "axis is None",
}


@pytest.mark.parametrize("when", OVERWRITES)
def test_inputs_are_compared_after_every_call(when):
    def centralize(grad, axis):
        done = grad.copy() if axis is None else grad - grad.mean(axis, keepdims=True)
        if eval(OVERWRITES[when]) and grad.flags.writeable:
            grad[...] = 7
        return done

    result = gc_conformance.run(centralize, profile="quick", chapters=["operator", "numerics"])
    assert "operator.input_unchanged" in {one.id for one in result.failed}
    assert all(one.id != "operator.definition" for one in result.failed)

    # Where the property about it is not judged, or has found nothing, the one beside which it was seen fails.
    (seen,) = judged(
        centralize,
        {"strided": "operator.strided", "large": "numerics.large_fan_in"}.get(when, "operator.none_leaves_alone"),
    ).failed
    assert seen.how == "inputs" and seen.message.startswith("centralize changes what it is given")


# ---- Output never decides


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_no_encoding_of_a_pipe_decides(ports, encoding):
    written(ports, "def centralize(grad, axis):\n    raise ValueError('\\ud800 \\x1b[31m ✗')\n")
    env = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "gc_conformance", "run", "port.py", "right.py", "--profile", "quick"]
    files = ["--html", "o.html", "--json", "o.json", "--junit", "o.xml", "--markdown", "o.md"]
    done = subprocess.run([*command, "--property", *DEFINITION, *files], cwd=ports, env=env, capture_output=True)
    out = done.stdout.decode(encoding)
    assert done.returncode == 1, done.stderr
    assert "Does not conform (operator): port.py" in out and "Conforms (operator): right.py" in out
    assert "\x1b" not in out and "\\ud800" in out
    assert all((ports / name).stat().st_size > 500 for name in files[1::2])


def test_a_reader_that_goes_away_does_not_decide(ports):
    command = f"{sys.executable} -m gc_conformance run right.py --profile quick --property operator.definition"
    done = subprocess.run(["bash", "-c", f"{command} | true; exit ${{PIPESTATUS[0]}}"], cwd=ports, capture_output=True)
    assert done.returncode == 0, done.stderr
