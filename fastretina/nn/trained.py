"""A finished run's network, as evaluation and prediction use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fastretina.nn import checkpoint
from fastretina.nn.model import build_model, weights_sha256
from fastretina.nn.step import class_weights
from fastretina.recipe import Recipe
from fastretina.run import Run
from fastretina.run_config import RunConfig
from loaders.errors import RunError

CheckpointName = Literal["best", "last"]


@dataclass(frozen=True, slots=True)
class Trained:
    """A network in eval mode, and the run that it comes from.

    Attributes:
        network: takes float32[B, 3, H, W], gives float32[B, 5] logits; on the device
            that was asked for.
        config: what the run was made with.
        checkpoint: the file that the weights come from, ``best`` or ``last``.
        checkpoint_epoch: epochs that it was trained for; 0 for a run just begun.
        weights_sha256: SHA-256 of the network's weights.
    """

    network: nn.Module
    config: RunConfig
    checkpoint: CheckpointName
    checkpoint_epoch: int
    weights_sha256: str

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return self.config.recipe

    @property
    def _last_epoch(self) -> int:
        """The last epoch that the checkpoint was trained in, counted from 0."""
        return max(self.checkpoint_epoch - 1, 0)

    def use_threads(self) -> None:
        """Compute on as many threads as the run, as other sums round otherwise."""
        torch.set_num_threads(self.config.threads)

    def loss_weights(self, counts: Sequence[int] | None) -> list[float] | None:
        """Each grade's weight in the loss of the checkpoint; None where it was plain.

        Args:
            counts: training samples of each grade; None where the run, of an older
                version, has not recorded them, and then the weights are unknown, too.
        """
        recipe = self.recipe
        if counts is None or not recipe.is_weighted(recipe.phase(self._last_epoch)):
            return None
        weights = class_weights(recipe.class_weights, counts)
        return None if weights is None else list(weights.tolist())


def load_trained(run: Run, device: torch.device) -> Trained:
    """Load the checkpoint that the run reports: ``best`` where there is one.

    Raises:
        RunError: the run is not there, has no checkpoint yet, or a damaged one.
    """
    config = run.config()
    chosen: CheckpointName = "best" if run.best.exists() else "last"
    tensors, saved = checkpoint.load(run.path / f"{chosen}.safetensors")
    state = checkpoint.evaluated_weights(tensors)
    network = build_model(config.recipe.arch, "none", config.recipe.seed)
    try:
        network.load_state_dict(state)
        reached = saved.get("best") or saved.get("progress") or {}
        epoch = reached.get("epoch", 0)
    except (KeyError, TypeError, RuntimeError) as error:
        raise RunError(
            f"{run.path / chosen}.safetensors does not fit the recipe in config.json: "
            "one of the two is of another run"
        ) from error
    network = network.to(device).eval()
    return Trained(network, config, chosen, int(epoch), weights_sha256(state))
