"""The tiles of the first screen: each a score on a bar, beside rules without pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastretina.report.finished_run import FinishedRun
from fastretina.report.scores import Estimate
from loaders.grades import REFERABLE


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """The score of a rule without pixels, on a tile's bar.

    Attributes:
        name: What the rule does.
        place: Place on the bar, 0 to 100.
    """

    name: str
    place: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One score.

    Attributes:
        name: Name of the score.
        value: The score, formatted.
        interval: Its 95% interval, formatted; empty where there is none.
        about: What the score means, in half a sentence.
        bar: Low, value and high, 0 to 100; None where the score is undefined.
        marks: Scores of the rules without pixels.
        best_mark: The highest of these scores, formatted; empty without them.
    """

    name: str
    value: str
    interval: str
    about: str
    bar: tuple[float, float, float] | None
    marks: Sequence[Mark] = ()
    best_mark: str = ""


def tiles(finished: FinishedRun) -> list[Tile]:
    """The six scores of the first screen: three of all grades, three of one cut."""
    return [*_tiles_of_grades(finished), *_tiles_of_referable(finished)]


def _tiles_of_grades(finished: FinishedRun) -> list[Tile]:
    point, rules = finished.scores.point, finished.metrics.baselines
    return [
        _tile(
            "Accuracy",
            point.accuracy,
            ".1%",
            "graded as people did",
            [(rule.about, rule.scores.accuracy) for rule in rules],
        ),
        _tile(
            "QWK",
            point.qwk,
            ".3f",
            "agreement beyond chance; far-off grades count most",
            [(rule.about, rule.scores.qwk) for rule in rules],
        ),
        _tile(
            "Balanced accuracy",
            point.balanced_accuracy,
            ".1%",
            "the mean over grades: rare ones count as much",
            [(rule.about, rule.scores.balanced_accuracy) for rule in rules],
        ),
    ]


def _tiles_of_referable(finished: FinishedRun) -> list[Tile]:
    cut, name = finished.scores.referable, "Referable DR"
    below = " or ".join(str(grade) for grade in range(REFERABLE))
    return [
        _tile(
            f"{name}: sensitivity",
            cut.sensitivity,
            ".1%",
            f"found, of grade {REFERABLE} or worse",
        ),
        _tile(
            f"{name}: specificity",
            cut.specificity,
            ".1%",
            f"left alone, of grade {below}",
        ),
        _tile(f"{name}: AUC", cut.auc, ".3f", "0.5 is guessing, 1 is perfect"),
    ]


def _tile(
    name: str,
    score: Estimate,
    form: str,
    about: str,
    rules: Sequence[tuple[str, Estimate]] = (),
) -> Tile:
    value, _, interval = score.format(form).partition(" ")
    marks = [(rule, each.value) for rule, each in rules if each.value is not None]
    return Tile(
        name=name,
        value=value,
        interval=interval.strip("[]").replace(", ", " to "),
        about=about,
        bar=_bar(score),
        best_mark=format(max(mark for _, mark in marks), form) if marks else "",
        marks=tuple(Mark(name=rule, place=_place(mark)) for rule, mark in marks),
    )


def _bar(score: Estimate) -> tuple[float, float, float] | None:
    if score.value is None:
        return None
    low, high = score.interval or (score.value, score.value)
    return _place(low), _place(score.value), _place(high)


def _place(score: float) -> float:
    """On a bar from 0 to 1, in hundredths; below chance is at its end."""
    return round(100 * min(max(score, 0.0), 1.0), 2)
