"""How long training will take, from speeds that were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastretina.doctor.measurements import Measurements
from fastretina.formatting import format_duration
from fastretina.recipe import PHASES, Phase, Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Seconds that a recipe takes, on all of a data set.

    Attributes:
        recipe: what is trained.
        epoch_seconds: of an epoch of each phase, with its evaluation on validation.
        recipe_seconds: of all epochs and the last evaluation on test.
    """

    recipe: Recipe
    epoch_seconds: Mapping[Phase, float]
    recipe_seconds: float

    def sentences(self) -> list[str]:
        """For people."""
        head, full = (format_duration(self.epoch_seconds[phase]) for phase in PHASES)
        recipe = self.recipe
        return [
            f"An epoch of the head takes {head}, one of the whole network {full}; the "
            f"{recipe.recipe} recipe ({recipe.head_epochs} + {recipe.full_epochs} "
            f"epochs, with evaluations) {format_duration(self.recipe_seconds)}."
        ]

    def summary(self) -> dict[str, Any]:
        """As the JSON line holds it."""
        epochs = {p: round(seconds, 2) for p, seconds in self.epoch_seconds.items()}
        return {
            "epoch_seconds": epochs,
            "recipe_seconds": round(self.recipe_seconds, 1),
        }


def forecast(
    recipe: Recipe,
    train: int,
    test: int,
    speeds: Mapping[Phase, float],
    evaluation: float,
) -> Forecast:
    """Add up what a recipe does.

    Args:
        recipe: whose epochs are counted.
        train: images, of which the recipe holds some out for validation.
        test: images.
        speeds: training in each phase, images/s.
        evaluation: images/s.
    """
    held = round(train * recipe.validation)
    each = held + (test if recipe.test_each_epoch else 0)
    epochs: dict[Phase, float] = {
        phase: (train - held) / speeds[phase] + each / evaluation for phase in PHASES
    }
    total = recipe.head_epochs * epochs["head"] + recipe.full_epochs * epochs["full"]
    return Forecast(
        recipe=recipe,
        epoch_seconds=epochs,
        recipe_seconds=total + test / evaluation,
    )


def foreseen(found: Measurements, recipe: Recipe) -> Forecast | None:
    """The forecast for what was measured; None without shards."""
    if found.data is None or found.loading is None:
        return None
    speeds = {phase: training_speed(found, phase) for phase in PHASES}
    # A step of the head is a forward pass and little more, as evaluation is.
    return forecast(recipe, found.data.train, found.data.test, speeds, speeds["head"])


def training_speed(found: Measurements, phase: Phase) -> float:
    """Images/s in a phase: measured end to end, or else what the slower part allows."""
    training = found.training
    if phase in training.end_to_end:
        return training.end_to_end[phase].rate.images_per_second
    step = training.step[phase].images_per_second
    ready = found.loading.ready if found.loading else None
    return min(step, ready.rate.images_per_second) if ready else step
