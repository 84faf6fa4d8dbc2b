"""The mistakes that are worth a look: the surest, the farthest off, the dangerous."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastretina.metrics.predictions import Predictions
from fastretina.report.grade_meanings import MEANINGS, grade_name
from loaders.arrays import Int64
from loaders.grades import REFERABLE, SIGHT_THREATENING


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """A photograph that the network graded wrong.

    Attributes:
        place: Place in the predictions, from 0.
        row: Row of the split's index.
        key: Name of the sample.
        true: The true grade, 0 to 4.
        predicted: Grade that the network gave, 0 to 4.
        probability: Probability of the predicted grade, 0 to 1.
        true_probability: Probability of the true grade, 0 to 1.
    """

    place: int
    row: int
    key: str
    true: int
    predicted: int
    probability: float
    true_probability: float

    @property
    def true_name(self) -> str:
        """The true grade, e.g. ``1 Mild``."""
        return grade_name(self.true)

    @property
    def true_meaning(self) -> str:
        """What the true grade means, e.g. ``microaneurysms only``."""
        return MEANINGS[self.true]

    @property
    def predicted_name(self) -> str:
        """The predicted grade, e.g. ``1 Mild``."""
        return grade_name(self.predicted)

    @property
    def predicted_meaning(self) -> str:
        """What the predicted grade means, e.g. ``microaneurysms only``."""
        return MEANINGS[self.predicted]


@dataclass(frozen=True, kw_only=True, slots=True)
class MistakeList:
    """Mistakes of one kind.

    Attributes:
        id: Names the list within the page.
        title: What kind they are of.
        about: What they are and how they are sorted, a sentence.
        total: How many of that kind there are on test.
        shown: The first of them.
    """

    id: str
    title: str
    about: str
    total: int
    shown: Sequence[Mistake]


def list_mistakes(test: Predictions, number: int) -> list[MistakeList]:
    """Four kinds of mistakes, at most ``number`` of each; one may be in several."""
    off = np.abs(test.labels - test.grades)

    def missed(least: int) -> Int64:
        return np.flatnonzero((test.labels >= least) & (test.grades < least))

    wrong, referable, worse = (
        np.flatnonzero(off),
        missed(REFERABLE),
        missed(SIGHT_THREATENING),
    )
    return [
        MistakeList(
            id="surest",
            title="The mistakes it is surest of",
            about="Of all mistakes, those of the highest probability, the surest "
            "first.",
            total=len(wrong),
            shown=_first(test, wrong, number),
        ),
        MistakeList(
            id="farthest",
            title="The farthest from the true grade",
            about="Of all mistakes, those of the most grades between the true one "
            "and the network's, the surest of each distance first.",
            total=len(wrong),
            shown=_first(test, wrong, number, off),
        ),
        MistakeList(
            id="missed-referable",
            title="Missed referrals",
            about=f"True grade {REFERABLE} or worse, below {REFERABLE} by the "
            "network: these patients would not have been seen by an ophthalmologist. "
            "The surest first.",
            total=len(referable),
            shown=_first(test, referable, number),
        ),
        MistakeList(
            id="missed-sight-threatening",
            title="Missed sight-threatening disease",
            about=f"True grade {SIGHT_THREATENING} or worse, below "
            f"{SIGHT_THREATENING} by the network: these patients would have been seen "
            "late, or not at all. The surest first.",
            total=len(worse),
            shown=_first(test, worse, number),
        ),
    ]


def distinct(lists: Sequence[MistakeList]) -> list[Mistake]:
    """Every mistake of the lists once, in the order in which they come."""
    return list({each.place: each for some in lists for each in some.shown}.values())


def _first(
    test: Predictions, places: Int64, number: int, off: Int64 | None = None
) -> list[Mistake]:
    """The surest of the mistakes at these places, int64[M]; the farthest off before."""
    sure = -test.probabilities.max(axis=1)[places]
    keys = (sure,) if off is None else (sure, -off[places])
    order: list[int] = places[np.lexsort(keys)].tolist()
    return [_mistake(test, place) for place in order[:number]]


def _mistake(test: Predictions, place: int) -> Mistake:
    true, predicted = int(test.labels[place]), int(test.grades[place])
    return Mistake(
        place=place,
        row=int(test.rows[place]),
        key=test.keys[place],
        true=true,
        predicted=predicted,
        probability=float(test.probabilities[place, predicted]),
        true_probability=float(test.probabilities[place, true]),
    )
