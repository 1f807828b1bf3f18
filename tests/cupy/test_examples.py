"""The examples in gc_cupy's docstrings, with NumPy standing in for CuPy. On a GPU pytest runs them on CuPy as well."""

import doctest
import importlib
import pkgutil

import pytest

from tests.cupy.gc_cupy_on_numpy import gct, standing_in

WITHOUT = {"gc_cupy.compat"}  # has no functions
MODULES = [module.name for module in pkgutil.iter_modules(gct.__path__, "gc_cupy.") if module.name not in WITHOUT]


@pytest.mark.parametrize("name", MODULES)
def test_examples_on_the_stand_in(name):
    with standing_in():
        result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
