"""Ports for which a statement of the paper does not hold."""

from __future__ import annotations

import numpy as np

from ..honest import Straight
from .register import always, mutant


@mutant("theory.projection_matrix")
class UnnormalizedNormal(Straight):
    """Takes e for a vector of ones: P = I - 1 1'."""

    def projection_matrix(self, n):
        return np.eye(n) - np.ones((n, n))


@mutant("theory.projection_identities")
class LowerTriangle(Straight):
    """Fills one half of P only."""

    def projection_matrix(self, n):
        return np.tril(super().projection_matrix(n))


@mutant("theory.matrix_form")
class TwoOperators(Straight):
    """Has a matrix for another size than its vector form."""

    def projection_matrix(self, n):
        return np.eye(n) - np.full((n, n), 1 / (n + 1))


for _name, _kills in (
    ("LeavesHyperplane", "theory.hyperplane"),
    ("OutputDrifts", "theory.output_shift"),
    ("MeansWander", "theory.decoupled_decay_shrinks_means"),
):
    mutant(_kills, _name, "Never centralizes in SGDM.")(always(axis=None))


@mutant("theory.start_is_kept")
class StandardizesWeights(Straight):
    """Centralizes the weights, as weight standardization does."""

    def _applied(self, x, d, lr, axes, weight_decay, decoupled, gc_on):
        return self._center(super()._applied(x, d, lr, axes, weight_decay, decoupled, gc_on), axes)


@mutant("theory.places_agree_for_sgdm")
class UpdateNeverCentralized(Straight):
    """Takes gc_on="update" for no GC at all."""

    def _applied(self, x, d, lr, axes, weight_decay, decoupled, gc_on):
        return super()._applied(x, d, lr, axes, weight_decay, decoupled, "gradient")


@mutant("theory.norm_never_grows")
class AddsMean(Straight):
    """Adds the mean: a sign error."""

    def _mean(self, x, axes):
        return -super()._mean(x, axes)


@mutant("theory.smoother_loss")
class DoublesColumns(Straight):
    """Centralizes twice the gradient."""

    def _center(self, x, axes):
        return 2 * super()._center(x, axes)


@mutant("theory.constant_does_not_matter")
class MeanOfMagnitudes(Straight):
    """Subtracts the mean of the absolute values."""

    def _mean(self, x, axes):
        return abs(x).mean(axes, keepdims=True)
