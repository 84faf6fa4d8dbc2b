"""The tables of a run's page and card: rows whose cells are formatted already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import NamedTuple

from fastretina.metrics.scores import FIXED_SPECIFICITY
from fastretina.report.finished_run import FinishedRun
from fastretina.report.grade_meanings import CUTS, grade_name
from fastretina.report.scores import PointScores
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
    scores = finished.scores
    return [
        GradeRow(
            name=grade_name(grade),
            support=f"{sum(scores.confusion[grade]):,}",
            recall=scores.recall[grade].format(".1%"),
            precision=scores.precision[grade].format(".1%"),
            auc=scores.auc[grade].format(".3f"),
        )
        for grade in range(len(GRADES))
    ]


def cut_rows(finished: FinishedRun) -> list[CutRow]:
    """A row for each clinical cut."""
    return [
        CutRow(
            name=cut.title[:1].upper() + cut.title[1:],
            sensitivity=scores.sensitivity.format(".1%"),
            specificity=scores.specificity.format(".1%"),
            auc=scores.auc.format(".3f"),
            sensitivity_at_specificity=scores.sensitivity_at_specificity.format(".1%"),
        )
        for cut, scores in zip(CUTS, finished.scores.cuts, strict=True)
    ]


def baseline_rows(finished: FinishedRun) -> list[PointRow]:
    """A row for the model, then one for each rule that sees no photograph."""
    return [
        _point_row("This model", finished.scores.point),
        *(
            _point_row(f"Without a pixel: {rule.about}", rule.scores)
            for rule in finished.metrics.baselines
        ),
    ]


def operating_point_rows(finished: FinishedRun) -> list[PointRow]:
    """A row for each way to choose the grade from the probabilities; one at least."""
    rows = [_point_row("The likeliest grade", finished.scores.point)]
    if calibrated := finished.metrics.calibrated:
        rows.append(
            _point_row("Thresholds on the expected grade", calibrated.thresholds)
        )
    if corrected := finished.metrics.prior_corrected:
        rows.append(_point_row("The likeliest, class weights undone", corrected))
    return rows


def _point_row(name: str, scores: PointScores) -> PointRow:
    return PointRow(
        name=name,
        accuracy=scores.accuracy.format(".1%"),
        balanced_accuracy=scores.balanced_accuracy.format(".1%"),
        qwk=scores.qwk.format(".3f"),
        macro_f1=scores.macro_f1.format(".3f"),
    )


def environment(finished: FinishedRun) -> list[Group]:
    """Config and environment, without the groups that are empty."""
    config, metrics = finished.config.raw, finished.metrics.raw
    plain = {
        name: value for name, value in config.items() if not isinstance(value, dict)
    }
    checkpoint = {name: metrics[name] for name in _CHECKPOINT_KEYS if name in metrics}
    groups = [
        _group("Checkpoint", checkpoint),
        _group("Where and how it ran", plain),
        _group("Recipe", asdict(finished.recipe)),
        _group("Data", finished.config.data.raw),
        _group("Decoding", config.get("decoding")),
        _group("Versions", config.get("versions")),
    ]
    return [group for group in groups if group.rows]


def _group(title: str, values: object) -> Group:
    return Group(title, list(_flattened(values)) if isinstance(values, dict) else [])


def _flattened(
    values: Mapping[str, object], prefix: str = ""
) -> Iterator[tuple[str, str]]:
    """Names and values as text; of an object within, ``outer.inner``."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", ", ".join(map(str, value)) or "none"
        else:
            yield f"{prefix}{name}", "none" if value is None else str(value)
