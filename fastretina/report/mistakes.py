"""The mistakes that a network is surest of, and which ones they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastretina.metrics.predictions import Predictions
from fastretina.report.grade_meanings import MEANINGS, named


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """A photograph that was graded otherwise than by people.

    Attributes:
        place: in the predictions.
        row: of the split's index.
        key: the sample's name.
        true: the grade that people gave.
        said: the grade that the network gave.
        sure: its probability, 0 to 1.
        true_chance: the probability of the true grade.
    """

    place: int
    row: int
    key: str
    true: int
    said: int
    sure: float
    true_chance: float

    @property
    def true_name(self) -> str:
        """E.g. ``1 Mild``."""
        return named(self.true)

    @property
    def true_meaning(self) -> str:
        """E.g. ``microaneurysms only``."""
        return MEANINGS[self.true]

    @property
    def said_name(self) -> str:
        """Of the grade that the network gave."""
        return named(self.said)

    @property
    def said_meaning(self) -> str:
        """Of the same."""
        return MEANINGS[self.said]


def most_confident(test: Predictions, number: int) -> list[Mistake]:
    """The mistakes of the highest probability, the surest first; at most ``number``."""
    sure = test.probabilities.max(axis=1)
    wrong = np.flatnonzero(test.grades != test.labels)
    order: Sequence[int] = wrong[np.argsort(-sure[wrong], kind="stable")].tolist()
    return [_mistake(test, place) for place in order[:number]]


def _mistake(test: Predictions, place: int) -> Mistake:
    true, said = int(test.labels[place]), int(test.grades[place])
    return Mistake(
        place=place,
        row=int(test.rows[place]),
        key=test.keys[place],
        true=true,
        said=said,
        sure=float(test.probabilities[place, said]),
        true_chance=float(test.probabilities[place, true]),
    )
