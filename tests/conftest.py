import os
import signal
import sys

import pytest
from hypothesis import settings

# Before anything imports Triton: there its kernels run in the interpreter. make gpu sets GC_DEVICE.
if os.environ.get("GC_DEVICE", "cpu") == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

# `nohup make test &` starts everything with Ctrl-C ignored, and so would be the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Programs for processes of their own: they set up JAX or Triton as nothing else here may.
collect_ignore = ["jax/on_eight_devices.py", "torch/compile_gpu.py"]

# The same examples on every run and every machine; search further with --hypothesis-profile=explore.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", max_examples=2000, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _settings_of_libraries_end_with_a_test():
    """A program under test may set JAX to 64 bits, or a style of drawing, for its process; here that is everybody's."""
    before = _settings()
    yield
    if before != (after := _settings()):
        if before[0] != after[0]:
            sys.modules["jax"].config.update("jax_enable_x64", before[0])
        if before[1] != after[1]:
            sys.modules["matplotlib"].rcParams.update(before[1] or sys.modules["matplotlib"].rcParamsOrig)


def _settings():
    jax, matplotlib = sys.modules.get("jax"), sys.modules.get("matplotlib")
    return jax is not None and jax.config.jax_enable_x64, matplotlib and dict.copy(matplotlib.rcParams)
