"""Test vectors for ports in any language: JSON files with inputs and outputs as exact bits, and the check against them.

What a file holds, element by element, is said in `vectors.schema.json`, which is written beside the vectors. Which
vectors there are is said in `vector_cases.py`.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from jsonschema.exceptions import best_match

from . import strategies
from .bits import array_of, bits
from .judge import require
from .port import NotProvided, Port
from .result import Ended, Status, Violation, clean
from .vector_cases import FLAGS, Data, Expected, Vector, vectors

FORMAT = 1
VERSION = 1  # of the list of vectors: grows with it
SCHEMA_NAME = "vectors.schema.json"


class VectorsError(Exception):
    """The folder does not hold vectors that can be checked against."""


@cache
def schema() -> dict:
    return json.loads(resources.files("gc_conformance").joinpath(SCHEMA_NAME).read_text(encoding="utf-8"))


def _doubles(values: np.ndarray) -> str:
    return bits(values, "complex128" if np.iscomplexobj(values) else "float64")


# ---- Writing


def _plain(thing: Any) -> Any:
    """A part of a vector in JSON's types."""
    match thing:
        case Data(dtype, values):
            return {"dtype": dtype, "shape": list(values.shape), "bits": bits(values, dtype)}
        case Expected(dtype, value, bound, spoiled):
            shape = list(value.shape)
            if bound is None:
                return {"dtype": dtype, "shape": shape, "bits": bits(value, dtype)}
            shown = value if spoiled is None else np.where(spoiled, np.nan, value)
            return {"dtype": dtype, "shape": shape, "value": _doubles(shown), "bound": _doubles(bound)}
        case dict():
            return {name: _plain(part) for name, part in thing.items()}
        case list() | tuple():
            return [_plain(part) for part in thing]
    return thing


def write(folder: str | Path) -> list[Path]:
    """Write all vectors, a file for each rule, and their schema. The same version writes the same bytes everywhere."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    by_rule: dict[str, list[Vector]] = {}
    for vector in vectors():
        by_rule.setdefault(vector.rule, []).append(vector)
    files = []
    for rule, some in by_rule.items():
        used = {flag for vector in some for flag in vector.flags}
        head = {
            "format": FORMAT,
            "source": {"name": "gradient-centralization", "version": VERSION},
            "rule": rule,
            "flags": {flag: meaning for flag, meaning in FLAGS.items() if flag in used},
        }
        # One vector a line: readable beside each other, and a change shows as what it is.
        lines = [
            json.dumps({"id": v.id, "flags": list(v.flags), **_plain(v.inputs), "result": _plain(v.result)})
            for v in some
        ]
        text = json.dumps(head, indent=1)[:-2] + ',\n "vectors": [\n' + ",\n".join(lines) + "\n ]\n}\n"
        files.append(folder / f"{rule}.json")
        files[-1].write_text(text, encoding="utf-8", newline="\n")
    files.append(folder / SCHEMA_NAME)
    files[-1].write_text(json.dumps(schema(), indent=2) + "\n", encoding="utf-8", newline="\n")
    return files


def pack(folder: str | Path) -> Path:
    """Write all vectors into one archive in a folder, `gc-vectors-N.tar.gz`, N being their version."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"gc-vectors-{VERSION}"
    with tempfile.TemporaryDirectory() as temporary, tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
        for file in write(Path(temporary) / name):
            archive.add(file, f"{name}/{file.name}")
    return folder / f"{name}.tar.gz"


# ---- Reading


def read(folder: str | Path) -> dict[str, list[dict]]:
    """All vectors in a folder, by rule, checked against the schema and against the list of this version.

    Raises:
        VectorsError: a file that is missing, not JSON or not as the schema says; ids that are missing or twice there.
    """
    folder = Path(folder)
    files = [file for rule in _RULES if (file := folder / f"{rule}.json").exists()]
    if not files:
        raise VectorsError(f"{folder} holds no vectors: gc-conformance vectors write {folder}")
    validator = jsonschema.Draft202012Validator(_without_references(schema()))
    found: dict[str, list[dict]] = {}
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise VectorsError(f"{file} cannot be read as JSON: {error}") from error
        if error := best_match(validator.iter_errors(content)):
            where = "/".join(map(str, error.absolute_path)) or "the file"
            raise VectorsError(f"{file} is not as {SCHEMA_NAME} says, at {where}: {error.message[:200]}")
        for vector in content["vectors"]:
            _sized(file, vector)
        found.setdefault(content["rule"], []).extend(content["vectors"])
    ids = [vector["id"] for some in found.values() for vector in some]
    if len(ids) != len(set(ids)):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise VectorsError(f"{folder} holds the id {twice} twice.")
    if missing := [vector.id for vector in vectors() if vector.id not in set(ids)]:
        raise VectorsError(
            f"{folder} lacks {len(missing)} of the vectors of this version, {missing[0]} among them: "
            f"gc-conformance vectors write {folder}"
        )
    return found


def _without_references(whole: dict) -> dict:
    """The schema with each definition in its place: jsonschema reads thousands of references in twice the time."""

    def put(part: Any) -> Any:
        if isinstance(part, list):
            return [put(inner) for inner in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return put(whole["$defs"][part["$ref"].rpartition("/")[2]])
        return {name: put(inner) for name, inner in part.items() if name != "$defs"}

    return put(whole)


def _sized(file: Path, part: Any) -> None:
    """Raise unless all bits below `part` are as many as their shape and dtype say, which a schema cannot."""
    if isinstance(part, dict):
        if "dtype" in part and "shape" in part:
            size = np.dtype("u2" if part["dtype"] == "bfloat16" else part["dtype"]).itemsize
            double = 16 if part["dtype"].startswith("complex") else 8
            for name, width in (("bits", size), ("value", double), ("bound", double)):
                if name in part and len(part[name]) != 2 * width * int(np.prod(part["shape"])):
                    raise VectorsError(f"{file}: {name} of an array of shape {part['shape']} has another size.")
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            _sized(file, inner)


# ---- Checking


@dataclass(frozen=True)
class Checked:
    """The verdict on one vector."""

    rule: str
    id: str
    flags: tuple[str, ...]
    status: Status
    message: str = ""


def check(
    found: dict[str, list[dict]],
    port: Port | Callable[[str, dict], Checked],
    progress: Callable[[int, int], None] | None = None,
) -> list[Checked]:
    """Hold a port, or what asks one about a vector, to vectors that `read` has found."""
    total, done = sum(map(len, found.values())), 0
    results = []
    for rule, some in found.items():
        for vector in some:
            results.append(check_one(rule, vector, port) if isinstance(port, Port) else port(rule, vector))
            done += 1
            if progress:
                progress(done, total)
    return results


def to_json(port: str, results: list[Checked], exit_code: int) -> str:
    """All results, with the version of the vectors."""
    plain = [{**asdict(one), "flags": list(one.flags)} for one in results]
    return json.dumps({"port": port, "vectors": VERSION, "exit_code": exit_code, "results": plain}, indent=1) + "\n"


def check_one(rule: str, vector: dict, port: Port) -> Checked:
    """Hold a port to one vector."""

    def verdict(status: Status, message: str = "") -> Checked:
        return Checked(rule, vector["id"], tuple(vector["flags"]), status, message)

    try:
        with np.errstate(all="ignore"):
            _RULES[rule](vector, port)
    except NotProvided as refusal:
        return verdict("not provided", str(refusal))
    except (Violation, Ended) as violation:
        return verdict("failed", clean(str(violation)))
    except AttributeError as error:  # a state or a result of another kind
        return verdict("failed", clean(f"what the port returns cannot be judged: {error}"))
    return verdict("passed")


def _array(port: Port, entry: dict) -> Any:
    if entry["dtype"] not in port.dtypes:
        raise NotProvided(f"{entry['dtype']} is not among its dtypes")
    return port.array(array_of(entry))


def _needs(port: Port, *names: str) -> None:
    if missing := [name for name in names if not port.provides(name)]:
        raise NotProvided(f"the port has no {' and no '.join(missing)}")


def _axis(vector: dict) -> tuple[int, ...] | None:
    return None if vector["axis"] is None else tuple(vector["axis"])


def compare(got: np.ndarray, want: dict, what: str) -> None:
    """Raise `Violation` unless an array is what an `expected` of the schema says.

    The subtraction is done in float64: `bound` has room for its rounding.
    """
    require(got.dtype.name == want["dtype"], f"{what} has dtype {got.dtype.name}, and must have {want['dtype']}")
    require(list(got.shape) == want["shape"], f"{what} has shape {list(got.shape)}, and must have {want['shape']}")
    if "bits" in want:
        # +0 and -0, and the NaNs, are each as good as the other.
        exact = array_of(want)
        equal = np.array_equal(*(a.astype(np.complex128) for a in (got, exact)), equal_nan=True)
        require(equal, f"{what} must come back as it was, and is changed")
        return
    flat = np.ascontiguousarray(got).astype(np.complex128 if np.iscomplexobj(got) else np.float64)
    numbers = flat.reshape(-1).view(np.float64)
    value, bound = (np.frombuffer(bytes.fromhex(want[name]), "<f8") for name in ("value", "bound"))
    spoiled, finite = np.isnan(value), np.isfinite(numbers)
    near = finite & (abs(np.where(finite, numbers, 0) - value) <= bound)
    right = np.where(spoiled, ~finite, near | np.isinf(bound))
    if not right.all():
        at = int(np.argmin(right))
        must = "not be finite" if spoiled[at] else f"be {float(value[at])!r} within {bound[at]:.1e}"
        raise Violation(f"number {at} of {what} is {float(numbers[at])!r}, and must {must}")


def _centralize(vector: dict, port: Port) -> None:
    _needs(port, "centralize")
    got = port.call("centralize", _array(port, vector["grad"]), _axis(vector))
    compare(port.numpy(got), vector["result"], "centralize(grad, axis)")


def _fan_in_axes(vector: dict, port: Port) -> None:
    _needs(port, "fan_in_axes")
    got = port.call("fan_in_axes", tuple(vector["shape"]), vector["layout"])
    want = vector["result"]
    require((got if got is None else list(got)) == want, f"it is {got!r}, and must be {want!r}")


def _centralize_layer(vector: dict, port: Port) -> None:
    _needs(port, "centralize_layer")
    words = {k: v for k, v in vector.items() if k not in ("id", "flags", "kind", "grad", "result")}
    got = port.call("centralize_layer", vector["kind"], _array(port, vector["grad"]), **words)
    compare(port.numpy(got), vector["result"], "centralize_layer(...)")


def _update(vector: dict, port: Port, rule: str, fields: tuple[str, ...]) -> None:
    _needs(port, f"{rule}_init", f"{rule}_update")
    defaults = strategies.DEFAULTS[rule]
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in vector["options"].items()}
    given: dict[str, Any] = {k: v for k, v in options.items() if k not in defaults or v != defaults[k]}
    w = _array(port, vector["w"])
    init: dict[str, Any] = {"amsgrad": True} if options.get("amsgrad") else {}
    state = port.call(f"{rule}_init", w, **init)
    for number, (entry, want) in enumerate(zip(vector["grads"], vector["result"], strict=True), 1):
        done = port.call(f"{rule}_update", w, _array(port, entry), state, axis=_axis(vector), **given)
        require(isinstance(done, tuple) and len(done) == 2, f"{rule}_update must return (w, state)")
        w, state = done
        for field in fields:
            require(hasattr(state, field), f"the state must have the field {field}")
            got = getattr(state, field)
            if want[field] is None:
                require(got is None, f"{field} must be None")
            else:
                compare(port.numpy(got), want[field], f"{field} after step {number}")
        compare(port.numpy(w), want["w"], f"w after step {number}")


_RULES: dict[str, Callable[[dict, Port], None]] = {
    "centralize": _centralize,
    "fan_in_axes": _fan_in_axes,
    "centralize_layer": _centralize_layer,
    "sgdm": lambda vector, port: _update(vector, port, "sgdm", ("momentum_buffer",)),
    "adam": lambda vector, port: _update(vector, port, "adam", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")),
}
