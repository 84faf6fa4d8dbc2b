"""What of a loader's configuration a recipe decides: samples, order and flips."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastretina.recipe import Recipe
from loaders import LoaderConfig

if TYPE_CHECKING:
    from fastretina.nn.distributed import Ranks


def training_config(recipe: Recipe, ranks: Ranks) -> LoaderConfig:
    """Which samples a recipe trains on, in which order, and how they are flipped."""
    return LoaderConfig(
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        shuffle=True,
        balance=recipe.balance,
        balance_decay=recipe.balance_decay,
        hflip=recipe.hflip,
        vflip=recipe.vflip,
        image_size=recipe.image_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
