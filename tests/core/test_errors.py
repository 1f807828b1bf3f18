"""Every bad call of the contract: the right error, naming the argument, what it was and what it must be; no change.

Each table row is: what is passed, the error, and words that its message must have beside "must" or "needs".
"""

import copy
import re
from decimal import Decimal

import numpy as np
import pytest

import gc_core as gc

from .cases import frozen, random

NAN, INF = float("nan"), float("inf")

# ---- What each argument may not be

NOT_ARRAYS = [
    ([1.0, 2.0], "list"),
    (1.0, "float"),
    (None, "NoneType"),
    ("text", "str"),
    (np.float64(1.0), "numpy.float64"),
    (memoryview(b"12345678"), "memoryview"),
    (np.ma.masked_array(np.ones((2, 3))), "MaskedArray"),
    (np.ones((2, 3), np.int64), "int64"),
    (np.ones((2, 3), np.uint8), "uint8"),
    (np.ones((2, 3), bool), "bool"),
    (np.ones((2, 3), object), "object"),
    (np.full((2, 3), "a"), "str"),
    (np.zeros((2, 3), "M8[s]"), "datetime64"),
    (np.zeros((2, 3), [("x", float)]), "void"),
]
NOT_NUMBERS = [
    "0.1",
    None,
    True,
    np.True_,
    1j,
    [0.1],
    (0.1,),
    np.array([0.1]),
    np.array(True),
    Decimal("0.1"),
    object(),
]
NOT_FINITE = [NAN, INF, -INF, np.float32(NAN), np.array(INF), 10**400]
NOT_FLAGS = [0, 1, None, "yes", 1.0, np.array(True)]

AXES = [  # for a shape of (2, 3)
    (2, ValueError, ["2", "(2, 3)", "from -2 to 1"]),
    (-3, ValueError, ["-3", "(2, 3)", "from -2 to 1"]),
    ((0, 2), ValueError, ["2", "from -2 to 1"]),
    ((1, 1), ValueError, ["(1, 1)", "once"]),
    ((1, -1), ValueError, ["(1, -1)", "once"]),
    ((), ValueError, ["()", "at least one axis"]),
    (1.0, TypeError, ["1.0", "an int, a tuple of ints or None"]),
    ("1", TypeError, ["'1'"]),
    (True, TypeError, ["True"]),
    (np.True_, TypeError, ["True"]),
    ((0, True), TypeError, ["True"]),
    ((0, None), TypeError, ["None"]),
    ((0, 1.0), TypeError, ["1.0"]),
    ([1], TypeError, ["[1]"]),
    ({1}, TypeError, ["{1}"]),
    (np.array([1]), TypeError, ["array([1])"]),
    ((0, (1,)), TypeError, ["(1,)"]),
]


def numbers(name, wanted, *values):
    """Rows for an option that is a number: what is no number, what is not finite, and the values given."""
    return [
        *[({name: value}, TypeError, [name, wanted, repr(value)]) for value in NOT_NUMBERS],
        *[({name: value}, ValueError, [name, wanted, repr(value)]) for value in (*NOT_FINITE, *values)],
    ]


def flags(name):
    return [({name: value}, TypeError, [name, "True or False", repr(value)]) for value in NOT_FLAGS]


PLACES = [
    *[({"gc_on": value}, TypeError, ["gc_on", "'gradient', 'update'", repr(value)]) for value in (None, True, 1)],
    *[
        ({"gc_on": value}, ValueError, ["gc_on", "'gradient', 'update'", repr(value)])
        for value in ("", "grad", "Update")
    ],
]
SGDM_OPTIONS = [
    *numbers("lr", "a finite number >= 0", -0.1),
    *numbers("momentum", "a finite number >= 0", -0.1),
    *numbers("dampening", "a finite number"),
    *numbers("weight_decay", "a finite number >= 0", -1e-9),
    *flags("nesterov"),
    *PLACES,
    ({"nesterov": True, "momentum": 0.0}, ValueError, ["nesterov", "momentum > 0", "momentum=0.0"]),
    ({"nesterov": True, "momentum": 0.9, "dampening": 0.5}, ValueError, ["nesterov", "dampening 0", "dampening=0.5"]),
]
BETAS = [
    *[({"betas": value}, TypeError, ["betas", "two numbers in [0, 1)", repr(value)]) for value in (0.9, None, "ab")],
    *[
        ({"betas": value}, ValueError, ["betas", "two numbers in [0, 1)", repr(value)])
        for value in ((0.9,), (0.9, 0.9, 0.9), ())
    ],
]
for place in (0, 1):
    for value, error in [
        *[(value, TypeError) for value in NOT_NUMBERS],
        *[(value, ValueError) for value in (*NOT_FINITE, 1.0, -0.1, 1, 2)],
    ]:
        pair = (value, 0.5) if place == 0 else (0.5, value)
        BETAS.append(({"betas": pair}, error, [f"betas[{place}]", "a number in [0, 1)", repr(value)]))
ADAM_OPTIONS = [
    *numbers("lr", "a finite number >= 0", -0.1),
    *BETAS,
    *numbers("eps", "a finite number >= 0", -1e-8),
    *numbers("weight_decay", "a finite number >= 0", -1e-9),
    *flags("amsgrad"),
    *PLACES,
]


def named(row):
    return re.sub(r" at 0x\w+", "", f"{row[0]}")[:60]


def refused(error, words, call, *args, **options):
    """The call raises exactly this error, with these words."""
    with pytest.raises(error) as caught:
        call(*args, **options)
    assert caught.type is error
    message = str(caught.value)
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    assert re.search(r"\b(must|needs)\b", message), message


# ---- The functions

ROWS_OF_ARRAYS = [(value, TypeError, [word]) for value, word in NOT_ARRAYS]
ROWS_OF_GRADIENTS = [row for row in ROWS_OF_ARRAYS if row[0] is not None]  # None: leave the parameter as it is


@pytest.mark.parametrize("row", ROWS_OF_ARRAYS, ids=named)
def test_what_is_no_array_of_floating_point(row):
    value, error, words = row
    w, state = random((2, 3)), gc.sgdm_init(random((2, 3)))
    adam_state = gc.adam_init(w)
    before = frozen(w, *state, *adam_state[1:3])
    refused(error, ["grad", *words], gc.centralize, value, 1)
    refused(error, ["w must", *words], gc.sgdm_init, value)
    refused(error, ["w must", *words], gc.adam_init, value)
    for update, good in ((gc.sgdm_update, state), (gc.adam_update, adam_state)):
        refused(error, ["w must", *words], update, value, w, good, lr=0.1, axis=1)
        refused(error, ["grad must", *words], update, w, value, good, lr=0.1, axis=1)
        for field in good._fields:
            if field != "step" and not (field == "max_exp_avg_sq" and value is None):
                bad = good._replace(**{field: value})
                refused(error, [f"state.{field} must", *words], update, w, w, bad, lr=0.1, axis=1)
    assert frozen(w, *state, *adam_state[1:3]) == before


@pytest.mark.parametrize("row", AXES, ids=named)
def test_axis(row):
    value, error, words = row
    w = random((2, 3))
    before = frozen(w)
    refused(error, ["axis", *words], gc.centralize, w, value)
    refused(error, ["axis", *words], gc.sgdm_update, w, w, gc.sgdm_init(w), lr=0.1, axis=value)
    refused(error, ["axis", *words], gc.adam_update, w, w, gc.adam_init(w), axis=value)
    assert frozen(w) == before


def test_a_0d_array_has_no_axis():
    refused(ValueError, ["axis 0", "None", "()"], gc.centralize, np.array(1.0), 0)


def test_axis_has_no_default_and_unknown_keywords_are_refused():
    w = random((2, 3))
    for call, args, options in [
        (gc.centralize, (w,), {}),
        (gc.sgdm_update, (w, w, gc.sgdm_init(w)), {"lr": 0.1}),
        (gc.adam_update, (w, w, gc.adam_init(w)), {}),
    ]:
        with pytest.raises(TypeError, match="axis"):
            call(*args, **options)
        with pytest.raises(TypeError, match="axes"):
            call(*args, **options, axis=1, axes=1)
    with pytest.raises(TypeError, match="lr"):
        gc.sgdm_update(w, w, gc.sgdm_init(w), axis=1)  # pyright: ignore
    for kind in (gc.SGD, gc.Adam, gc.AdamW):
        with pytest.raises(TypeError, match="maximize"):
            kind({"w": w}, {"w": 1}, lr=0.1, maximize=True)
        with pytest.raises(TypeError, match="axes"):
            kind({"w": w}, lr=0.1)


@pytest.mark.parametrize("row", [*SGDM_OPTIONS, *flags("decoupled")], ids=named)
def test_options_of_sgdm_update(row):
    options, error, words = row
    w, grad, state = random((2, 3)), random((2, 3), seed=1), gc.SGDMState(random((2, 3), seed=2))
    before = frozen(w, grad, *state)
    refused(error, words, gc.sgdm_update, w, grad, state, **{"lr": 0.1, "axis": 1, **options})
    assert frozen(w, grad, *state) == before


@pytest.mark.parametrize("row", [*ADAM_OPTIONS, *flags("decoupled")], ids=named)
def test_options_of_adam_update(row):
    options, error, words = row
    w, grad = random((2, 3)), random((2, 3), seed=1)
    state = gc.AdamState(3, random((2, 3), seed=2), abs(random((2, 3), seed=3)), abs(random((2, 3), seed=4)))
    before = frozen(w, grad, *state[1:])
    refused(error, words, gc.adam_update, w, grad, state, **{"axis": 1, **options})
    assert frozen(w, grad, *state[1:]) == before


OTHERS = [
    (random((3, 2)), ["shape (3, 2)", "(2, 3)"]),
    (random((6,)), ["shape (6,)", "(2, 3)"]),
    (random((1, 3)), ["shape (1, 3)", "(2, 3)"]),  # would broadcast
    (np.array(1.0), ["shape ()", "(2, 3)"]),
    (random((2, 3), np.float32), ["dtype float32", "float64"]),
    (random((2, 3), np.float16), ["dtype float16", "float64"]),
    (random((2, 3), np.longdouble), ["float64"]),
]


@pytest.mark.parametrize(("other", "words"), OTHERS, ids=lambda x: None)
def test_shapes_and_dtypes_that_differ(other, words):
    w = random((2, 3))
    largest = gc.adam_init(w, amsgrad=True)
    for update, state in ((gc.sgdm_update, gc.sgdm_init(w)), (gc.adam_update, largest)):
        refused(ValueError, ["grad", *words], update, w, other, state, lr=0.1, axis=1)
        for field in state._fields:
            if field != "step":
                bad = state._replace(**{field: other})
                refused(ValueError, [f"state.{field}", *words], update, w, w, bad, lr=0.1, axis=1)


def test_complex_gradient_of_a_real_weight():
    w = random((2, 3))
    refused(ValueError, ["grad", "complex128", "float64"], gc.sgdm_update, w, w + 0j, gc.sgdm_init(w), lr=0.1, axis=1)
    refused(TypeError, ["grad is complex"], gc.adam_update, w, w + 0j, gc.adam_init(w), axis=1)


STATES = [None, {}, (0,), "state", np.zeros((2, 3))]


@pytest.mark.parametrize("state", STATES, ids=lambda state: type(state).__name__)
def test_a_state_of_another_kind(state):
    w = random((2, 3))
    refused(TypeError, ["state", "SGDMState", type(state).__name__], gc.sgdm_update, w, w, state, lr=0.1, axis=1)
    refused(TypeError, ["state", "AdamState", type(state).__name__], gc.adam_update, w, w, state, axis=1)


def test_the_state_of_the_other_rule():
    w = random((2, 3))
    refused(TypeError, ["SGDMState", "AdamState"], gc.sgdm_update, w, w, gc.adam_init(w), lr=0.1, axis=1)
    refused(TypeError, ["AdamState", "SGDMState"], gc.adam_update, w, w, gc.sgdm_init(w), axis=1)


@pytest.mark.parametrize(
    ("step", "error"), [(-1, ValueError), (1.0, TypeError), (None, TypeError), ("1", TypeError), (True, TypeError)]
)
def test_step(step, error):
    w = random((2, 3))
    state = gc.adam_init(w)._replace(step=step)
    refused(error, ["state.step", "an int >= 0", repr(step)], gc.adam_update, w, w, state, axis=1)


def test_amsgrad_without_its_state():
    w = random((2, 3))
    words = ["amsgrad", "max_exp_avg_sq", "None", "adam_init(w, amsgrad=True)"]
    refused(ValueError, words, gc.adam_update, w, w, gc.adam_init(w), axis=1, amsgrad=True)


@pytest.mark.parametrize("row", flags("amsgrad"), ids=named)
def test_amsgrad_of_adam_init(row):
    options, error, words = row
    refused(error, words, gc.adam_init, random((2, 3)), **options)


@pytest.mark.parametrize(
    ("shape", "layout", "error", "words"),
    [
        ((2, 3), "oihw", ValueError, ["layout", "'out_first', 'out_last'", "'oihw'"]),
        ((2, 3), "", ValueError, ["layout", "''"]),
        ((2, 3), None, TypeError, ["layout", "None"]),
        ((2, 3), 0, TypeError, ["layout", "0"]),
        (5, "out_first", TypeError, ["shape", "a tuple of ints", "5"]),
        ("23", "out_first", TypeError, ["shape", "'23'"]),
        (b"23", "out_first", TypeError, ["shape", "b'23'"]),
        (None, "out_first", TypeError, ["shape", "None"]),
        ((2, 3.0), "out_first", TypeError, ["shape", "an int >= 0", "3.0"]),
        ((2, True), "out_first", TypeError, ["shape", "True"]),
        ((2, -1), "out_first", ValueError, ["shape", "an int >= 0", "-1"]),
        ((-2,), "out_last", ValueError, ["shape", "-2"]),
    ],
)
def test_fan_in_axes(shape, layout, error, words):
    refused(error, words, gc.fan_in_axes, shape, layout)


@pytest.mark.parametrize(
    ("n", "error"),
    [(0, ValueError), (-1, ValueError), (2.0, TypeError), ("2", TypeError), (True, TypeError), (None, TypeError)],
)
def test_projection_matrix(n, error):
    refused(error, ["n must", "an int >= 1", repr(n)], gc.projection_matrix, n)


# ---- The optimizers: nothing partly applied

KINDS = [gc.SGD, gc.Adam, gc.AdamW]


def optimizer(kind, **options):
    """Three parameters, after a step, so that every state holds something."""
    params = {"a": random((2, 3)), "b": random((4,)), "c": random((3, 2), np.float32)}
    made = kind(params, {"a": 1, "b": None, "c": 0}, lr=0.1, **options)
    made.step(gradients(made))
    return made


def gradients(made):
    return {name: random(w.shape, w.dtype, seed=7) for name, w in made.params.items()}


def everything(made):
    """The parameters and states themselves, their bytes, the options and the axes: all that could change."""
    arrays = [made.params[name] for name in made.params]
    arrays += [x for state in made.state.values() for x in state if isinstance(x, np.ndarray)]
    steps = [x for state in made.state.values() for x in state if isinstance(x, int)]
    return list(map(id, arrays)), frozen(*arrays), steps, copy.deepcopy(made.hyper), dict(made.axes), list(made.params)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("culprit", ["a", "b", "c"])
@pytest.mark.parametrize(
    "row", [*ROWS_OF_GRADIENTS, *((x, ValueError, []) for x in (random((9,)), random((2, 3), ">f8")))], ids=named
)
def test_one_bad_gradient_of_several_changes_nothing(kind, culprit, row):
    value, error, words = row
    made = optimizer(kind)
    before = everything(made)
    refused(error, [f"{culprit}: grad", *words], made.step, {**gradients(made), culprit: value})
    assert everything(made) == before


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_under_other_names_change_nothing(kind):
    made = optimizer(kind)
    before, good = everything(made), gradients(made)
    refused(ValueError, ["grads", "['c'] missing"], made.step, {"a": good["a"], "b": good["b"]})
    refused(ValueError, ["grads", "['d'] unknown"], made.step, {**good, "d": good["a"]})
    refused(TypeError, ["grads", "list"], made.step, list(good.values()))
    refused(TypeError, ["grads", "NoneType"], made.step, None)
    assert everything(made) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_or_state_spoiled_by_hand_changes_nothing_else(kind):
    made = optimizer(kind)
    made.params["c"] = made.params["c"].astype(int)
    before = everything(made)
    refused(TypeError, ["c: w", "int64"], made.step, gradients(optimizer(kind)))
    assert everything(made) == before
    made = optimizer(kind)
    made.state["c"] = None
    with pytest.raises(TypeError, match="c: state must be the"):
        made.step(gradients(made))
    assert made.params["a"].tobytes() == optimizer(kind).params["a"].tobytes()


def options_of(kind):
    if kind is gc.SGD:
        return [*SGDM_OPTIONS, *flags("decoupled")]
    return ADAM_OPTIONS


ROWS_OF_OPTIONS = [(kind, row) for kind in KINDS for row in options_of(kind)]


@pytest.mark.parametrize(
    ("kind", "row"), ROWS_OF_OPTIONS, ids=lambda x: named(x) if isinstance(x, tuple) else x.__name__
)
def test_a_bad_option_changes_nothing(kind, row):
    """When the optimizer is made, when an option is changed between steps, and when a state_dict is loaded."""
    options, error, words = row
    params = {"a": random((2, 3))}
    before = frozen(*params.values())
    refused(error, words, kind, params, {"a": 1}, **{"lr": 0.1, **options})
    assert frozen(*params.values()) == before

    made = optimizer(kind)
    good = copy.deepcopy(made.state_dict())
    before = everything(made)
    bad = {"hyper": {**good["hyper"], **options}, "state": good["state"]}
    refused(error, words, made.load_state_dict, bad)
    assert everything(made) == before

    made.hyper.update(options)
    before = everything(made)[:3]
    refused(error, words, made.step, gradients(made))
    assert everything(made)[:3] == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", AXES, ids=named)
def test_axes_of_an_optimizer(kind, row):
    value, error, words = row
    params = {"b": random((4,)), "a": random((2, 3))}
    before = frozen(*params.values())
    refused(error, ["axes['a']", *words], kind, params, {"b": None, "a": value}, lr=0.1)
    assert frozen(*params.values()) == before


@pytest.mark.parametrize("kind", KINDS)
def test_params_and_axes_of_an_optimizer(kind):
    w = random((2, 3))
    refused(TypeError, ["params", "dict", "list"], kind, [w], {"a": 1}, lr=0.1)
    refused(TypeError, ["params", "dict", "ndarray"], kind, w, {"a": 1}, lr=0.1)
    refused(TypeError, ["axes", "dict", "int"], kind, {"a": w}, 1, lr=0.1)
    refused(TypeError, ["axes", "dict", "NoneType"], kind, {"a": w}, None, lr=0.1)
    refused(ValueError, ["axes", "['a'] missing"], kind, {"a": w}, {}, lr=0.1)
    refused(ValueError, ["axes", "['b'] unknown"], kind, {"a": w}, {"a": 1, "b": 1}, lr=0.1)
    for value, word in NOT_ARRAYS:
        refused(TypeError, ["params['b']", word], kind, {"a": w, "b": value}, {"a": 1, "b": 1}, lr=0.1)
    if kind is not gc.SGD:
        refused(TypeError, ["b: w is complex"], kind, {"a": w, "b": w + 0j}, {"a": 1, "b": 1}, lr=0.1)


def state_dicts(made):
    """Broken state_dicts of an optimizer: how, the error, its words."""
    good = copy.deepcopy(made.state_dict())
    field = made.state["a"]._fields[-1 if isinstance(made, gc.SGD) else 1]

    def with_state(name, **changes):
        return {**good, "state": {**good["state"], name: {**good["state"][name], **changes}}}

    yield None, TypeError, ["state_dict"]
    yield [], TypeError, ["state_dict"]
    yield {"hyper": good["hyper"]}, TypeError, ["state_dict", "'state'"]
    yield {"state": good["state"]}, TypeError, ["state_dict", "'hyper'"]
    yield {**good, "hyper": None}, TypeError, ["state_dict['hyper']", "dict", "NoneType"]
    yield {**good, "state": 3}, TypeError, ["state_dict['state']", "dict", "int"]
    yield {**good, "state": list(good["state"])}, TypeError, ["state_dict['state']", "dict", "list"]
    yield {**good, "hyper": {}}, ValueError, ["state_dict['hyper']", "missing"]
    yield (
        {**good, "hyper": {**good["hyper"], "foreach": True}},
        ValueError,
        ["state_dict['hyper']", "['foreach'] unknown"],
    )
    yield {**good, "state": {"a": good["state"]["a"]}}, ValueError, ["state_dict['state']", "['b', 'c'] missing"]
    yield {**good, "state": {**good["state"], "d": {}}}, ValueError, ["state_dict['state']", "['d'] unknown"]
    for name in ("a", "c"):
        where = f"state_dict['state'][{name!r}]"
        yield {**good, "state": {**good["state"], name: {}}}, ValueError, [where, "missing"]
        yield {**good, "state": {**good["state"], name: None}}, TypeError, [where, "dict", "NoneType"]
        fields = list(good["state"][name])
        yield {**good, "state": {**good["state"], name: fields}}, TypeError, [where, "dict", "list"]
        yield with_state(name, extra=1), ValueError, [where, "['extra'] unknown"]
        yield with_state(name, **{field: None}), TypeError, [f"{name}: state.{field}", "NoneType"]
        yield with_state(name, **{field: [1.0]}), TypeError, [f"{name}: state.{field}", "list"]
        yield with_state(name, **{field: random((7,))}), ValueError, [f"{name}: state.{field}", "(7,)"]
        wrong = made.params[name].astype(np.float16)
        yield with_state(name, **{field: wrong}), ValueError, [f"{name}: state.{field}", "float16"]
        if not isinstance(made, gc.SGD):
            yield with_state(name, step=-1), ValueError, [f"{name}: state.step", "-1"]
            yield with_state(name, step=1.5), TypeError, [f"{name}: state.step", "1.5"]
            yield with_state(name, step=None), TypeError, [f"{name}: state.step", "None"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_state_dict_changes_nothing(kind):
    made = optimizer(kind)
    before = everything(made)
    for broken, error, words in state_dicts(made):
        refused(error, words, made.load_state_dict, broken)
        assert everything(made) == before


def test_the_state_dict_of_another_kind():
    sgd, adam = optimizer(gc.SGD), optimizer(gc.Adam)
    for one, other in ((sgd, adam), (adam, sgd)):
        before = everything(one)
        refused(ValueError, ["state_dict['hyper']"], one.load_state_dict, other.state_dict())
        assert everything(one) == before


def test_amsgrad_loaded_without_its_state():
    made = optimizer(gc.Adam, amsgrad=True)
    before = everything(made)
    state = {**made.state_dict()["state"]}
    state["c"] = {**state["c"], "max_exp_avg_sq": None}
    words = ["amsgrad", "max_exp_avg_sq"]
    refused(ValueError, ["c: ", *words], made.load_state_dict, {**made.state_dict(), "state": state})
    assert everything(made) == before
    plain = optimizer(gc.Adam)
    before = everything(plain)
    turned_on = {**plain.state_dict(), "hyper": {**plain.hyper, "amsgrad": True}}
    refused(ValueError, words, plain.load_state_dict, turned_on)
    assert everything(plain) == before


# ---- The checks above can fail


def test_a_partly_applied_step_is_found():
    made = optimizer(gc.SGD)
    before = everything(made)

    def step(grads):
        for name, grad in grads.items():
            made.params[name], made.state[name] = made.update(
                made.params[name], grad, made.state[name], made.axes[name]
            )

    refused(TypeError, [], step, {**gradients(made), "c": [1.0]})
    assert everything(made) != before
