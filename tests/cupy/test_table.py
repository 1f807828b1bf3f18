"""Many parameters in one launch, through a table: the bits of launches one by one, on the host."""

import numpy as np
import pytest

from tests.cupy.gc_cupy_on_numpy import gct, kernels

SHAPES = {
    "a": ((3, 9), 1),
    "b": ((40, 9), 1),
    "c": ((5,), None),
    "d": ((20, 12), 0),
    "e": ((7, 9), 1),
    "f": ((1, 9), 1),
}
SHAPES |= {"g": ((0, 9), 1), "h": ((3, 5000), 1), "i": ((2, 5000), 1), "j": ((33, 4, 5), (0, 2))}
KINDS = {
    "SGD": dict(lr=0.1, momentum=0.9, weight_decay=0.1),
    "Adam": dict(lr=0.1, amsgrad=True, gc_on="update"),
    "AdamW": dict(lr=0.1, weight_decay=0.1),
}


def arrays(seed, dtype):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0.5, 1, shape).astype(dtype) for name, (shape, _) in SHAPES.items()}


def stepped(kind, dtype, names):
    """Parameters and states after two steps of an optimizer over these, by name."""
    params = {name: array for name, array in arrays(0, dtype).items() if name in names}
    optimizer = getattr(gct, kind)(params, {name: SHAPES[name][1] for name in params}, **KINDS[kind])
    for seed in (1, 2):
        optimizer.step({name: array for name, array in arrays(seed, dtype).items() if name in params})
    return {name: [params[name], *(x for x in optimizer.state[name] if x is not None)] for name in params}


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that are launched."""
    names = []
    function = kernels._function

    def noted(name, device):
        launch = function(name, device)
        return lambda *rest: names.append(name) or launch(*rest)

    monkeypatch.setattr(kernels, "_function", noted)
    return names


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_many_at_once_give_the_bits_of_one_by_one(kind, dtype, launched):
    together = stepped(kind, dtype, SHAPES)
    blocks = [kernels.geometry(*_folded(name))[1] for name in SHAPES if name != "g"]
    large = [block for block in blocks if np.prod(block) > 512]
    assert len(launched) == 2 * (len(set(blocks) - set(large)) + len(large)) < 2 * len(blocks)
    assert any("_table<" in name for name in launched)
    for name in SHAPES:
        alone = stepped(kind, dtype, [name])[name]
        assert [np.asarray(x).tobytes() for x in together[name]] == [np.asarray(x).tobytes() for x in alone], name


def _folded(name):
    shape, axis = SHAPES[name]
    fold = kernels.fold(shape, axis if axis is None or isinstance(axis, tuple) else (axis,))
    return fold.outer * fold.inner, fold.fan_in, fold.inner


def test_two_thousand_tensors_are_one_launch(launched):
    params = {str(i): np.full((5, 20), 1.0 + i, np.float32) for i in range(2000)}
    gct.Adam(params, dict.fromkeys(params, 1)).step({name: w.copy() for name, w in params.items()})
    assert launched == ["adam_table<float>"]


def test_arrays_that_share_memory_are_updated_one_after_another(launched):
    whole = np.ones((6, 9), np.float32)
    params = {"whole": whole, "part": whole[:3], "other": np.ones((4, 9), np.float32)}
    grads = {name: np.arange(w.size, dtype=np.float32).reshape(w.shape) for name, w in params.items()}
    gct.SGD(params, dict.fromkeys(params, 1), lr=0.5, momentum=0.0).step(grads)
    assert launched == ["sgdm<float>"] * 3
    phi = np.arange(9, dtype=np.float32) - 4
    assert np.array_equal(whole, np.concatenate([np.tile(1 - phi, (3, 1)), np.tile(1 - phi / 2, (3, 1))]))


def test_a_wrong_table_is_found_out(monkeypatch):
    """Rows whose first blocks are off by one."""
    table = kernels._table

    def wrong(launches):
        rows, blocks = table(launches)
        rows[1:, -1] += 1
        return rows, blocks

    monkeypatch.setattr(kernels, "_table", wrong)
    together = stepped("SGD", "float32", SHAPES)
    assert any(not np.array_equal(together[name][0], stepped("SGD", "float32", [name])[name][0]) for name in SHAPES)
