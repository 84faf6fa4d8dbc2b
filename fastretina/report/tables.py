"""The tables of a run's page and card: rows whose cells are formatted already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fastretina.formatting import format_interval
from fastretina.metrics.baselines import Baseline
from fastretina.metrics.intervals import (
    NO_INTERVALS,
    CutIntervals,
    GradeIntervals,
    OperatingPoint,
    ScoresWithIntervals,
)
from fastretina.metrics.roc_steps import FIXED_SPECIFICITY
from fastretina.metrics.scores import CutScores
from fastretina.report.finished_run import FinishedRun
from fastretina.report.grade_meanings import grade_name
from fastretina.wall_clock import WallSeconds
from loaders.grades import GRADES

SPECIFICITY = f"{FIXED_SPECIFICITY:.0%}"  # at which sensitivity is compared
_CHECKPOINT_KEYS = (
    "checkpoint",
    "checkpoint_epoch",
    "weights_sha256",
    "seconds",
    "parameters",
)


class PointRow(NamedTuple):
    """Scores of one way to grade, with intervals; ``name`` says which."""

    name: str
    accuracy: str
    balanced_accuracy: str
    qwk: str
    macro_f1: str


class GradeRow(NamedTuple):
    """Scores of one grade, with intervals; ``support`` counts its photographs."""

    name: str
    support: str
    recall: str
    precision: str
    auc: str


class CutRow(NamedTuple):
    """Scores of one clinical cut, with intervals; ``name`` says which."""

    name: str
    sensitivity: str
    specificity: str
    auc: str
    sensitivity_at_specificity: str


class Group(NamedTuple):
    """Part of the config or environment: names and values under a title."""

    title: str
    rows: list[tuple[str, str]]


def grade_rows(finished: FinishedRun) -> list[GradeRow]:
    """A row for each grade."""
    scores, ends = finished.scores, finished.scores.intervals
    return [
        GradeRow(
            name=grade_name(grade),
            support=f"{sum(scores.confusion[grade]):,}",
            recall=format_interval(
                scores.recall[grade],
                ends.recall[grade],
                ".1%",
                exact=f"recall.{grade}" in ends.exact,
            ),
            precision=format_interval(
                scores.precision[grade],
                ends.precision[grade],
                ".1%",
                exact=f"precision.{grade}" in ends.exact,
            ),
            auc=format_interval(scores.auc[grade], ends.auc[grade], ".3f"),
        )
        for grade in range(len(GRADES))
    ]


def cut_rows(finished: FinishedRun) -> list[CutRow]:
    """A row for each clinical cut."""
    return [
        _cut_row(cut.title[:1].upper() + cut.title[1:], scores, ends)
        for cut, scores, ends in finished.cuts
    ]


def _cut_row(name: str, scores: CutScores, ends: CutIntervals) -> CutRow:
    sensitivity, specificity = (
        format_interval(value, interval, ".1%", exact=which in ends.exact)
        for which, value, interval in (
            ("sensitivity", scores.sensitivity, ends.sensitivity),
            ("specificity", scores.specificity, ends.specificity),
        )
    )
    return CutRow(
        name=name,
        sensitivity=sensitivity,
        specificity=specificity,
        auc=format_interval(scores.auc, ends.auc, ".3f"),
        sensitivity_at_specificity=format_interval(
            scores.sensitivity_at_specificity, ends.sensitivity_at_specificity, ".1%"
        ),
    )


def baseline_rows(finished: FinishedRun) -> list[PointRow]:
    """A row for the model, then one for each rule that sees no photograph."""
    return [
        _point_row("This model", finished.scores, finished.scores.intervals),
        *(
            _point_row(f"Without a pixel: {rule.about}", rule, NO_INTERVALS)
            for rule in finished.evaluation.rules
        ),
    ]


def operating_point_rows(finished: FinishedRun) -> list[PointRow]:
    """A row for each way to choose the grade from the probabilities; one at least."""
    evaluation = finished.evaluation
    points: list[tuple[str, ScoresWithIntervals | OperatingPoint]] = [
        ("The likeliest grade", evaluation.test)
    ]
    if evaluation.calibrated:
        points.append(
            ("Thresholds on the expected grade", evaluation.calibrated.thresholds)
        )
    if evaluation.prior_corrected:
        points.append(
            ("The likeliest, class weights undone", evaluation.prior_corrected)
        )
    return [_point_row(name, point, point.intervals) for name, point in points]


def _point_row(
    name: str,
    scores: ScoresWithIntervals | OperatingPoint | Baseline,
    ends: GradeIntervals,
) -> PointRow:
    balanced = format_interval(scores.balanced_accuracy, ends.balanced_accuracy, ".1%")
    return PointRow(
        name=name,
        accuracy=format_interval(
            scores.accuracy, ends.accuracy, ".1%", exact="accuracy" in ends.exact
        ),
        balanced_accuracy=balanced,
        qwk=format_interval(scores.qwk, ends.qwk, ".3f"),
        macro_f1=format_interval(scores.macro_f1, ends.macro_f1, ".3f"),
    )


def environment(finished: FinishedRun) -> list[Group]:
    """Config and environment, without the groups that are empty."""
    config, result = finished.config.as_json(), finished.result
    plain = {
        name: value for name, value in config.items() if not isinstance(value, dict)
    }
    checkpoint = {
        name: value
        for name in _CHECKPOINT_KEYS
        if (value := getattr(result, name)) is not None
    }
    groups = [
        _group("Checkpoint", checkpoint),
        _group("Where and how it ran", plain),
        _group("Recipe", config.get("recipe")),
        _group("Data", config.get("data")),
        _group("Loading", config.get("loading")),
        _group("Decoding", config.get("decoding")),
        _group("Versions", config.get("versions")),
        Group("Wall clock", _seconds_by_part(result.wall_seconds)),
    ]
    return [group for group in groups if group.rows]


def _seconds_by_part(seconds: WallSeconds | None) -> list[tuple[str, str]]:
    """Each part of a run's time, and the share that it has, the largest first."""
    if seconds is None:  # of an older version
        return []
    parts = seconds.as_json()
    total = max(parts.pop("total"), 0.01)
    rows = sorted(parts.items(), key=lambda row: -row[1])
    return [
        ("total", f"{total:,.1f} s"),
        *((name, f"{each:,.1f} s, {each / total:.0%}") for name, each in rows),
    ]


def _group(title: str, values: object) -> Group:
    return Group(title, list(_flattened(values)) if isinstance(values, dict) else [])


def _flattened(
    values: Mapping[str, object], prefix: str = ""
) -> Iterator[tuple[str, str]]:
    """Names and values as text; of an object within, ``outer.inner``."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", ", ".join(map(str, value)) or "none"
        else:
            yield f"{prefix}{name}", "none" if value is None else str(value)
