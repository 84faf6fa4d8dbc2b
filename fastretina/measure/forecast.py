"""How long training will take, from speeds that were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastretina.formatting import format_duration
from fastretina.recipe import PHASES, Phase, Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """The time that a recipe takes on all of a data set.

    Attributes:
        recipe: the recipe that is trained.
        epoch_seconds: seconds of one epoch of each phase, with its evaluation on the
            validation images.
        recipe_seconds: seconds of all epochs and the last evaluation on test.
    """

    recipe: Recipe
    epoch_seconds: Mapping[Phase, float]
    recipe_seconds: float

    def sentences(self) -> list[str]:
        """The forecast in plain words."""
        head, full = (format_duration(self.epoch_seconds[phase]) for phase in PHASES)
        recipe = self.recipe
        return [
            f"An epoch of the head takes {head}, one of the whole network {full}; the "
            f"{recipe.recipe} recipe ({recipe.head_epochs} + {recipe.full_epochs} "
            f"epochs, with evaluations) {format_duration(self.recipe_seconds)}."
        ]

    def summary(self) -> dict[str, object]:
        """The seconds under their JSON keys, rounded."""
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
    """Add up the epochs and evaluations of a recipe.

    Args:
        recipe: whose epochs are counted.
        train: images of the training split, of which the recipe holds some out for
            validation.
        test: images of the test split.
        speeds: images/s of training in each phase.
        evaluation: images/s of evaluation.
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
