"""The chapters of the suite. Importing them registers their properties."""

from . import operator, numerics, layers, sgdm, adam, optimizer, theory, errors  # noqa: F401, I001
