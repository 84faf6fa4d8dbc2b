"""How long a run will still take, from how long its epochs have taken until now."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastretina.formatting import format_duration
from fastretina.recipe import PHASES, Phase, Recipe
from fastretina.run import LoggedEpoch


def describe_outlook(
    recipe: Recipe,
    rows: Sequence[LoggedEpoch],
    position: float,
    epoch_seconds: float,
    around_seconds: float,
) -> str:
    """The time that is left of a run, e.g. ``run: 12 minutes left``.

    While phase 2 has not begun nobody knows how long its epochs will take, but not
    less than those of phase 1: then the time is ``over 12 minutes``.

    Args:
        recipe: says how many epochs there are.
        rows: the epochs that are done.
        position: epochs done, the share of the present one included.
        epoch_seconds: what the present epoch will take, all of it.
        around_seconds: what an evaluation has taken; 0 before the first.
    """
    here = recipe.phase(min(int(position), recipe.epochs - 1))
    known: dict[Phase, float] = {row.phase: row.seconds for row in rows}
    known[here] = epoch_seconds
    left = {
        "head": max(recipe.head_epochs - position, 0.0),
        "full": recipe.epochs - max(position, recipe.head_epochs),
    }
    seconds = sum(left[phase] * known.get(phase, epoch_seconds) for phase in PHASES)
    seconds += math.ceil(recipe.epochs - position) * around_seconds
    sure = all(phase in known or not left[phase] for phase in PHASES)
    return f"run: {'' if sure else 'over '}{format_duration(seconds)} left"
