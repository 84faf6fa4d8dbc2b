"""How good a set of predictions is: scikit-learn's metrics, and a collapse alarm.

Referable DR means grade 2 or worse: the patient is to be seen by an ophthalmologist.
Sight-threatening DR means grade 3 or worse: soon.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import sklearn
from scipy.stats import binned_statistic
from sklearn import metrics as sk

from loaders.arrays import Bool, Float64, Int64
from loaders.grades import GRADES

REFERABLE, SIGHT_THREATENING = 2, 3
# What the British Diabetic Association asks of screening, beside 80 % sensitivity.
FIXED_SPECIFICITY = 0.95
BINS = 10  # of confidence, from 0 to 1
_ROUNDING = 1e-12
# A predictor is constant if one grade has this share of its predictions, and of the
# samples of all other grades it gets no more than that share right.
_CONSTANT, _BY_CHANCE = 0.99, 0.05


def score(
    labels: Int64, probabilities: Float64, predicted: Int64 | None = None
) -> dict[str, Any]:
    """All metrics of one evaluation, as JSON takes them.

    What is undefined (the AUC without positives, the recall of an absent grade) is
    ``None``.

    Args:
        labels: int64[N], 0 to 4.
        probabilities: float64[N, 5].
        predicted: int64[N], where it is not the likeliest grade.
    """
    if predicted is None:
        predicted = probabilities.argmax(axis=1)
    chances = np.asarray(probabilities, np.float64)
    return {
        **score_grades(labels, predicted),
        "auc": [
            roc(labels == grade, chances[:, grade]).area for grade in range(len(GRADES))
        ],
        "referable": _cut(labels, predicted, chances, REFERABLE),
        "sight_threatening": _cut(labels, predicted, chances, SIGHT_THREATENING),
        "calibration_error": calibration_error(labels, chances),
        "collapse": collapse(labels, predicted),
    }


def unchecked() -> AbstractContextManager[None]:
    """Scikit-learn without its checks of arguments, two thirds of a small call."""
    quick: AbstractContextManager[None] = sklearn.config_context(
        assume_finite=True, skip_parameter_validation=True
    )
    return quick


def score_grades(labels: Int64, predicted: Int64) -> dict[str, Any]:
    """The metrics that only ask which grade was said: int64[N] both."""
    grades = range(len(GRADES))
    matrix = sk.confusion_matrix(labels, predicted, labels=grades)
    precision, recall, _, _ = sk.precision_recall_fscore_support(
        labels, predicted, labels=grades, zero_division=np.nan
    )
    return {
        "samples": len(labels),
        "accuracy": float(sk.accuracy_score(labels, predicted)),
        "balanced_accuracy": float(np.nanmean(recall)),
        "qwk": quadratic_kappa(labels, predicted),
        "macro_f1": macro_f1(labels, predicted),
        "recall": _or_none(recall),
        "precision": _or_none(precision),
        "confusion": matrix.tolist(),
    }


def from_matrix(confusion: Sequence[Sequence[int]]) -> tuple[Int64, Int64]:
    """Labels and predictions that a confusion matrix of counts was made of.

    Args:
        confusion: K x K counts, true grade by predicted grade.
    """
    counts = np.asarray(confusion, np.int64)
    true, said = np.indices(counts.shape).reshape(2, -1)
    return np.repeat(true, counts.ravel()), np.repeat(said, counts.ravel())


def quadratic_kappa(
    labels: Int64, predicted: Int64, weights: Float64 | None = None
) -> float:
    """Quadratic weighted kappa; 0 for a constant predictor, as it agrees by chance."""
    if weights is not None:
        there = weights > 0
        labels, predicted, weights = labels[there], predicted[there], weights[there]
    if len(np.unique(predicted)) == 1 or len(np.unique(labels)) == 1:
        return float(len(labels) > 0 and bool(np.all(labels == predicted)))
    return float(
        sk.cohen_kappa_score(
            labels, predicted, weights="quadratic", sample_weight=weights
        )
    )


def macro_f1(labels: Int64, predicted: Int64, weights: Float64 | None = None) -> float:
    """The mean F1 over the grades that the labels hold."""
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
        sensitivity: of the best threshold whose specificity is ``FIXED_SPECIFICITY``.
    """

    area: float | None
    sensitivity: float | None


def roc(truth: Bool, chances: Float64, weights: Float64 | None = None) -> Roc:
    """Of bool[N] by float64[N]."""
    if weights is not None:
        there = weights > 0
        truth, chances, weights = truth[there], chances[there], weights[there]
    if truth.all() or not truth.any():
        return Roc(None, None)
    false_alarms, found, _ = sk.roc_curve(
        truth, chances, sample_weight=weights, drop_intermediate=False
    )
    allowed = false_alarms <= 1 - FIXED_SPECIFICITY + _ROUNDING
    return Roc(float(sk.auc(false_alarms, found)), float(found[allowed].max()))


def calibration_error(
    labels: Int64, probabilities: Float64, weights: Float64 | None = None
) -> float:
    """Expected calibration error of the likeliest grade, over ``BINS`` equal bins.

    The mean distance of a bin's confidence from its accuracy, by its samples (Guo et
    al. 2017).
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


def _cut(
    labels: Int64, predicted: Int64, probabilities: Float64, least: int
) -> dict[str, float | None]:
    """Of grade ``least`` or worse: by the predicted grade, and by its probability."""
    truth, said = labels >= least, predicted >= least
    curve = roc(truth, probabilities[:, least:].sum(axis=1))
    return {
        "sensitivity": float(np.mean(said[truth])) if truth.any() else None,
        "specificity": float(np.mean(~said[~truth])) if not truth.all() else None,
        "auc": curve.area,
        "sensitivity_at_specificity": curve.sensitivity,
    }


def _or_none(shares: Float64) -> list[float | None]:
    return [None if np.isnan(share) else float(share) for share in shares]
