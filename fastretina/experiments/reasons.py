"""Why a cell's result is as it is: said only where the result bears it out.

    Cell.reasons + comparisons + collapse  ->  explain()  ->  the sentences that hold

A reason names the measured difference that it explains. Where the interval of that
difference excludes 0 in the direction claimed, the reason is given. Where no statistic
of the pair is clear, the cell is inside the noise; otherwise nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fastretina.report.experiment_file import Comparison

INSIDE_THE_NOISE = "Inside the noise: no difference to explain."


@dataclass(frozen=True, slots=True)
class Shift:
    """A clear difference between the reason's cell and another one.

    Attributes:
        against: name of the other cell, which the plan must pair this cell with.
        statistic: one of ``bootstrap.GRADE_STATISTICS``.
        direction: in which this cell differs.
    """

    against: str
    statistic: Literal["accuracy", "balanced_accuracy", "qwk"]
    direction: Literal["better", "worse"]

    def shown_by(self, comparison: Comparison) -> bool:
        """Whether a comparison shows this difference, beyond its interval."""
        sign = 1 if self.direction == "better" else -1
        return comparison.clear and (comparison.value or 0) * sign > 0


@dataclass(frozen=True, slots=True)
class OneGrade:
    """A collapse to one grade that is always predicted.

    Attributes:
        commonest: whether that grade is the commonest one on test, or another.
    """

    commonest: bool


@dataclass(frozen=True, slots=True)
class Reason:
    """A sentence, and what must have been measured before it is given."""

    text: str
    when: Shift | OneGrade


def explain(
    cell: str,
    reasons: Sequence[Reason],
    comparisons: Sequence[Comparison],
    collapsed_to: OneGrade | None,
) -> list[str]:
    """The reasons of a cell that its result bears out.

    Args:
        cell: its name.
        reasons: what might be said of it.
        comparisons: all that the experiment has by now.
        collapsed_to: what the cell fell to, if it did.

    Returns:
        Their texts; or one sentence where the cells that they ask about differ in no
        statistic.
    """
    measured = {
        (each.second, each.statistic): each
        for each in comparisons
        if each.first == cell
    }
    apart = {second for (second, _), each in measured.items() if each.clear}
    texts: list[str] = []
    noise: list[bool] = []
    for reason in reasons:
        when = reason.when
        if isinstance(when, OneGrade):
            holds = when == collapsed_to
        else:
            comparison = measured.get((when.against, when.statistic))
            holds = comparison is not None and when.shown_by(comparison)
            noise.append(comparison is not None and when.against not in apart)
        if holds:
            texts.append(reason.text)
    if not texts and noise and all(noise):
        return [INSIDE_THE_NOISE]
    return texts
