import os

from hypothesis import settings

# Before anything imports Triton: there its kernels run in the interpreter. make gpu sets GC_DEVICE.
if os.environ.get("GC_DEVICE", "cpu") == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

# Programs for processes of their own: they set up JAX or Triton as nothing else here may.
collect_ignore = ["jax/on_eight_devices.py", "torch/compile_gpu.py"]

# The same examples on every run and every machine; search further with --hypothesis-profile=explore.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", max_examples=2000, deadline=None)
settings.load_profile("repeatable")
