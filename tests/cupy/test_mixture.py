"""A PyTorch of one CUDA and a CuPy of another in one process: gc_cupy says so, once, with what to install."""

import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("cupy")

from gc_core import GCWarning
from gc_cupy import arrays, compat, kernels


def stand_in(monkeypatch, theirs, ours):
    if theirs == "absent":
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(version=SimpleNamespace(cuda=theirs)))
    driver = SimpleNamespace(get_build_version=lambda: ours)

    def count():
        raise RuntimeError("cudaErrorInsufficientDriver")

    cuda = SimpleNamespace(driver=driver, runtime=SimpleNamespace(getDeviceCount=count))
    made = SimpleNamespace(cuda=cuda, RawModule=lambda **words: "a module")
    for page in (compat, arrays, kernels):
        monkeypatch.setattr(page, "cupy", made)
    compat._say.cache_clear()
    monkeypatch.setattr(kernels, "_module", kernels._module.__wrapped__)


@pytest.mark.parametrize(("theirs", "ours"), [("12.8", 13020), ("13.0", 12090)])
def test_it_is_said_once_and_in_the_error(monkeypatch, theirs, ours):
    stand_in(monkeypatch, theirs, ours)
    wanted = f"PyTorch is built for CUDA {theirs}, and CuPy for CUDA {ours // 1000}"
    with pytest.warns(GCWarning, match=wanted) as warned:
        assert kernels._module() == kernels._module() == "a module"
    assert len(warned) == 1
    assert f"pip install cupy-cuda{theirs[:2]}x" in str(warned[0].message)
    with pytest.raises(RuntimeError, match=f"cudaErrorInsufficientDriver. {wanted}"):
        arrays.from_numpy(np.ones(2))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("13.0", 13020), ("12.6", 12090), (None, 13020), ("absent", 13020), ("12.6", 0)],
)
def test_nothing_is_said_where_they_agree_or_nothing_is_known(monkeypatch, theirs, ours):
    stand_in(monkeypatch, theirs, ours)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernels._module()
    with pytest.raises(RuntimeError, match=r"cudaErrorInsufficientDriver$"):
        arrays.from_numpy(np.ones(2))
