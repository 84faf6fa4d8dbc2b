"""How sure a score is: 95 % intervals from a bootstrap over patients.

Both eyes of a patient agree more often than two eyes of two people, so a bootstrap over
images promises too much. Here whole patients are drawn with replacement (SciPy's
bootstrap, percentile method), and each image is weighed by how often its patient was
drawn (Efron and Tibshirani 1993; Field and Welsh 2007 on clusters). Shares of few cases
have an exact interval instead; and what no resample changes has none, as an interval
without width would say that it is certain.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from scipy.stats import DegenerateDataWarning, bootstrap

from fastretina.metrics.proportions import accuracy_share, exact_intervals, shares_of
from fastretina.metrics.scores import (
    PER_GRADE,
    Scores,
    calibration_error,
    quadratic_kappa,
    roc,
    score,
    score_grades,
    unchecked,
)
from loaders.arrays import Float64, Int64
from loaders.grades import GRADES, REFERABLE, SIGHT_THREATENING

Interval = tuple[float, float] | None  # low, high; None where there is nothing to vary
Weighted = Callable[[Float64], Float64]  # float64[N] weights to float64[K] statistics

LEVEL = 0.95
RESAMPLES = 1000
_SEED = 0
_K = len(GRADES)
_TRUE, _PREDICTED = np.divmod(np.arange(_K * _K), _K)  # the cells of a confusion matrix


@dataclass(frozen=True, kw_only=True, slots=True)
class GradeIntervals:
    """95 % intervals of the metrics that only ask which grade was predicted.

    Attributes:
        accuracy: of the share of samples with the true grade predicted.
        balanced_accuracy: of the mean recall.
        qwk: of the quadratic weighted kappa.
        macro_f1: of the mean F1.
        exact: names of those that are exact, as their cases are few; all others are a
            bootstrap's. One of a grade is named with it, e.g. ``recall.3``.
    """

    accuracy: Interval
    balanced_accuracy: Interval
    qwk: Interval
    macro_f1: Interval
    exact: list[str] = field(default_factory=list)


NO_INTERVALS = GradeIntervals(
    accuracy=None, balanced_accuracy=None, qwk=None, macro_f1=None
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CutIntervals:
    """95 % intervals of a ``CutScores``, under the same names; ``exact`` as above."""

    sensitivity: Interval
    specificity: Interval
    auc: Interval
    sensitivity_at_specificity: Interval
    exact: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreIntervals(GradeIntervals):
    """95 % intervals of a ``Scores``, under the same names; in lists, one per grade."""

    recall: Annotated[list[Interval], PER_GRADE]
    precision: Annotated[list[Interval], PER_GRADE]
    auc: Annotated[list[Interval], PER_GRADE]
    referable: CutIntervals
    sight_threatening: CutIntervals
    calibration_error: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoresWithIntervals(Scores):
    """Scores, and how sure each of them is.

    Attributes:
        intervals: 95 % intervals of the scores; none where an older version has
            written the file that they are read from.
    """

    intervals: ScoreIntervals = field(default_factory=lambda: _shaped({}, {}))


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """Scores of another way to choose the grades from the same probabilities.

    Attributes:
        accuracy: share of samples with the true grade predicted, 0 to 1.
        balanced_accuracy: mean recall over the grades that the labels hold, 0 to 1.
        qwk: quadratic weighted kappa, -1 to 1; None where it is undefined.
        macro_f1: mean F1 over the grades that the labels hold, 0 to 1.
        confusion: 5 x 5 counts, true grade by predicted grade.
        intervals: 95 % intervals of the first four.
    """

    accuracy: float
    balanced_accuracy: float
    qwk: float | None
    macro_f1: float
    confusion: Annotated[list[Annotated[list[int], PER_GRADE]], PER_GRADE]
    intervals: GradeIntervals = NO_INTERVALS


def patient_intervals(
    statistics: Weighted, patients: Sequence[str], resamples: int | None = None
) -> list[Interval]:
    """An interval for each of K statistics, by drawing patients with replacement.

    Args:
        statistics: takes the samples' weights, float64[N]; gives float64[K], NaN where
            one is undefined.
        patients: the patient of each of the N samples.
        resamples: how often to draw; by default ``RESAMPLES``.

    Returns:
        Low and high end, or None where there is nothing to draw from: one patient, or a
        statistic that is undefined in more than half of the draws.
    """
    drawn = patient_resamples(statistics, patients, resamples)
    tails = 100 * (1 - LEVEL) / 2
    intervals: list[Interval] = []
    for values in drawn:
        known = values[~np.isnan(values)]
        if 2 * len(known) < len(values) or not len(known):
            intervals.append(None)
        else:
            low, high = np.percentile(known, [tails, 100 - tails]).tolist()
            intervals.append((low, high))
    return intervals


def patient_resamples(
    statistics: Weighted, patients: Sequence[str], resamples: int | None = None
) -> Float64:
    """The K statistics of each resample, float64[K, resamples].

    The arguments are those of ``patient_intervals``; of one patient, there is one
    resample of NaN.
    """
    names, group = np.unique(patients, return_inverse=True)
    if len(names) < 2:
        return np.full((len(statistics(np.ones(len(patients)))), 1), np.nan)

    def statistics_of(drawn: Int64) -> Float64:
        times = np.bincount(drawn, minlength=len(names))
        return statistics(times[group].astype(np.float64))

    with unchecked(), warnings.catch_warnings():
        # SciPy's own interval, which is not used, warns where a statistic is undefined.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result = bootstrap(
            (np.arange(len(names)),),
            statistics_of,
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
) -> ScoresWithIntervals:
    """Score predictions, and bootstrap each score over patients.

    Args:
        labels: int64[N], 0 to 4.
        probabilities: float64[N, 5].
        patients: the patient of each of the N samples.
        predicted: int64[N], where it is not the likeliest grade.
    """
    grades = probabilities.argmax(axis=1) if predicted is None else predicted
    statistics = score_statistics(labels, grades, probabilities)
    scores = score(labels, probabilities, grades)
    return ScoresWithIntervals(
        **{each.name: getattr(scores, each.name) for each in fields(scores)},
        intervals=_shaped(
            dict(zip(_NAMES, patient_intervals(statistics, patients), strict=True)),
            exact_intervals(shares_of(labels, grades), patients),
        ),
    )


def score_grades_with_intervals(
    labels: Int64, predicted: Int64, patients: Sequence[str]
) -> OperatingPoint:
    """Score predicted grades, int64[N], alone: ten times as fast as all of it."""
    scores = score_grades(labels, predicted)
    return OperatingPoint(
        accuracy=scores.accuracy,
        balanced_accuracy=scores.balanced_accuracy,
        qwk=scores.qwk,
        macro_f1=scores.macro_f1,
        confusion=scores.confusion,
        intervals=grade_intervals(labels, predicted, patients),
    )


def grade_intervals(
    labels: Int64, predicted: Int64, patients: Sequence[str]
) -> GradeIntervals:
    """Intervals of predicted grades, int64[N], alone."""
    ends = patient_intervals(grade_statistics(labels, predicted), patients)
    named = dict(zip(GRADE_STATISTICS, map(with_width, ends), strict=True))
    exact = exact_intervals({"accuracy": accuracy_share(labels, predicted)}, patients)
    named.update(exact)
    return GradeIntervals(**named, exact=list(exact))


def calibration_error_with_interval(
    labels: Int64, probabilities: Float64, patients: Sequence[str]
) -> tuple[float, Interval]:
    """The calibration error of probabilities, float64[N, 5], and how sure it is."""

    def error(weights: Float64) -> Float64:
        return np.array([calibration_error(labels, probabilities, weights)])

    (interval,) = patient_intervals(error, patients)
    return calibration_error(labels, probabilities), with_width(interval)


GRADE_STATISTICS = ("accuracy", "balanced_accuracy", "qwk", "macro_f1")
_CUT = ("sensitivity", "specificity", "auc", "sensitivity_at_specificity")
_OF_CUTS = tuple(
    f"{c}.{name}" for c in ("referable", "sight_threatening") for name in _CUT
)
_NAMES = (  # of what ``score_statistics`` gives, in its order
    *GRADE_STATISTICS,
    *(
        f"{name}.{grade}"
        for name in ("recall", "precision", "auc")
        for grade in range(_K)
    ),
    *_OF_CUTS,
    "calibration_error",
)


def grade_statistics(labels: Int64, predicted: Int64) -> Weighted:
    """A function of weights, float64[N], that gives ``GRADE_STATISTICS``, float64[4].

    Args:
        labels: int64[N], 0 to 4.
        predicted: int64[N], 0 to 4.
    """
    cells = labels * _K + predicted

    def weighted(weights: Float64) -> Float64:
        counts = np.bincount(cells, weights, minlength=_K * _K)
        values: Float64 = np.array(_of_cells(counts)[: len(GRADE_STATISTICS)])
        return values

    return weighted


def defined(value: float) -> float | None:
    """A statistic as JSON takes it: None for NaN."""
    return None if np.isnan(value) else float(value)


def _of_cells(counts: npt.NDArray[Any]) -> list[float]:
    """Accuracy, balanced accuracy, QWK, macro-F1, 5 recalls, 5 precisions.

    In NumPy but for the kappa: scikit-learn takes 4 of 6 ms to count anew, and each
    interval asks a thousand times.

    Args:
        counts: float64[25], weights by true grade times 5 plus predicted grade.
    """
    there = counts > 0
    kappa = quadratic_kappa(_TRUE[there], _PREDICTED[there], counts[there])
    matrix = counts.reshape(_K, _K)
    right, true, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    recall, precision, f1 = (
        np.divide(right, of, out=np.full(_K, np.nan), where=of > 0)
        for of in (true, predicted, (true + predicted) / 2)
    )
    present = true > 0
    return [
        float(right.sum() / counts.sum()),
        float(recall[present].mean()),
        np.nan if kappa is None else kappa,
        float(f1[present].mean()),
        *recall.tolist(),
        *precision.tolist(),
    ]


def score_statistics(
    labels: Int64, predicted: Int64, probabilities: Float64
) -> Weighted:
    """A function of weights, float64[N], that gives float64[K], by ``_NAMES``.

    Args:
        labels: int64[N], 0 to 4.
        predicted: int64[N], 0 to 4.
        probabilities: float64[N, 5].
    """
    cells = labels * _K + predicted
    truths = [labels == grade for grade in range(_K)]
    chances = list(probabilities.T)
    cuts = [
        (labels >= least, predicted >= least, probabilities[:, least:].sum(axis=1))
        for least in (REFERABLE, SIGHT_THREATENING)
    ]

    def weighted(weights: Float64) -> Float64:
        values: list[float | None] = [
            *_of_cells(np.bincount(cells, weights, minlength=_K * _K))
        ]
        for truth, chance in zip(truths, chances, strict=True):
            values.append(roc(truth, chance, weights).area)
        for truth, positive, chance in cuts:
            values.append(_mean(positive[truth], weights[truth]))
            values.append(_mean(~positive[~truth], weights[~truth]))
            values += roc(truth, chance, weights)
        values.append(calibration_error(labels, probabilities, weights))
        return np.array([np.nan if value is None else value for value in values])

    return weighted


def _mean(hits: npt.NDArray[np.bool_], weights: Float64) -> float | None:
    return float(np.average(hits, weights=weights)) if weights.sum() else None


def _shaped(
    ends: Mapping[str, Interval], exact: Mapping[str, tuple[float, float]]
) -> ScoreIntervals:
    """The bootstrap's intervals under their names, exact ones in place of some."""
    named: dict[str, Interval] = {name: with_width(ends.get(name)) for name in _NAMES}
    named.update(exact)

    def by_grade(score: str) -> list[Interval]:
        return [named[f"{score}.{grade}"] for grade in range(_K)]

    def cut(title: str) -> CutIntervals:
        return CutIntervals(
            **{name: named[f"{title}.{name}"] for name in _CUT},
            exact=[name for name in _CUT if f"{title}.{name}" in exact],
        )

    return ScoreIntervals(
        **{name: named[name] for name in GRADE_STATISTICS},
        recall=by_grade("recall"),
        precision=by_grade("precision"),
        auc=by_grade("auc"),
        referable=cut("referable"),
        sight_threatening=cut("sight_threatening"),
        calibration_error=named["calibration_error"],
        exact=[name for name in _NAMES if name in exact and name not in _OF_CUTS],
    )


def with_width(interval: Interval) -> Interval:
    """The interval, or None for one without width: no resample has told anything."""
    return None if interval is None or interval[0] == interval[1] else interval
