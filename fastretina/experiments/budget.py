"""How much an experiment may cost: fewer epochs, pixels and samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from fastretina.recipe import Recipe

BudgetName = Literal["full", "small", "tiny"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Limits that a recipe is scaled to.

    Attributes:
        epochs: share of each phase's epochs; at least one is left.
        image_size: at most so many pixels square; None for as many as there are.
        train_samples: at most so many to train on; None for all.
        test_samples: at most so many to test on; None for all.
    """

    epochs: float = 1.0
    image_size: int | None = None
    train_samples: int | None = None
    test_samples: int | None = None

    def scaled(self, recipe: Recipe, pixels: int) -> Recipe:
        """The recipe within these limits, for images of so many pixels."""
        size = min(self.image_size, pixels) if self.image_size else None
        return replace(
            recipe,
            head_epochs=math.ceil(recipe.head_epochs * self.epochs),
            full_epochs=math.ceil(recipe.full_epochs * self.epochs),
            image_size=size or recipe.image_size,
            train_samples=self.train_samples,
            test_samples=self.test_samples,
        )


BUDGETS: dict[BudgetName, Budget] = {
    "full": Budget(),
    "small": Budget(epochs=0.4, image_size=128, train_samples=1000, test_samples=1000),
    "tiny": Budget(epochs=0.1, image_size=64, train_samples=160, test_samples=160),
}
