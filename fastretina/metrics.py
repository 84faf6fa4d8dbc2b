"""How good a set of predictions is: scikit-learn's metrics, and a collapse alarm.

Referable DR means grade 2 or worse: the patient is to be seen by an ophthalmologist.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

from loaders._course import GRADES

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

REFERABLE = 2
# A predictor is constant if one grade has this share of its predictions, and of the
# samples of all other grades it gets no more than that share right.
_CONSTANT, _BY_CHANCE = 0.99, 0.05


def score(labels: Int64, probabilities: Float64) -> dict[str, Any]:
    """All metrics of one evaluation, as JSON takes them.

    What is undefined (the AUC without positives, the recall of an absent grade) is
    ``None``.

    Args:
        labels: int64[N], 0 to 4.
        probabilities: float64[N, 5].
    """
    predicted = probabilities.argmax(axis=1)
    matrix = sk.confusion_matrix(labels, predicted, labels=range(len(GRADES)))
    recalls = _ratio(np.diag(matrix), matrix.sum(axis=1))
    present = [recall for recall in recalls if recall is not None]
    return {
        "samples": len(labels),
        "accuracy": float(np.mean(labels == predicted)),
        "balanced_accuracy": float(np.mean(present)),
        "qwk": quadratic_kappa(labels, predicted),
        "recall": recalls,
        "precision": _ratio(np.diag(matrix), matrix.sum(axis=0)),
        "confusion": matrix.tolist(),
        "referable": _referable(labels, probabilities),
        "collapse": collapse(labels, predicted),
    }


def quadratic_kappa(labels: Int64, predicted: Int64) -> float:
    """Quadratic weighted kappa; 0 for a constant predictor, as it agrees by chance."""
    if len(np.unique(predicted)) == 1 or len(np.unique(labels)) == 1:
        return float(len(labels) > 0 and bool(np.all(labels == predicted)))
    return float(sk.cohen_kappa_score(labels, predicted, weights="quadratic"))


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


def _referable(labels: Int64, probabilities: Float64) -> dict[str, float | None]:
    """Sensitivity and specificity of the predicted grade, AUC of its probability."""
    truth = labels >= REFERABLE
    predicted = probabilities.argmax(axis=1) >= REFERABLE
    positive, negative = int(truth.sum()), int((~truth).sum())
    chance = probabilities[:, REFERABLE:].sum(axis=1)
    return {
        "sensitivity": float(np.mean(predicted[truth])) if positive else None,
        "specificity": float(np.mean(~predicted[~truth])) if negative else None,
        "auc": float(sk.roc_auc_score(truth, chance))
        if positive and negative
        else None,
    }


def _ratio(parts: Int64, wholes: Int64) -> list[float | None]:
    return [
        float(part / whole) if whole else None
        for part, whole in zip(parts, wholes, strict=True)
    ]
