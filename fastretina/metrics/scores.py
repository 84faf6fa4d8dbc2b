"""How good a set of predictions is: scikit-learn's metrics, and a collapse alarm.

Referable DR means grade 2 or worse: the patient is to be seen by an ophthalmologist.
Sight-threatening DR means grade 3 or worse: soon.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Annotated, NamedTuple

import numpy as np
import sklearn
from msgspec import Meta
from scipy.stats import binned_statistic
from sklearn import metrics as sk

from loaders.arrays import Bool, Float64, Int64
from loaders.grades import GRADES, REFERABLE, SIGHT_THREATENING

# What the British Diabetic Association asks of screening, beside 80 % sensitivity.
FIXED_SPECIFICITY = 0.95
BINS = 10  # of confidence, from 0 to 1
_ROUNDING = 1e-12
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
    with unchecked():
        by_grade = score_grades(labels, predicted)
        return Scores(
            **{each.name: getattr(by_grade, each.name) for each in fields(by_grade)},
            auc=[
                roc(labels == grade, chances[:, grade]).area
                for grade in range(len(GRADES))
            ],
            referable=_cut(labels, predicted, chances, REFERABLE),
            sight_threatening=_cut(labels, predicted, chances, SIGHT_THREATENING),
            calibration_error=calibration_error(labels, chances),
            collapse=collapse(labels, predicted),
        )


def unchecked() -> AbstractContextManager[None]:
    """Scikit-learn without its checks of arguments, two thirds of a small call."""
    quick: AbstractContextManager[None] = sklearn.config_context(
        assume_finite=True, skip_parameter_validation=True
    )
    return quick


def score_grades(labels: Int64, predicted: Int64) -> GradeScores:
    """Score predicted grades, int64[N], against the true ones, int64[N]."""
    grades = range(len(GRADES))
    matrix = sk.confusion_matrix(labels, predicted, labels=grades)
    precision, recall, _, _ = sk.precision_recall_fscore_support(
        labels, predicted, labels=grades, zero_division=np.nan
    )
    return GradeScores(
        samples=len(labels),
        accuracy=float(sk.accuracy_score(labels, predicted)),
        balanced_accuracy=float(np.nanmean(recall)),
        qwk=quadratic_kappa(labels, predicted),
        macro_f1=macro_f1(labels, predicted),
        recall=_or_none(recall),
        precision=_or_none(precision),
        confusion=matrix.tolist(),
    )


def quadratic_kappa(
    labels: Int64, predicted: Int64, weights: Float64 | None = None
) -> float | None:
    """Quadratic weighted kappa (Cohen 1968), -1 to 1.

    It is 0 for a constant predictor, which agrees by chance; and None where true and
    predicted grade are the same one throughout, as no chance could disagree.

    Args:
        labels: int64[N], 0 to 4.
        predicted: int64[N], 0 to 4.
        weights: float64[N], how much each sample counts; by default 1.
    """
    if weights is not None:
        there = weights > 0
        labels, predicted, weights = labels[there], predicted[there], weights[there]
    if len(np.unique(predicted)) == 1 or len(np.unique(labels)) == 1:
        return None if np.array_equal(labels, predicted) else 0.0
    return float(
        sk.cohen_kappa_score(
            labels,
            predicted,
            labels=range(len(GRADES)),  # or a grade that nobody has would not count
            weights="quadratic",
            sample_weight=weights,
        )
    )


def macro_f1(labels: Int64, predicted: Int64, weights: Float64 | None = None) -> float:
    """The mean F1 over the grades that the labels hold; int64[N], int64[N], float64[N].

    F1 is the harmonic mean of precision and recall (van Rijsbergen 1979).
    """
    return float(
        sk.f1_score(
            labels,
            predicted,
            labels=np.unique(labels),
            average="macro",
            sample_weight=weights,
            zero_division=0.0,
        )
    )


class Roc(NamedTuple):
    """How a probability separates samples; None without samples of both kinds.

    Attributes:
        area: under the ROC curve.
        sensitivity: at the best threshold whose specificity is ``FIXED_SPECIFICITY``.
    """

    area: float | None
    sensitivity: float | None


def roc(truth: Bool, chances: Float64, weights: Float64 | None = None) -> Roc:
    """The ROC curve's area and one of its points (Fawcett 2006).

    Args:
        truth: bool[N], which samples are positive.
        chances: float64[N], their probability of being so.
        weights: float64[N], how much each sample counts; by default 1.
    """
    if weights is not None:
        there = weights > 0
        truth, chances, weights = truth[there], chances[there], weights[there]
    if truth.all() or not truth.any():
        return Roc(None, None)
    false_alarms, hits, _ = sk.roc_curve(
        truth, chances, sample_weight=weights, drop_intermediate=False
    )
    allowed = false_alarms <= 1 - FIXED_SPECIFICITY + _ROUNDING
    return Roc(float(sk.auc(false_alarms, hits)), float(hits[allowed].max()))


def calibration_error(
    labels: Int64, probabilities: Float64, weights: Float64 | None = None
) -> float:
    """Expected calibration error of the likeliest grade, over ``BINS`` equal bins.

    The mean distance of a bin's confidence from its accuracy, weighted by its samples
    (Naeini et al. 2015; Guo et al. 2017).

    Args:
        labels: int64[N], 0 to 4.
        probabilities: float64[N, 5].
        weights: float64[N], how much each sample counts; by default 1.
    """
    confidence = probabilities.max(axis=1)
    surplus = confidence - (labels == probabilities.argmax(axis=1))
    counts = np.ones(len(labels)) if weights is None else weights
    sums, _, _ = binned_statistic(
        confidence, counts * surplus, "sum", bins=BINS, range=(0, 1)
    )
    return float(np.abs(sums).sum() / counts.sum())


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


def _cut(
    labels: Int64, predicted: Int64, probabilities: Float64, least: int
) -> CutScores:
    """Scores of grade ``least`` or worse, by predicted grade and by probability."""
    truth, positive = labels >= least, predicted >= least
    curve = roc(truth, probabilities[:, least:].sum(axis=1))
    return CutScores(
        sensitivity=float(np.mean(positive[truth])) if truth.any() else None,
        specificity=float(np.mean(~positive[~truth])) if not truth.all() else None,
        auc=curve.area,
        sensitivity_at_specificity=curve.sensitivity,
    )


def _or_none(shares: Float64) -> list[float | None]:
    return [None if np.isnan(share) else float(share) for share in shares]
