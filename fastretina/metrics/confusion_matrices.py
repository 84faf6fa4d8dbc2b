"""What confusion matrices tell, of one of them or of thousands at once.

A matrix is float64[..., 5, 5], counts by true grade and predicted grade. A bootstrap
asks of each resample what an evaluation asks once; so all that is asked here is asked
of any number of matrices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array

from loaders.arrays import Float64, Int64
from loaders.grades import GRADES

_K = len(GRADES)
_SQUARES = np.subtract.outer(np.arange(_K), np.arange(_K)) ** 2  # of grades apart


class MatrixScores(NamedTuple):
    """Scores of confusion matrices, NaN where they are undefined.

    Attributes:
        accuracy: float64[...], share of samples with the true grade predicted.
        balanced_accuracy: float64[...], mean recall over the grades that are there.
        qwk: float64[...], as ``kappas`` gives it.
        macro_f1: float64[...], mean F1 over the grades that are there; F1 is the
            harmonic mean of precision and recall (van Rijsbergen 1979).
        recall: float64[..., 5], NaN of a grade that no sample has.
        precision: float64[..., 5], NaN of a grade that none was given.
    """

    accuracy: Float64
    balanced_accuracy: Float64
    qwk: Float64
    macro_f1: Float64
    recall: Float64
    precision: Float64


def grouped(groups: Int64, number: int, values: Float64 | None = None) -> csc_array:
    """The matrix that sums samples by group: float64[number, N], one entry a column.

    Its product with weights float64[N, R] is the sums of R weightings at once.

    Args:
        groups: int64[N], the group of each sample, below ``number``.
        number: of groups.
        values: float64[N], what is summed; by default 1, so that samples are counted.
    """
    ones = np.ones(len(groups)) if values is None else values
    starts = np.arange(len(groups) + 1)
    return csc_array((ones, groups, starts), shape=(number, len(groups)))


def confusion_matrices(labels: Int64, predicted: Int64, weights: Float64) -> Float64:
    """The confusion matrices of R weightings, float64[R, 5, 5].

    Args:
        labels: int64[N], 0 to 4.
        predicted: int64[N], 0 to 4.
        weights: float64[N, R], how much each sample counts.
    """
    cells: Float64 = grouped(labels * _K + predicted, _K * _K) @ weights
    matrices: Float64 = cells.T.reshape(-1, _K, _K)
    return matrices


def kappas(matrices: Float64 | Int64) -> Float64:
    """Quadratic weighted kappas (Cohen 1968), float64[...], -1 to 1.

    It is 0 for a constant predictor, which agrees by chance; and NaN where true and
    predicted grade are the same one throughout, as no chance could disagree.
    """
    true, predicted = matrices.sum(-1), matrices.sum(-2)
    by_chance = (_SQUARES * true[..., :, None] * predicted[..., None, :]).sum((-1, -2))
    observed = (_SQUARES * matrices).sum((-1, -2)) * true.sum(-1)
    safe = np.where(by_chance, by_chance, 1)
    kappa: Float64 = np.where(by_chance, 1 - observed / safe, np.nan)
    return kappa


def score_matrices(matrices: Float64) -> MatrixScores:
    """The scores of confusion matrices float64[..., 5, 5]."""
    right = np.diagonal(matrices, axis1=-2, axis2=-1)
    true, predicted = matrices.sum(-1), matrices.sum(-2)
    recall, precision = share(right, true), share(right, predicted)
    there = true > 0
    grades = there.sum(-1)
    f1 = share(2 * right, true + predicted)
    return MatrixScores(
        accuracy=share(right.sum(-1), true.sum(-1)),
        balanced_accuracy=share(np.where(there, recall, 0).sum(-1), grades),
        qwk=kappas(matrices),
        macro_f1=share(np.where(there, f1, 0).sum(-1), grades),
        recall=recall,
        precision=precision,
    )


def share(part: Float64, whole: Float64) -> Float64:
    """``part / whole``, NaN where the whole is 0."""
    undefined = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    shares: Float64 = np.divide(part, whole, out=undefined, where=whole > 0)
    return shares
