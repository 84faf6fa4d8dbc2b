"""A finished run's network, as evaluation and prediction use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastretina.nn import checkpoint
from fastretina.nn.model import build_model, weights_sha256
from fastretina.recipe import Recipe
from fastretina.run import Run
from loaders.errors import RunError


@dataclass(frozen=True, slots=True)
class Trained:
    """A network in eval mode, and the run that it comes from.

    Attributes:
        network: on the device asked for.
        recipe: of the run.
        config: of the run.
        checkpoint: ``best`` or ``last``.
        checkpoint_epoch: epochs that it was trained for; 0 for a run just begun.
        weights_sha256: of the network's weights.
    """

    network: nn.Module
    recipe: Recipe
    config: Mapping[str, Any]
    checkpoint: str
    checkpoint_epoch: int
    weights_sha256: str

    def use_threads(self) -> None:
        """Compute on as many threads as the run, as other sums round otherwise."""
        if threads := self.config.get("threads"):
            torch.set_num_threads(threads)


def load_trained(run: Run, device: torch.device) -> Trained:
    """Load the checkpoint that the run reports: ``best`` where there is one.

    Raises:
        RunError: the run is not there, has no checkpoint yet, or a damaged one.
    """
    config, recipe = run.config(), run.recipe()
    chosen = "best" if run.best.exists() else "last"
    tensors, saved = checkpoint.load(run.path / f"{chosen}.safetensors")
    state = evaluated_state(tensors)
    network = build_model(recipe.arch, "none", recipe.seed)
    try:
        network.load_state_dict(state)
        epoch = saved["best"]["epoch"] if saved["best"] else saved["progress"]["epoch"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise RunError(
            f"{run.path / chosen}.safetensors does not fit the recipe in config.json: "
            "one of the two is of another run"
        ) from error
    network = network.to(device).eval()
    return Trained(network, recipe, config, chosen, int(epoch), weights_sha256(state))


def evaluated_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights to evaluate a checkpoint with: the average where there is one."""
    return checkpoint.part(tensors, "ema") or checkpoint.part(tensors, "model")
