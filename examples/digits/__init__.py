"""Training on handwritten digits with and without Gradient Centralization: `python -m examples.digits`.

Read in this order: `numpy_network` (a network and its gradient, by hand), `training` (the step with GC, and what is
measured), `data` (images, splits, batches and initial weights from a seed). `statistics`, `report` and `figure` say
what came out. `torch_network`, `jax_network` and `cupy_network` are the same network in the other frameworks.
"""
