"""A training run in mid-flight: all that changes, and how it is saved and restored."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from fastretina.nn import checkpoint
from fastretina.nn.distributed import synchronised
from fastretina.nn.phase_change import copy_weights, count_changed
from fastretina.nn.step import Learner, StepPlace, StepResult, StepSetup
from fastretina.nn.trained import save_weights
from fastretina.nn.weights_file import evaluated_weights
from fastretina.ranges import Count, Seconds
from fastretina.recipe import Phase
from fastretina.run import LoggedEpoch, Run, as_record
from fastretina.train.checkpoint_writer import CheckpointWriter
from loaders.errors import RunError
from loaders.order import rank_slice


@dataclass(slots=True)
class Progress:
    """How far a run is, and the sums of the epoch it is in.

    The sums of a checkpoint are those of all ranks; while training they lag behind.

    Attributes:
        epoch: counted from 0 over both phases.
        batch: batches of this epoch that are trained on.
        step: batches of the run that are trained on.
        loss: sum over the epoch's samples.
        correct: samples of the epoch that were predicted right.
        seen: samples of the epoch.
        lr: learning rate of the last step.
        seconds: time spent training in this epoch.
        wait_seconds: the part of ``seconds`` that was waited for the loader.
        idle_seconds: the part that a GPU had nothing to train on; None elsewhere.
        skipped: images of the epoch that could not be decoded.
        decoded_again: batches of the epoch that DALI could not decode.
    """

    epoch: Count = 0
    batch: Count = 0
    step: Count = 0
    loss: float = 0.0
    correct: Count = 0
    seen: Count = 0
    lr: float = 0.0
    seconds: Seconds = 0.0
    wait_seconds: Seconds = 0.0
    idle_seconds: Seconds | None = None
    skipped: Count = 0
    decoded_again: Count = 0

    @property
    def wait_share(self) -> float:
        """The part of the epoch's seconds that was waited for the loader, 0 to 1."""
        return self.wait_seconds / self.seconds if self.seconds else 0.0


class Best(NamedTuple):
    """The epoch that was best on validation so far.

    Attributes:
        epoch: number of the epoch, counted from 1.
        qwk: its QWK on validation; None of one grade alone.
        accuracy: its accuracy on validation, 0 to 1.
    """

    epoch: int
    qwk: float | None
    accuracy: float

    @property
    def order_key(self) -> tuple[float, float]:
        """Orders by QWK, then accuracy; no QWK is the worst."""
        return (-math.inf if self.qwk is None else self.qwk, self.accuracy)

    def as_json(self) -> dict[str, Any]:
        """The form that checkpoints keep it in."""
        return {"epoch": self.epoch, "score": [self.qwk, self.accuracy]}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Best:
        """What ``as_json`` has made."""
        return cls(saved["epoch"], *saved["score"])


class RankSums:
    """This rank's part of an epoch's sums; reading the device waits for it."""

    def __init__(self, device: torch.device) -> None:
        # Loss and hits are summed on the device: reading them would wait for it.
        exact = torch.float32 if device.type == "mps" else torch.float64
        self._on_device = torch.zeros(2, dtype=exact, device=device)
        self._on_host = torch.zeros(3, dtype=torch.int64)

    def add(self, result: StepResult, loss_share: float, seen: int) -> None:
        """Add a step: its loss counts as that of ``loss_share`` samples."""
        added = torch.stack([result.loss * loss_share, result.num_correct])
        self._on_device += added.to(self._on_device.dtype)
        self._on_host[0] += seen

    def add_faults(self, skipped: int, decoded_again: int) -> None:
        """Add images that were skipped, and batches that were decoded again."""
        self._on_host[1] += skipped
        self._on_host[2] += decoded_again

    def collect(self, setup: StepSetup, progress: Progress) -> None:
        """Put the sums over all ranks into ``progress``."""
        loss, correct = setup.ranks.sum(self._on_device).tolist()
        progress.loss, progress.correct = loss, round(correct)
        counts = setup.ranks.sum(self._on_host).tolist()
        progress.seen, progress.skipped, progress.decoded_again = counts

    def restore(self, progress: Progress, first_rank: bool) -> None:
        """Go on from a checkpoint's sums: the first rank has them, the others none."""
        if first_rank:
            sums = [progress.loss, progress.correct]
            self._on_device.copy_(torch.tensor(sums, dtype=self._on_device.dtype))
            counts = [progress.seen, progress.skipped, progress.decoded_again]
            self._on_host.copy_(torch.tensor(counts))
        else:
            self.clear()

    def clear(self) -> None:
        """Begin at nothing, as each epoch does."""
        self._on_device.zero_()
        self._on_host.zero_()


class TrainState:
    """The network, its average, the optimizer and the progress of a run.

    No random state is kept: every draw of a run is a function of its seed and place.
    """

    def __init__(
        self,
        network: nn.Module,
        setup: StepSetup,
        run: Run,
        order: str,
    ) -> None:
        """Begin at nothing.

        Args:
            network: has the weights that the run starts from.
            setup: what stays the same over all steps.
            run: the folder of the run.
            order: what the samples' order depends on, as ``Loading.order`` names it.
        """
        self.recipe, self.compute, self.ranks = setup.recipe, setup.compute, setup.ranks
        self.setup, self.run, self.order = setup, run, order
        network = network.to(self.compute.device)
        if not self.ranks.alone:
            network = synchronised(network, self.compute.device)
        self.network = network
        self.progress = Progress()
        self.rows: list[LoggedEpoch] = []
        self.best: Best | None = None
        self.sums = RankSums(self.compute.device)
        self.learner = Learner(network, self.phase, setup)
        self.changed: dict[Phase, int | None] = {}
        # Of a checkpoint of an older version, it is not known.
        self._phase_start: checkpoint.NamedTensors | None = copy_weights(self.learner)
        self._saved_at = time.monotonic()
        self._writer = CheckpointWriter()

    @property
    def phase(self) -> Phase:
        """``head`` or ``full``; a finished run stays in the one that it ended in."""
        return self.recipe.phase(min(self.progress.epoch, self.recipe.epochs - 1))

    def begin_phase(self) -> None:
        """Freeze or free the backbone; a new optimizer, and in phase 2 an average."""
        scaler = self.learner.scaler
        self.learner = Learner(self.network, self.phase, self.setup, scaler)
        self._phase_start = copy_weights(self.learner)

    def count_changed(self) -> None:
        """Count what the phase has changed until now, as ``count_changed`` does.

        Raises:
            RunError: it leaves something as it was that it should have trained.
        """
        start, phase = self._phase_start, self.phase
        known = None if start is None else count_changed(self.learner, start)
        self.changed[phase] = known

    def place(self, batches_per_epoch: int, samples: int) -> StepPlace:
        """Where the next step is, in an epoch of so many batches and samples."""
        progress, size = self.progress, self.recipe.batch_size
        in_batch = min(size, max(samples - progress.batch * size, 0))
        first, _ = rank_slice(in_batch, self.ranks.rank, self.ranks.world_size)
        done = progress.epoch + progress.batch / batches_per_epoch
        return StepPlace(progress.epoch, progress.step, done, first)

    def count(self, own: int, seen: int, result: StepResult | None) -> None:
        """Count a batch of ``seen`` samples, ``own`` of this rank; None: of none."""
        if result is not None:
            self.progress.lr = result.rate
            # Of a batch shared by ranks, the mean of their losses is the batch's.
            self.sums.add(result, seen / self.ranks.world_size, own)
        self.progress.batch += 1
        self.progress.step += 1

    def epoch_row(self) -> LoggedEpoch:
        """What ``log.csv`` says of the epoch that has just been trained."""
        progress, ranks = self.progress, self.ranks
        self.sums.collect(self.setup, progress)
        idle = progress.idle_seconds
        times = [progress.seconds, progress.wait_seconds, idle or 0.0]
        means = ranks.sum(torch.tensor(times, dtype=torch.float64)) / ranks.world_size
        seconds, waited, idled = means.tolist()
        seen = max(progress.seen, 1)
        return LoggedEpoch(
            epoch=progress.epoch + 1,
            phase=self.phase,
            lr=progress.lr,
            train_loss=progress.loss / seen,
            train_accuracy=progress.correct / seen,
            images_per_second=progress.seen / max(seconds, 1e-9),
            wait_seconds=waited,
            idle_seconds=None if idle is None else idled,
            seconds=seconds,
            skipped=progress.skipped,
            decoded_again=progress.decoded_again,
        )

    def end_epoch(self, row: LoggedEpoch) -> None:
        """Log the epoch and go on to the next, which may be of the next phase."""
        self.rows.append(row)
        if self.ranks.first:
            self.run.write_log(self.rows)
            self.run.write_events(row, self.progress.step)
        phase = self.phase
        self.progress = Progress(epoch=self.progress.epoch + 1, step=self.progress.step)
        self.sums.clear()
        if self.phase != phase:
            self.begin_phase()

    def save(self, *, best: bool = False) -> None:
        """Have ``last`` (and the best) written, so that a kill leaves old or new.

        Training may go on meanwhile: what is written is the state as it is now.

        Raises:
            OSError: the checkpoint before could not be written.
        """
        self.sums.collect(self.setup, self.progress)
        if self.ranks.first:
            self._write(best)
        self._saved_at = time.monotonic()

    def wait_saved(self) -> None:
        """Wait, on all ranks, until all checkpoints are on the disk.

        Raises:
            OSError: one could not be written.
        """
        self._writer.wait()
        self.ranks.wait()

    def close(self) -> None:
        """End the writing of checkpoints, that which has begun being finished."""
        self._writer.close()

    def _write(self, best: bool) -> None:
        learner = self.learner
        tensors = checkpoint.prefixed("model", self.network.state_dict())
        optimizer = checkpoint.optimizer_tensors(learner.optimizer)
        tensors |= checkpoint.prefixed("optimizer", optimizer)
        average = learner.average
        if average is not None:
            tensors |= checkpoint.prefixed("ema", average.module.state_dict())
        if self._phase_start and self.progress.epoch < self.recipe.epochs:
            tensors |= checkpoint.prefixed("start", self._phase_start)
        tensors = self._writer.copy(tensors)
        state = {
            "progress": asdict(self.progress),
            "changed": dict(self.changed),
            "rows": [asdict(row) for row in self.rows],
            "best": self.best and self.best.as_json(),
            "scaler": learner.scaler.state_dict(),
            "averaged": int(average.n_averaged) if average else 0,
            "order": self.order,
        }
        run, best_epoch = self.run, self.best.epoch if best and self.best else None

        def save() -> None:
            if best_epoch is not None:
                save_weights(run, evaluated_weights(tensors), "best", best_epoch)
            checkpoint.save(run.last, tensors, state)

        self._writer.write(save)

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
            last = self.run.last
            self.progress = as_record(state["progress"], Progress, last)
            self.rows = as_record(state["rows"], list[LoggedEpoch], last)
            if self.ranks.first:  # a kill came between the log and its checkpoint
                self.run.write_log(self.rows)
            self.best = Best.from_json(state["best"]) if state["best"] else None
            self.sums.restore(self.progress, self.ranks.first)
            before = state.get("order", "planned")
            if self.progress.batch and before != self.order:
                raise RunError(
                    f"{self.run.path} stopped within an epoch whose order was {before}"
                    f" and is {self.order} now: resume with the loader that it had"
                )
            self.network.load_state_dict(checkpoint.part(tensors, "model"))
            self.begin_phase()
            self._restore_changed(tensors, state)
            learner = self.learner
            checkpoint.restore_optimizer(
                learner.optimizer, checkpoint.part(tensors, "optimizer")
            )
            if learner.average is not None:
                average = checkpoint.part(tensors, "ema")
                learner.average.module.load_state_dict(average)
                learner.average.n_averaged.fill_(state["averaged"])
            if state["scaler"]:  # empty where the run was not in fp16 until now
                learner.scaler.load_state_dict(state["scaler"])
        except torch.OutOfMemoryError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(
                f"{self.run.last} is of another run than {self.run.path}"
            ) from error

    def _restore_changed(
        self, tensors: checkpoint.NamedTensors, state: Mapping[str, Any]
    ) -> None:
        """Go on counting from the weights that the phase began with."""
        saved = checkpoint.part(tensors, "start")
        self._phase_start = None
        if saved:
            trained = self.learner.trained.items()
            self._phase_start = {n: saved[n].to(each.device) for n, each in trained}
        unknown = {row.phase: None for row in self.rows}  # to an older version
        self.changed = {**unknown, **state.get("changed", {})}
