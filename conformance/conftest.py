"""An adapter imports its framework, and has no examples to run where that is not installed."""

from importlib.util import find_spec

FRAMEWORK_OF = {"torch": "torch", "torch_model": "torch", "optax": "optax", "keras": "keras", "jax": "jax"}

collect_ignore = [f"gc_conformance/ports/{adapter}.py" for adapter, of in FRAMEWORK_OF.items() if not find_spec(of)]
