"""JAX's 64 bits for a while: a context that has had a public name since JAX 0.8."""

import jax

try:
    enable_x64 = jax.enable_x64
except AttributeError:
    from jax.experimental import enable_x64  # noqa: F401
