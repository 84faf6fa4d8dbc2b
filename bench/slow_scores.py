"""Scores by scikit-learn, one weighting of the samples at a time: slow, and right.

What the package's own statistics of many resamples at once are compared with.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import sklearn
from scipy.stats import DegenerateDataWarning, binned_statistic, bootstrap
from sklearn import metrics as sk

from loaders.arrays import Bool, Float64, Int64
from loaders.grades import GRADES

NAN = math.nan
SlowStatistics = Callable[[Float64], list[float]]  # weights float64[N] to K values
_GRADES = range(len(GRADES))


def slow_grades(labels: Int64, predicted: Int64) -> SlowStatistics:
    """Accuracy, balanced accuracy, QWK and macro-F1 of grades, int64[N]."""

    def of(weights: Float64) -> list[float]:
        there = weights > 0
        true, grades, counts = labels[there], predicted[there], weights[there]
        present = np.unique(true)
        _, recall, f1, _ = sk.precision_recall_fscore_support(
            true, grades, labels=present, sample_weight=counts, zero_division=0.0
        )
        right = float(sk.accuracy_score(true, grades, sample_weight=counts))
        kappa = _kappa(true, grades, counts)
        return [right, float(recall.mean()), kappa, float(f1.mean())]

    return of


def _kappa(labels: Int64, predicted: Int64, weights: Float64) -> float:
    if len(np.unique(labels)) == 1 or len(np.unique(predicted)) == 1:
        return NAN if np.array_equal(labels, predicted) else 0.0
    return float(
        sk.cohen_kappa_score(
            labels,
            predicted,
            labels=_GRADES,
            weights="quadratic",
            sample_weight=weights,
        )
    )


def _roc(truth: Bool, chances: Float64, weights: Float64) -> list[float]:
    """Area, and sensitivity at 95 % specificity."""
    if truth.all() or not truth.any():
        return [NAN, NAN]
    false_alarms, found, _ = sk.roc_curve(
        truth, chances, sample_weight=weights, drop_intermediate=False
    )
    best = found[false_alarms <= 0.05 + 1e-12].max()
    return [float(sk.auc(false_alarms, found)), float(best)]


def slow_calibration(labels: Int64, probabilities: Float64) -> SlowStatistics:
    """The expected calibration error of probabilities, float64[N, 5]."""
    sure = probabilities.max(axis=1)
    surplus = sure - (labels == probabilities.argmax(axis=1))

    def of(weights: Float64) -> list[float]:
        sums, _, _ = binned_statistic(sure, weights * surplus, "sum", 10, (0, 1))
        return [float(np.abs(sums).sum() / weights.sum())]

    return of


def slow_scores(labels: Int64, probabilities: Float64) -> SlowStatistics:
    """All of ``SCORE_STATISTICS`` for the likeliest grades of float64[N, 5]."""
    predicted = probabilities.argmax(axis=1)
    by_grade = slow_grades(labels, predicted)
    calibration = slow_calibration(labels, probabilities)

    def of(weights: Float64) -> list[float]:
        there = weights > 0
        true, grades, counts = labels[there], predicted[there], weights[there]
        chances = probabilities[there]
        precision, recall, _, _ = sk.precision_recall_fscore_support(
            true, grades, labels=_GRADES, sample_weight=counts, zero_division=NAN
        )
        values = [*by_grade(weights), *recall, *precision]
        for grade in _GRADES:
            values.append(_roc(true == grade, chances[:, grade], counts)[0])
        for least in (2, 3):
            ill, positive = true >= least, grades >= least
            values += [
                _mean(positive[ill], counts[ill]),
                _mean(~positive[~ill], counts[~ill]),
                *_roc(ill, probabilities[:, least:].sum(axis=1)[there], counts),
            ]
        return [*values, *calibration(weights)]

    return of


def _mean(hits: Bool, weights: Float64) -> float:
    return float(np.average(hits, weights=weights)) if len(hits) else NAN


def slow_resamples(
    statistics: SlowStatistics, patients: Sequence[str], resamples: int
) -> Float64:
    """The statistics of each resample of SciPy's bootstrap, float64[K, resamples]."""
    names, whose = np.unique(patients, return_inverse=True)
    if len(names) < 2:
        return np.full((len(statistics(np.ones(len(whose)))), 1), NAN)

    def of(drawn: Int64) -> Float64:
        times = np.bincount(drawn, minlength=len(names))
        return np.array(statistics(times[whose].astype(np.float64)))

    quick = sklearn.config_context(assume_finite=True, skip_parameter_validation=True)
    with quick, warnings.catch_warnings():
        # SciPy's own interval, which is not used, warns where a statistic is undefined.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result = bootstrap(
            (np.arange(len(names)),),
            of,
            vectorized=False,
            n_resamples=resamples,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    drawn: Float64 = result.bootstrap_distribution
    return drawn
