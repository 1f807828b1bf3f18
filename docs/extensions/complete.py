"""Every public name of every package is documented, or the build warns, which is an error."""

import importlib

from sphinx.util import logging

PACKAGES = ("gc_core", "gc_torch", "gc_jax", "gc_cupy", "gc_conformance")


def undocumented(objects):
    """The public names that are not among the documented ones."""
    missing = []
    reference = importlib.import_module("gc_core")
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in (name for name in module.__all__ if name != "__version__"):  # which speaks for itself
            # What a backend takes over from the reference stands on the reference's page.
            is_taken_over = getattr(module, name) is getattr(reference, name, None)
            wanted = {f"{package}.{name}", *([f"gc_core.{name}"] if is_taken_over else [])}
            if not wanted & set(objects):
                missing.append(f"{package}.{name}")
    return missing


def check(app, env):
    for name in undocumented(env.get_domain("py").objects):
        logging.getLogger(__name__).warning("%s is public, and no page documents it", name, location="api/index")


def setup(app):
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
