"""The chapters of the suite. Importing them registers their properties."""

from . import operator, numerics, layers, sgdm, adam, optimizer, switch, theory, errors  # noqa: F401, I001
