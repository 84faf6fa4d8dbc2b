"""A run's network, as evaluation and prediction use it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fastretina.nn import checkpoint
from fastretina.nn.model import build_model, weights_sha256
from fastretina.nn.step import class_weights
from fastretina.nn.weights_file import describe_weights, evaluated_weights
from fastretina.ranges import Count
from fastretina.recipe import Recipe
from fastretina.run import Run, as_record
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
        checkpoint: which weights they are, ``best`` on validation or ``last``.
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
    files = (run.weights, run.old_best, run.last)
    there = (path for path in files if path.exists() or path.is_symlink())
    file = next(there, run.last)  # a link to nothing is no reason to take another
    tensors, saved = checkpoint.load(file)
    state = evaluated_weights(tensors)
    network = build_model(config.recipe.arch, "none", config.recipe.seed)
    try:
        network.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"{file} is of another run than {run.path}") from error
    network = network.to(device).eval()
    found = as_record(saved, _Saved, file)
    reached = found.best or found.progress or found
    chosen = found.checkpoint or ("last" if file == run.last else "best")
    return Trained(network, config, chosen, reached.epoch, weights_sha256(state))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reached:
    """The epoch that a part of a checkpoint's state is of."""

    epoch: Count = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Saved(_Reached):
    """What of a checkpoint's state says which epoch's weights it holds."""

    best: _Reached | None = None
    progress: _Reached | None = None
    checkpoint: CheckpointName | None = None


def save_weights(
    run: Run, weights: Mapping[str, Tensor], chosen: CheckpointName, epoch: int
) -> None:
    """Write the weights that a run reports, and nothing else, to a file of their own.

    Args:
        run: its folder.
        weights: the state of its network.
        chosen: ``best`` on validation, or ``last``.
        epoch: epochs that they were trained for.
    """
    name = run.path.resolve().name.encode(errors="replace").decode()
    about = describe_weights(run.config(), name) | {
        "checkpoint": chosen,
        "epoch": str(epoch),
        "weights_sha256": weights_sha256(weights),
    }
    state = {"checkpoint": chosen, "epoch": epoch}
    checkpoint.save(run.weights, weights, state, about)
    run.old_best.unlink(missing_ok=True)


def warn_if_unfinished(run: Run, trained: Trained) -> None:
    """Warn on stderr where a run's network is not the one that it will end with."""
    if run.finished:
        return
    epoch = trained.checkpoint_epoch
    weights = f"those of epoch {epoch}" if epoch else "those that it started from"
    print(
        f"warning: {run.path} {run.describe_unfinished()}; until then its weights are "
        f"{weights}",
        file=sys.stderr,
    )
