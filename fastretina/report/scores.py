"""The scores of a finished run as records: each an estimate with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fastretina.formatting import format_interval
from fastretina.report.json_values import (
    Interval,
    items,
    mapping,
    number,
    optional_interval,
    optional_number,
    whole,
)
from loaders.grades import GRADES


class Estimate(NamedTuple):
    """One score on test.

    Attributes:
        value: None where it is undefined, as the recall of an absent grade is.
        interval: low and high end of the 95% interval; None where there is none.
    """

    value: float | None
    interval: Interval | None = None

    def format(self, form: str) -> str:
        """The score with its interval, e.g. ``82.9% [78.0, 87.4]``."""
        return format_interval(self.value, self.interval, form)


class PointScores(NamedTuple):
    """The scores of one way to choose the grades; QWK of one grade is undefined."""

    accuracy: Estimate
    balanced_accuracy: Estimate
    qwk: Estimate
    macro_f1: Estimate


class CutScores(NamedTuple):
    """How well the photographs at or beyond one clinical cut are recognised."""

    sensitivity: Estimate
    specificity: Estimate
    auc: Estimate
    sensitivity_at_specificity: Estimate


class RunScores(NamedTuple):
    """All scores on the test photographs.

    Attributes:
        samples: Number of test photographs.
        confusion: Counts, a row of five for each true grade.
        point: Scores of the likeliest grades.
        recall: Recall of each grade.
        precision: Precision of each grade.
        auc: Area under the ROC curve of each grade against all others.
        referable: Scores of the cut at grade 2.
        sight_threatening: Scores of the cut at grade 3.
        calibration_error: Expected calibration error, 0 to 1.
        collapse: A sentence where the network gives one grade to all; else None.
    """

    samples: int
    confusion: Sequence[Sequence[int]]
    point: PointScores
    recall: Sequence[Estimate]
    precision: Sequence[Estimate]
    auc: Sequence[Estimate]
    referable: CutScores
    sight_threatening: CutScores
    calibration_error: Estimate
    collapse: str | None

    @property
    def cuts(self) -> tuple[CutScores, CutScores]:
        """Scores of the clinical cuts, in the order of ``grade_meanings.CUTS``."""
        return self.referable, self.sight_threatening

    @property
    def undefined(self) -> list[bool]:
        """Which scores are undefined, of those that can be."""
        cuts = [*self.referable, *self.sight_threatening]
        estimates = [*self.recall, *self.precision, *self.auc, *cuts]
        return [each.value is None for each in (self.point.qwk, *estimates)]


def read_test_scores(value: object) -> RunScores:
    """The scores as ``metrics.scores.score`` gives them, without their intervals.

    Raises:
        KeyError: one is missing.
        ValueError: one is of another kind.
    """
    raw = mapping(value)
    collapse = raw.get("collapse")
    return RunScores(
        samples=whole(raw["samples"]),
        confusion=_counts(raw["confusion"]),
        point=read_point(raw),
        recall=_by_grade(raw["recall"]),
        precision=_by_grade(raw["precision"]),
        auc=_by_grade(raw["auc"]),
        referable=_cut(raw["referable"]),
        sight_threatening=_cut(raw["sight_threatening"]),
        calibration_error=Estimate(number(raw["calibration_error"])),
        collapse=None if collapse is None else str(collapse),
    )


def read_point(raw: Mapping[str, object]) -> PointScores:
    """The scores of one operating point, without their intervals.

    Raises:
        KeyError: one is missing.
        ValueError: one is no number.
    """
    read = {"qwk": optional_number}
    return PointScores(
        *(Estimate(read.get(name, number)(raw[name])) for name in PointScores._fields)
    )


def with_point_intervals(
    scores: PointScores, intervals: Mapping[str, object]
) -> PointScores:
    """The same scores, with their intervals as far as there are any.

    Raises:
        ValueError: one is no interval.
    """
    return PointScores(
        *(
            _with(score, intervals.get(name))
            for name, score in zip(scores._fields, scores, strict=True)
        )
    )


def with_intervals(scores: RunScores, intervals: Mapping[str, object]) -> RunScores:
    """The same scores, each with its interval.

    Args:
        scores: Scores without intervals.
        intervals: An interval or None in the place of each score.

    Raises:
        KeyError: one is missing.
        ValueError: one is no interval.
    """
    for name in PointScores._fields:
        if name not in intervals:
            raise KeyError(name)
    return scores._replace(
        point=with_point_intervals(scores.point, intervals),
        recall=_with_each(scores.recall, intervals["recall"]),
        precision=_with_each(scores.precision, intervals["precision"]),
        auc=_with_each(scores.auc, intervals["auc"]),
        referable=_cut_with(scores.referable, intervals["referable"]),
        sight_threatening=_cut_with(
            scores.sight_threatening, intervals["sight_threatening"]
        ),
        calibration_error=_with(
            scores.calibration_error, intervals["calibration_error"]
        ),
    )


def _with(score: Estimate, interval: object) -> Estimate:
    return Estimate(score.value, optional_interval(interval))


def _with_each(scores: Sequence[Estimate], intervals: object) -> list[Estimate]:
    return [_with(*both) for both in zip(scores, items(intervals), strict=True)]


def _cut_with(scores: CutScores, value: object) -> CutScores:
    raw = mapping(value)
    names = CutScores._fields
    return CutScores(
        *(_with(each, raw[name]) for name, each in zip(names, scores, strict=True))
    )


def _cut(value: object) -> CutScores:
    raw = mapping(value)
    return CutScores(
        *(Estimate(optional_number(raw[name])) for name in CutScores._fields)
    )


def _by_grade(value: object) -> list[Estimate]:
    scores = [Estimate(optional_number(each)) for each in items(value)]
    if len(scores) != len(GRADES):
        raise ValueError(f"a score of each grade was expected, got {value!r}")
    return scores


def _counts(value: object) -> list[list[int]]:
    return [[whole(count) for count in items(row)] for row in items(value)]
