"""Scores, and how sure each of them is: 95 % intervals over patients.

Most are a bootstrap's. Shares of few cases have an exact interval instead; and what no
resample changes has none, as an interval without width would say that it is certain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated

from fastretina.metrics.bootstrap import Interval, patient_intervals, with_width
from fastretina.metrics.proportions import accuracy_share, exact_intervals, shares_of
from fastretina.metrics.reliability import calibration_error, calibration_errors
from fastretina.metrics.scores import PER_GRADE, Scores, score, score_grades
from fastretina.metrics.statistics import (
    BY_CUT,
    GRADE_STATISTICS,
    OF_CUTS,
    SCORE_STATISTICS,
    grade_statistics,
    score_statistics,
)
from loaders.arrays import Float64, Int64
from loaders.grades import GRADES


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
    scores = score(labels, probabilities, grades)
    statistics = score_statistics(labels, grades, probabilities)
    ends = patient_intervals(statistics, patients)
    return ScoresWithIntervals(
        **{each.name: getattr(scores, each.name) for each in fields(scores)},
        intervals=_shaped(
            dict(zip(SCORE_STATISTICS, ends, strict=True)),
            exact_intervals(shares_of(labels, grades), patients),
        ),
    )


def score_grades_with_intervals(
    labels: Int64, predicted: Int64, patients: Sequence[str]
) -> OperatingPoint:
    """Score predicted grades, int64[N], alone."""
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

    def errors(weights: Float64) -> Float64:
        return calibration_errors(labels, probabilities, weights)[None]

    (interval,) = patient_intervals(errors, patients)
    return calibration_error(labels, probabilities), with_width(interval)


def _shaped(
    ends: Mapping[str, Interval], exact: Mapping[str, tuple[float, float]]
) -> ScoreIntervals:
    """The bootstrap's intervals under their names, exact ones in place of some."""
    named: dict[str, Interval] = {
        name: with_width(ends.get(name)) for name in SCORE_STATISTICS
    }
    named.update(exact)

    def by_grade(score: str) -> list[Interval]:
        return [named[f"{score}.{grade}"] for grade in range(len(GRADES))]

    def cut(title: str) -> CutIntervals:
        return CutIntervals(
            **{name: named[f"{title}.{name}"] for name in BY_CUT},
            exact=[name for name in BY_CUT if f"{title}.{name}" in exact],
        )

    return ScoreIntervals(
        **{name: named[name] for name in GRADE_STATISTICS},
        recall=by_grade("recall"),
        precision=by_grade("precision"),
        auc=by_grade("auc"),
        referable=cut("referable"),
        sight_threatening=cut("sight_threatening"),
        calibration_error=named["calibration_error"],
        exact=[
            name for name in SCORE_STATISTICS if name in exact and name not in OF_CUTS
        ],
    )
