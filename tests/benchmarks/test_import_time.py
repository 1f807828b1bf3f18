"""Whether the benchmark of imports says what a package adds: its processes are stand-ins, of known times."""

import pytest

from benchmarks import import_time


def test_the_difference_is_that_of_a_round_whatever_the_load_of_it(monkeypatch):
    cost = {"numpy": 80, "torch": 900, "jax, optax": 700, "gc_core": 15, "gc_torch": 70, "gc_jax": 30}
    calls = []

    def took(modules):
        calls.append(modules)
        load = 100 * (1 + (len(calls) - 1) // 6)  # a round slower than the one before it, by the same for all
        base, _, package = modules.rpartition(", ") if "gc_" in modules else (modules, "", None)
        wall = cost[base] + (cost[package] if package else 0)
        return wall + load, wall / 2

    monkeypatch.setattr(import_time, "milliseconds", took)
    found = import_time.measured(5)
    assert len(calls) == 6 * 6  # a round more, which is not counted
    assert {package: one["more_ms"] for package, one in found.items()} == {"gc_core": 15, "gc_torch": 70, "gc_jax": 30}
    assert found["gc_torch"]["more_cpu_ms"] == 35 and found["gc_torch"]["rounds"] == 5
    assert found["gc_core"]["framework_ms"] == 80 + 400 and found["gc_core"]["more_ms_quartiles"] == [15, 15]


def test_a_process_of_its_own_is_timed():
    wall, cpu = import_time.milliseconds("json")
    assert wall > 0 and 0 <= cpu <= wall * 4
    with pytest.raises(import_time.subprocess.CalledProcessError):
        import_time.milliseconds("no_such_module_here")
