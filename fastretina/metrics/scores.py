"""How good a set of predictions is: the usual metrics, and a collapse alarm.

Referable DR means grade 2 or worse: the patient is to be seen by an ophthalmologist.
Sight-threatening DR means grade 3 or worse: soon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np
from msgspec import Meta

from fastretina.metrics.confusion_matrices import (
    confusion_matrices,
    kappas,
    score_matrices,
)
from fastretina.metrics.reliability import calibration_error
from fastretina.metrics.statistics import (
    BY_CUT,
    SCORE_STATISTICS,
    defined,
    once,
    score_statistics,
)
from loaders.arrays import Float64, Int64
from loaders.grades import GRADES

# A predictor is constant if one grade has this share of its predictions, and of the
# samples of all other grades it gets no more than that share right.
_CONSTANT, _BY_CHANCE = 0.99, 0.05

PER_GRADE = Meta(min_length=len(GRADES), max_length=len(GRADES))  # of a list, if read


@dataclass(frozen=True, kw_only=True, slots=True)
class GradeScores:
    """The metrics that only ask which grade was predicted.

    Attributes:
        samples: how many were scored, N.
        accuracy: share of samples with the true grade predicted, 0 to 1.
        balanced_accuracy: mean recall over the grades that the labels hold, 0 to 1.
        qwk: quadratic weighted kappa, -1 to 1; None where it is undefined.
        macro_f1: mean F1 over the grades that the labels hold, 0 to 1.
        recall: of each grade; None for one that the labels lack.
        precision: of each grade; None for one that was never predicted.
        confusion: 5 x 5 counts, true grade by predicted grade.
    """

    samples: int
    accuracy: float
    balanced_accuracy: float
    qwk: float | None
    macro_f1: float
    recall: Annotated[list[float | None], PER_GRADE]
    precision: Annotated[list[float | None], PER_GRADE]
    confusion: Annotated[list[Annotated[list[int], PER_GRADE]], PER_GRADE]


@dataclass(frozen=True, kw_only=True, slots=True)
class CutScores:
    """How well samples of some grade or worse are told from the others.

    Attributes:
        sensitivity: share of them predicted so; None where there are none.
        specificity: share of the others predicted so; None where there are none.
        auc: area under the ROC curve of their summed probability; None without both.
        sensitivity_at_specificity: of the threshold on that probability whose
            specificity is ``FIXED_SPECIFICITY``; None without both.
    """

    sensitivity: float | None
    specificity: float | None
    auc: float | None
    sensitivity_at_specificity: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores(GradeScores):
    """All metrics of one evaluation.

    Attributes:
        auc: area under the ROC curve of each grade against the rest; None for a grade
            that no sample or every sample has.
        referable: scores of grade 2 or worse.
        sight_threatening: scores of grade 3 or worse.
        calibration_error: expected calibration error of the likeliest grade, 0 to 1.
        collapse: a sentence where the predictor is constant; see ``collapse``.
    """

    auc: Annotated[list[float | None], PER_GRADE]
    referable: CutScores
    sight_threatening: CutScores
    calibration_error: float
    collapse: str | None


def score(
    labels: Int64, probabilities: Float64, predicted: Int64 | None = None
) -> Scores:
    """All metrics of one evaluation; what is undefined is None.

    Args:
        labels: int64[N], 0 to 4.
        probabilities: float64[N, 5].
        predicted: int64[N], where it is not the likeliest grade.

    Raises:
        ValueError: a probability is NaN or infinite.
    """
    if predicted is None:
        predicted = probabilities.argmax(axis=1)
    chances = np.asarray(probabilities, np.float64)
    if not np.isfinite(chances).all():
        raise ValueError("probabilities must be finite, got NaN or infinity")
    values = once(score_statistics(labels, predicted, chances), len(labels))
    named = dict(zip(SCORE_STATISTICS, map(defined, values), strict=True))
    by_grade = score_grades(labels, predicted)
    return Scores(
        **{each.name: getattr(by_grade, each.name) for each in fields(by_grade)},
        auc=[named[f"auc.{grade}"] for grade in range(len(GRADES))],
        referable=_cut(named, "referable"),
        sight_threatening=_cut(named, "sight_threatening"),
        calibration_error=calibration_error(labels, chances),
        collapse=collapse(labels, predicted),
    )


def score_grades(labels: Int64, predicted: Int64) -> GradeScores:
    """Score predicted grades, int64[N], against the true ones, int64[N]."""
    (matrix,) = confusion_matrices(labels, predicted, np.ones((len(labels), 1)))
    scores = score_matrices(matrix)
    return GradeScores(
        samples=len(labels),
        accuracy=float(scores.accuracy),
        balanced_accuracy=float(scores.balanced_accuracy),
        qwk=defined(float(scores.qwk)),
        macro_f1=float(scores.macro_f1),
        recall=[defined(value) for value in scores.recall],
        precision=[defined(value) for value in scores.precision],
        confusion=matrix.astype(int).tolist(),
    )


def quadratic_kappa(
    labels: Int64, predicted: Int64, weights: Float64 | None = None
) -> float | None:
    """Quadratic weighted kappa of grades int64[N]; None where it is undefined.

    Args:
        labels: int64[N], 0 to 4.
        predicted: int64[N], 0 to 4.
        weights: float64[N], how much each sample counts; by default 1.
    """
    counts = np.ones(len(labels)) if weights is None else weights
    return defined(kappas(confusion_matrices(labels, predicted, counts[:, None]))[0])


def collapse(labels: Int64, predicted: Int64) -> str | None:
    """A sentence where the accuracy is only the share of the grade always predicted."""
    shares = np.bincount(predicted, minlength=len(GRADES)) / len(predicted)
    grade = int(shares.argmax())
    hits, others = labels == predicted, labels != grade
    if shares[grade] < _CONSTANT or not others.any():
        return None
    if np.mean(hits[others]) > _BY_CHANCE:
        return None
    accuracy, share = np.mean(hits), np.mean(labels == grade)
    return (
        f"constant predictor: {shares[grade]:.1%} of the predictions are grade {grade} "
        f"({GRADES[grade]}), so the accuracy of {accuracy:.1%} is that grade's share "
        f"({share:.1%}) and nothing was learned"
    )


def never_predicted(confusion: Sequence[Sequence[int]]) -> str | None:
    """A sentence on the grades that no sample was given, though some samples have them.

    Args:
        confusion: 5 x 5 counts, true grade by predicted grade.
    """
    counts = np.asarray(confusion)
    samples, given = counts.sum(axis=1), counts.sum(axis=0)
    missed = np.flatnonzero((samples > 0) & (given == 0)).tolist()
    if not missed:
        return None
    parts = [
        f"{grade} ({GRADES[grade]}; {samples[grade]:,} on test)" for grade in missed
    ]
    *most, last = parts
    grades = f"grades {', '.join(most)} and {last}" if most else f"grade {last}"
    return f"never predicted: {grades}, so every such photograph is graded wrong"


def _cut(named: Mapping[str, float | None], cut: str) -> CutScores:
    return CutScores(**{name: named[f"{cut}.{name}"] for name in BY_CUT})
