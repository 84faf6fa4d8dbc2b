"""How sure a score is: 95 % intervals from a bootstrap over patients.

Both eyes of a patient agree more often than two eyes of two people, so a bootstrap over
images promises too much. Here whole patients are drawn with replacement (SciPy's
bootstrap, percentile method), and scikit-learn weighs each image by how often its
patient was drawn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import DegenerateDataWarning, bootstrap
from sklearn import metrics as sk

from fastretina.formatting import format_interval
from fastretina.metrics.scores import (
    REFERABLE,
    SIGHT_THREATENING,
    calibration_error,
    quadratic_kappa,
    roc,
    score,
    unchecked,
)
from loaders.arrays import Float64, Int64
from loaders.grades import GRADES

Weighted = Callable[[Float64], Float64]  # float64[N] weights to float64[K] statistics

LEVEL = 0.95
RESAMPLES = 1000
_SEED = 0
_K = len(GRADES)
_TRUE, _SAID = np.divmod(np.arange(_K * _K), _K)  # the cells of a confusion matrix


def patient_intervals(
    statistics: Weighted, patients: Sequence[str], resamples: int | None = None
) -> list[list[float] | None]:
    """An interval for each of K statistics, by drawing patients with replacement.

    Args:
        statistics: takes the samples' weights, float64[N]; gives float64[K], NaN where
            one is undefined.
        patients: of each sample.
        resamples: how often to draw; by default ``RESAMPLES``.

    Returns:
        ``[low, high]``, or None where there is nothing to draw from: one patient, or a
        statistic that is undefined.
    """
    drawn = patient_resamples(statistics, patients, resamples)
    tails = 100 * (1 - LEVEL) / 2
    found: list[list[float] | None] = []
    for values in drawn:
        defined = values[~np.isnan(values)]
        if 2 * len(defined) < len(values) or not len(defined):
            found.append(None)
        else:
            found.append(np.percentile(defined, [tails, 100 - tails]).tolist())
    return found


def patient_resamples(
    statistics: Weighted, patients: Sequence[str], resamples: int | None = None
) -> Float64:
    """The K statistics of each resample, float64[K, resamples]; see above."""
    names, group = np.unique(patients, return_inverse=True)
    if len(names) < 2:
        return np.full((len(statistics(np.ones(len(patients)))), 1), np.nan)

    def of_drawn(drawn: Int64) -> Float64:
        times = np.bincount(drawn, minlength=len(names))
        return statistics(times[group].astype(np.float64))

    with (
        unchecked(),
        warnings.catch_warnings(),
    ):
        # SciPy's own interval, which is not used, warns where a statistic is undefined.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result = bootstrap(
            (np.arange(len(names)),),
            of_drawn,
            vectorized=False,
            n_resamples=resamples or RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(_SEED),
        )
    distribution: Float64 = result.bootstrap_distribution
    return distribution


def score_with_intervals(
    labels: Int64,
    probabilities: Float64,
    patients: Sequence[str],
    predicted: Int64 | None = None,
) -> dict[str, Any]:
    """``metrics.score``, and its ``intervals`` in the same shape.

    Args:
        labels: int64[N].
        probabilities: float64[N, 5].
        patients: of each sample.
        predicted: int64[N], where it is not the likeliest grade.
    """
    said = probabilities.argmax(axis=1) if predicted is None else predicted
    scores = score(labels, probabilities, said)
    found = patient_intervals(_everything(labels, said, probabilities), patients)
    return {**scores, "intervals": _shaped(found)}


def grade_intervals(
    labels: Int64, predicted: Int64, patients: Sequence[str]
) -> dict[str, list[float] | None]:
    """Of accuracy, balanced accuracy, QWK and macro-F1 alone: ten times as fast."""
    found = patient_intervals(grade_statistics(labels, predicted), patients)
    return dict(zip(GRADE_STATISTICS, found, strict=True))


GRADE_STATISTICS = ("accuracy", "balanced_accuracy", "qwk", "macro_f1")


def grade_statistics(labels: Int64, predicted: Int64) -> Weighted:
    """``GRADE_STATISTICS`` of weighted samples."""
    cells = labels * _K + predicted

    def of(weights: Float64) -> Float64:
        counts = np.bincount(cells, weights, minlength=_K * _K)
        values: Float64 = np.array(_of_cells(counts)[: len(GRADE_STATISTICS)])
        return values

    return of


def _of_cells(counts: npt.NDArray[Any]) -> list[float]:
    """Accuracy, balanced accuracy, QWK, macro-F1, K recalls, K precisions."""
    there = counts > 0
    true, said, weights = _TRUE[there], _SAID[there], counts[there]
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        true, said, labels=range(_K), sample_weight=weights, zero_division=np.nan
    )
    present = np.isin(range(_K), true)
    return [
        float(sk.accuracy_score(true, said, sample_weight=weights)),
        float(recall[present].mean()),
        quadratic_kappa(true, said, weights),
        float(np.nan_to_num(f1[present]).mean()),
        *recall,
        *precision,
    ]


def _everything(labels: Int64, predicted: Int64, probabilities: Float64) -> Weighted:
    cells = labels * _K + predicted
    truths = [labels == grade for grade in range(_K)]
    chances = list(probabilities.T)
    cuts = [
        (labels >= least, predicted >= least, probabilities[:, least:].sum(axis=1))
        for least in (REFERABLE, SIGHT_THREATENING)
    ]

    def of(weights: Float64) -> Float64:
        values: list[float | None] = [
            *_of_cells(np.bincount(cells, weights, minlength=_K * _K))
        ]
        for truth, chance in zip(truths, chances, strict=True):
            values.append(roc(truth, chance, weights).area)
        for truth, said, chance in cuts:
            values.append(_mean(said[truth], weights[truth]))
            values.append(_mean(~said[~truth], weights[~truth]))
            values += roc(truth, chance, weights)
        values.append(calibration_error(labels, probabilities, weights))
        return np.array([np.nan if value is None else value for value in values])

    return of


def _mean(hits: npt.NDArray[np.bool_], weights: Float64) -> float | None:
    return float(np.average(hits, weights=weights)) if weights.sum() else None


def _shaped(found: Sequence[list[float] | None]) -> dict[str, Any]:
    """The list that ``_everything`` makes, in the shape of ``metrics.score``."""
    rest = iter(found)
    shaped: dict[str, Any] = {name: next(rest) for name in GRADE_STATISTICS}
    for name in ("recall", "precision", "auc"):
        shaped[name] = [next(rest) for _ in range(_K)]
    parts = ("sensitivity", "specificity", "auc", "sensitivity_at_specificity")
    for name in ("referable", "sight_threatening"):
        shaped[name] = {part: next(rest) for part in parts}
    shaped["calibration_error"] = next(rest)
    return shaped


def of_scores(scores: Mapping[str, Any], name: str, form: str) -> str:
    """``format_interval`` of one of the scores that ``score_with_intervals`` gives."""
    return format_interval(scores[name], scores.get("intervals", {}).get(name), form)
