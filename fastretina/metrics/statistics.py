"""Every score by its name, of many weightings of the same samples at once.

An evaluation is one weighting, in which each sample counts once; a bootstrap is one for
each resample, in which a sample counts as often as its patient was drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastretina.metrics.confusion_matrices import (
    MatrixScores,
    confusion_matrices,
    score_matrices,
    share,
)
from fastretina.metrics.reliability import calibration_errors
from fastretina.metrics.roc_steps import RocSteps
from loaders.arrays import Float64, Int64
from loaders.grades import GRADES, REFERABLE, SIGHT_THREATENING

# Weights float64[N, R] of N samples in R weightings, to float64[K, R]: K statistics,
# NaN where one is undefined.
Statistics = Callable[[Float64], Float64]

GRADE_STATISTICS = ("accuracy", "balanced_accuracy", "qwk", "macro_f1")
CUTS = {"referable": REFERABLE, "sight_threatening": SIGHT_THREATENING}
BY_CUT = ("sensitivity", "specificity", "auc", "sensitivity_at_specificity")
OF_CUTS = tuple(f"{cut}.{name}" for cut in CUTS for name in BY_CUT)
SCORE_STATISTICS = (
    *GRADE_STATISTICS,
    *(f"recall.{grade}" for grade in range(len(GRADES))),
    *(f"precision.{grade}" for grade in range(len(GRADES))),
    *(f"auc.{grade}" for grade in range(len(GRADES))),
    *OF_CUTS,
    "calibration_error",
)


def grade_statistics(labels: Int64, predicted: Int64) -> Statistics:
    """What gives ``GRADE_STATISTICS``, float64[4, R].

    Args:
        labels: int64[N], 0 to 4.
        predicted: int64[N], 0 to 4.
    """

    def weighted(weights: Float64) -> Float64:
        matrices = confusion_matrices(labels, predicted, weights)
        return np.stack(_of_grades(score_matrices(matrices)))

    return weighted


def score_statistics(
    labels: Int64, predicted: Int64, probabilities: Float64
) -> Statistics:
    """What gives ``SCORE_STATISTICS``, float64[28, R].

    Args:
        labels: int64[N], 0 to 4.
        predicted: int64[N], 0 to 4.
        probabilities: float64[N, 5].
    """
    of_grades = [
        RocSteps.of(labels == grade, probabilities[:, grade])
        for grade in range(len(GRADES))
    ]
    of_cuts = {
        least: RocSteps.of(labels >= least, probabilities[:, least:].sum(axis=1))
        for least in CUTS.values()
    }

    def weighted(weights: Float64) -> Float64:
        matrices = confusion_matrices(labels, predicted, weights)
        scores = score_matrices(matrices)
        rows = _of_grades(scores)
        rows += [*scores.recall.T, *scores.precision.T]
        rows += [steps.score(weights).area for steps in of_grades]
        for least, steps in of_cuts.items():
            rows += [*_of_cut(matrices, least), *steps.score(weights)]
        rows.append(calibration_errors(labels, probabilities, weights))
        return np.stack(rows)

    return weighted


def once(statistics: Statistics, samples: int) -> Float64:
    """The statistics float64[K] where each of N samples counts once."""
    values: Float64 = statistics(np.ones((samples, 1)))[:, 0]
    return values


def defined(value: float) -> float | None:
    """A statistic as JSON takes it: None for NaN."""
    return None if np.isnan(value) else float(value)


def _of_grades(scores: MatrixScores) -> list[Float64]:
    return [getattr(scores, name) for name in GRADE_STATISTICS]


def _of_cut(matrices: Float64, least: int) -> tuple[Float64, Float64]:
    """Sensitivity and specificity of grade ``least`` or worse, float64[R] both."""
    ill, well = matrices[:, least:].sum(1), matrices[:, :least].sum(1)
    return (
        share(ill[:, least:].sum(1), ill.sum(1)),
        share(well[:, :least].sum(1), well.sum(1)),
    )
