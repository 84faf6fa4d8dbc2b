"""A training run in mid-flight: all that changes, and how it is saved and restored."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fastretina.data.loading import LoadingOptions, order_of
from fastretina.nn import checkpoint
from fastretina.nn.device import Compute
from fastretina.nn.distributed import synchronised, wrapped
from fastretina.nn.model import set_phase
from fastretina.nn.step import make_average, make_optimizer
from fastretina.recipe import Phase, Recipe
from fastretina.run import COLUMNS, Run
from loaders.errors import RunError


@dataclass(slots=True)
class Progress:
    """How far a run is, and the sums of the epoch it is in.

    Attributes:
        epoch: counted from 0 over both phases.
        batch: batches of this epoch that are trained on.
        step: batches of the run that are.
        loss: sum over the epoch's samples.
        correct: samples of the epoch that were predicted right.
        seen: samples of the epoch.
        lr: learning rate of the last step.
        seconds: spent training in this epoch.
        wait_seconds: of these, waiting for the loader.
        skipped: images of the epoch that could not be decoded.
        decoded_again: batches of the epoch that DALI could not decode.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: float = 0.0
    correct: int = 0
    seen: int = 0
    lr: float = 0.0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    skipped: int = 0
    decoded_again: int = 0

    @property
    def wait_share(self) -> float:
        """Of the epoch's seconds, 0 to 1."""
        return self.wait_seconds / self.seconds if self.seconds else 0.0


class TrainState:
    """The network, its average, the optimizer and the progress of a run.

    No random state is kept: every draw of a run is a function of its seed and place.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: nn.Module,
        compute: Compute,
        run: Run,
        feeding: LoadingOptions,
        *,
        compiled: bool = False,
    ) -> None:
        self.recipe = recipe
        self.ranks = feeding.ranks
        self.order = order_of(feeding.loader, feeding.ranks)
        network = network.to(compute.device)
        alone = self.ranks.alone
        self.network = network if alone else synchronised(network, compute.device)
        self.compute = compute
        self.run = run
        self.progress = Progress()
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.scaler = compute.scaler()
        self.average: AveragedModel | None = None
        self._compiled = compiled
        self.begin_phase()
        self._saved_at = time.monotonic()
        # Loss and hits are summed on the device: reading them would wait for it.
        exact = torch.float32 if compute.device.type == "mps" else torch.float64
        # Each rank sums up its own.
        self._sums = torch.zeros(2, dtype=exact, device=compute.device)
        self._seen = 0

    @property
    def phase(self) -> Phase:
        """``head`` or ``full``; a finished run stays in the one that it ended in."""
        return self.recipe.phase(min(self.progress.epoch, self.recipe.epochs - 1))

    def begin_phase(self) -> None:
        """Freeze or free the backbone; a new optimizer, and in phase 2 an average."""
        parameters = self.training_mode()
        if self.phase == "full" and self.recipe.ema_decay:
            self.average = make_average(self.network, self.recipe.ema_decay)
        self.optimizer = make_optimizer(
            self.recipe, self.phase, parameters, self.compute.device
        )
        forward = wrapped(self.network, self.ranks)
        self.forward = torch.compile(forward) if self._compiled else forward

    def training_mode(self) -> list[nn.Parameter]:
        """Set the network to train; returns the parameters that do."""
        return set_phase(self.network, self.phase, self.recipe.head_batchnorm)

    def evaluated(self) -> nn.Module:
        """The network to evaluate: the average where there is one, in eval mode."""
        network = self.network if self.average is None else self.average.module
        return network.eval()

    def count(self, logits: Tensor, loss: Tensor, labels: Tensor) -> None:
        """Add a step to the epoch's sums: float32[B, K], its ``Loss``, int64[B]."""
        hits = (logits.argmax(dim=1) == labels).sum()
        seen = self.ranks.sum(torch.tensor(len(labels))).item()
        mean = loss * (seen / self.ranks.world_size)
        self._sums += torch.stack([mean, hits]).to(self._sums.dtype)
        self._seen += len(labels)
        self.progress.batch += 1
        self.progress.step += 1

    def _collect(self) -> None:
        loss, correct = self.ranks.sum(self._sums).tolist()
        self.progress.loss, self.progress.correct = loss, round(correct)
        self.progress.seen = int(self.ranks.sum(torch.tensor(self._seen)))

    def epoch_row(self) -> dict[str, Any]:
        """What ``log.csv`` says of the epoch that has just been trained."""
        self._collect()
        progress, ranks = self.progress, self.ranks
        times = torch.tensor([progress.seconds, progress.wait_seconds]).double()
        seconds, waited = (ranks.sum(times) / ranks.world_size).tolist()
        seen = max(progress.seen, 1)
        return dict.fromkeys(COLUMNS) | {
            "epoch": progress.epoch + 1,
            "phase": self.phase,
            "lr": progress.lr,
            "train_loss": progress.loss / seen,
            "train_accuracy": progress.correct / seen,
            "images_per_second": progress.seen / max(seconds, 1e-9),
            "wait_seconds": waited,
            "seconds": seconds,
            "skipped": int(ranks.sum(torch.tensor(progress.skipped))),
            "decoded_again": int(ranks.sum(torch.tensor(progress.decoded_again))),
        }

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Log the epoch and go on to the next, which may be of the next phase."""
        self.rows.append(row)
        if self.ranks.first:
            self.run.write_log(self.rows)
            self.run.write_events(row, self.progress.step)
        phase = self.phase
        self.progress = Progress(epoch=self.progress.epoch + 1, step=self.progress.step)
        self._sums.zero_()
        self._seen = 0
        if self.phase != phase:
            self.begin_phase()

    def save(self, *, best: bool = False) -> None:
        """Write ``last`` (and ``best``) so that a kill leaves the old or the new."""
        self._collect()
        if self.ranks.first:
            self._write(best)
        self.ranks.wait()
        self._saved_at = time.monotonic()

    def _write(self, best: bool) -> None:
        tensors = checkpoint.prefixed("model", self.network.state_dict())
        optimizer = checkpoint.optimizer_tensors(self.optimizer)
        tensors |= checkpoint.prefixed("optimizer", optimizer)
        if self.average is not None:
            tensors |= checkpoint.prefixed("ema", self.average.module.state_dict())
        state = {
            "progress": asdict(self.progress),
            "rows": self.rows,
            "best": self.best,
            "scaler": self.scaler.state_dict(),
            "averaged": int(self.average.n_averaged) if self.average else 0,
            "order": self.order,
        }
        if best:
            checkpoint.save(self.run.best, tensors, state)
        checkpoint.save(self.run.last, tensors, state)

    def is_due(self, every_seconds: float) -> bool:
        """Whether it was so long ago that it was saved."""
        return time.monotonic() - self._saved_at >= every_seconds

    def restore(self) -> None:
        """Go back to the run's last checkpoint.

        Raises:
            RunError: it is damaged or of another recipe.
        """
        tensors, state = checkpoint.load(self.run.last)
        try:
            self.progress = Progress(**state["progress"])
            self.rows, self.best = state["rows"], state["best"]
            if self.ranks.first:  # the others begin at nothing, as they are added up
                sums = [self.progress.loss, self.progress.correct]
                self._sums.copy_(torch.tensor(sums, dtype=self._sums.dtype))
                self._seen = self.progress.seen
            before = state.get("order", "planned")
            if self.progress.batch and before != self.order:
                raise RunError(
                    f"{self.run.path} stopped within an epoch whose order was {before}"
                    f" and is {self.order} now: resume with the loader that it had"
                )
            self.network.load_state_dict(checkpoint.part(tensors, "model"))
            self.begin_phase()
            checkpoint.restore_optimizer(
                self.optimizer, checkpoint.part(tensors, "optimizer")
            )
            if self.average is not None:
                self.average.module.load_state_dict(checkpoint.part(tensors, "ema"))
                self.average.n_averaged.fill_(state["averaged"])
            if state["scaler"]:  # empty where the run was not in fp16 until now
                self.scaler.load_state_dict(state["scaler"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(
                f"{self.run.last} does not fit the recipe in config.json: one of the "
                "two is of another run"
            ) from error
