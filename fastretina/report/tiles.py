"""The tiles of the first screen: each a score on a bar, beside rules without pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastretina.formatting import format_interval
from fastretina.metrics.bootstrap import Interval
from fastretina.report.finished_run import FinishedRun
from loaders.grades import REFERABLE, SIGHT_THREATENING


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
        exact: Whether the interval is exact, and not a bootstrap's.
        about: What the score means, in half a sentence.
        bar: Low, value and high, 0 to 100; None where the score is undefined.
        marks: Scores of the rules without pixels.
        best_mark: The highest of these scores, formatted; empty without them.
    """

    name: str
    value: str
    interval: str
    exact: bool
    about: str
    bar: tuple[float, float, float] | None
    marks: Sequence[Mark] = ()
    best_mark: str = ""


def tiles(finished: FinishedRun) -> list[Tile]:
    """The six scores of the first screen: three of all grades, three of the cuts."""
    return [*_tiles_of_grades(finished), *_tiles_of_cuts(finished)]


def _tiles_of_grades(finished: FinishedRun) -> list[Tile]:
    scores, ends = finished.scores, finished.scores.intervals
    rules = finished.evaluation.rules
    return [
        _tile(
            "Accuracy",
            "graded right",
            (scores.accuracy, ends.accuracy),
            ".1%",
            [(rule.about, rule.accuracy) for rule in rules],
            exact="accuracy" in ends.exact,
        ),
        _tile(
            "QWK",
            "agreement beyond chance; far-off grades count most",
            (scores.qwk, ends.qwk),
            ".3f",
            [(rule.about, rule.qwk) for rule in rules],
        ),
        _tile(
            "Balanced accuracy",
            "the mean over grades: rare ones count as much",
            (scores.balanced_accuracy, ends.balanced_accuracy),
            ".1%",
            [(rule.about, rule.balanced_accuracy) for rule in rules],
        ),
    ]


def _tiles_of_cuts(finished: FinishedRun) -> list[Tile]:
    scores, ends = finished.scores.referable, finished.scores.intervals.referable
    worse = finished.scores.sight_threatening
    worse_ends = finished.scores.intervals.sight_threatening
    below = " or ".join(str(grade) for grade in range(REFERABLE))
    return [
        _tile(
            "Referable DR: sensitivity",
            f"found, of grade {REFERABLE} or worse",
            (scores.sensitivity, ends.sensitivity),
            ".1%",
            exact="sensitivity" in ends.exact,
        ),
        _tile(
            "Referable DR: specificity",
            f"left alone, of grade {below}",
            (scores.specificity, ends.specificity),
            ".1%",
            exact="specificity" in ends.exact,
        ),
        _tile(
            "Sight-threatening DR: sensitivity",
            f"recognised as such, of grade {SIGHT_THREATENING} or worse",
            (worse.sensitivity, worse_ends.sensitivity),
            ".1%",
            exact="sensitivity" in worse_ends.exact,
        ),
    ]


def _tile(
    name: str,
    about: str,
    score: tuple[float | None, Interval],
    form: str,
    rules: Sequence[tuple[str, float | None]] = (),
    *,
    exact: bool = False,
) -> Tile:
    value, _, interval = format_interval(*score, form).partition(" ")
    marks = [(rule, mark) for rule, mark in rules if mark is not None]
    return Tile(
        name=name,
        value=value,
        interval=interval.strip("[]").replace(", ", " to "),
        exact=exact,
        about=about,
        bar=_bar(*score),
        best_mark=format(max(mark for _, mark in marks), form) if marks else "",
        marks=tuple(Mark(name=rule, place=_place(mark)) for rule, mark in marks),
    )


def _bar(value: float | None, interval: Interval) -> tuple[float, float, float] | None:
    if value is None:
        return None
    low, high = interval or (value, value)
    return _place(low), _place(value), _place(high)


def _place(score: float) -> float:
    """On a bar from 0 to 1, in hundredths; below chance is at its end."""
    return round(100 * min(max(score, 0.0), 1.0), 2)
