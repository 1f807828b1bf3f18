"""The chapters of the suite. Importing them registers their properties."""

from . import operator, numerics, layers, sgdm, adam, optimizer, low_precision, switch, theory, errors  # noqa: F401, I001
