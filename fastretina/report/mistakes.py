"""The mistakes that a network is surest of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastretina.metrics.predictions import Predictions
from fastretina.report.grade_meanings import MEANINGS, grade_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """A photograph that the network graded otherwise than people did.

    Attributes:
        place: Place in the predictions, from 0.
        row: Row of the split's index.
        key: Name of the sample.
        true: Grade that people gave, 0 to 4.
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


def most_confident(test: Predictions, number: int) -> list[Mistake]:
    """The mistakes of the highest probability, the surest first; at most ``number``."""
    confidence = test.probabilities.max(axis=1)
    wrong = np.flatnonzero(test.grades != test.labels)
    order: Sequence[int] = wrong[np.argsort(-confidence[wrong], kind="stable")].tolist()
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
