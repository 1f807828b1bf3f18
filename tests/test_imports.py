"""Importing one package imports no framework but its own."""

import json
import subprocess
import sys

import pytest

# What must be loaded (so that a probe that sees nothing fails), and what must not.
NEEDS = {
    "gc_core": {"numpy"},
    "gc_torch": {"gc_core", "torch"},
    "gc_jax": {"gc_core", "jax"},
    "gc_cupy": {"gc_core", "cupy"},
    "gc_conformance": {"gc_conformance"},  # everything else on first use
}
FRAMEWORKS = {"torch", "jax", "jaxlib", "optax", "flax", "equinox", "keras", "tensorflow", "cupy", "transformers"}
MAY = {"gc_core": set(), "gc_torch": {"torch"}, "gc_jax": {"jax", "jaxlib", "optax"}, "gc_cupy": {"cupy"}}

PROBE = """
import json, sys
before = set(sys.modules)
package = __import__(sys.argv[1])
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps([package.__file__, sorted(loaded - sys.stdlib_module_names)]))
"""


def import_alone(package, cwd):
    """The file of a package and the third-party packages that importing it loads, in a fresh interpreter."""
    run = subprocess.run([sys.executable, "-c", PROBE, package], cwd=cwd, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    file, loaded = json.loads(run.stdout.splitlines()[-1])
    return file, set(loaded)


@pytest.mark.parametrize("package", NEEDS)
def test_a_package_imports_its_own_framework_only(package, tmp_path):
    file, loaded = import_alone(package, tmp_path)
    assert file is not None, f"{package} has no __init__.py"
    assert loaded >= NEEDS[package]
    assert not loaded & (FRAMEWORKS - MAY.get(package, set()))


def test_the_reference_imports_numpy_and_nothing_else(tmp_path):
    _, loaded = import_alone("gc_core", tmp_path)
    assert loaded == {"gc_core", "numpy"}
