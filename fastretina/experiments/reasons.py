"""Why a cell's result is as it is: said only where the result bears it out.

    Cell.reasons + comparisons + collapse  ->  explain()  ->  the sentences that hold

A reason names the measured differences that it explains. Where the interval of each of
them excludes 0 in the direction claimed, the reason is given; but of a cell that has
collapsed to one grade nothing explains why it is better. Where the differences
have intervals and no statistic of the pairs is clear, the cell is inside the noise;
otherwise nothing is said.
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
        statistic: one of ``statistics.GRADE_STATISTICS``.
        direction: in which this cell differs.
    """

    against: str
    statistic: Literal["accuracy", "balanced_accuracy", "qwk"]
    direction: Literal["better", "worse"]

    def shown_by(self, comparison: Comparison) -> bool:
        """Whether a comparison shows this difference, beyond its interval."""
        sign = 1 if self.direction == "better" else -1
        if self.direction == "better" and comparison.by_one_grade:
            return False
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
    """A sentence, and what must all have been measured before it is given."""

    text: str
    when: tuple[Shift | OneGrade, ...]


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

    def holds(condition: Shift | OneGrade) -> bool:
        if isinstance(condition, OneGrade):
            return condition == collapsed_to
        if collapsed_to is not None and condition.direction == "better":
            return False  # one grade for all is no merit, whatever it is held against
        comparison = measured.get((condition.against, condition.statistic))
        return comparison is not None and condition.shown_by(comparison)

    texts = [reason.text for reason in reasons if all(map(holds, reason.when))]
    if texts:
        return texts
    apart = {second for (second, _), each in measured.items() if each.clear}

    def is_noise(shift: Shift) -> bool:
        comparison = measured.get((shift.against, shift.statistic))
        known = comparison is not None and comparison.interval is not None
        return known and shift.against not in apart

    conditions = [condition for reason in reasons for condition in reason.when]
    shifts = [condition for condition in conditions if isinstance(condition, Shift)]
    return [INSIDE_THE_NOISE] if shifts and all(map(is_noise, shifts)) else []
