"""The training loop: epochs of steps, and an evaluation after each.

Loader --batch--> train_step --loss, hits--> sums of the epoch --> LoggedEpoch
                                                 |
    end of an epoch: predict_split --> Scores --> best? --> checkpoint, log
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from fastretina.data.loading import Loading
from fastretina.data.splits import DataSplits
from fastretina.formatting import format_interval
from fastretina.interrupts import Interrupted, Stopper
from fastretina.measure.device_idle import device_idle
from fastretina.metrics.predictions import predict_split
from fastretina.metrics.scores import Scores, score
from fastretina.nn.step import StepPlace, StepResult, train_step
from fastretina.progress import progress_bar, report_progress
from fastretina.run import LoggedEpoch
from fastretina.train.features import FeatureBatch, FeatureEpochs
from fastretina.train.outlook import describe_outlook
from fastretina.train.state import Best, TrainState
from fastretina.wall_clock import part
from loaders import Batch, Loader, ShardSplit
from loaders.errors import RunError

if TYPE_CHECKING:
    from tqdm import tqdm


_T = TypeVar("_T")


class TrainingLoop:
    """Takes a run from where its state is to the end of its last epoch."""

    def __init__(
        self, state: TrainState, data: DataSplits, loading: Loading, stopper: Stopper
    ) -> None:
        self.state, self.data, self.loading = state, data, loading
        self.recipe, self.ranks, self.stopper = state.recipe, state.ranks, stopper
        self._idle = device_idle(state.compute.device)
        self._features: FeatureEpochs | None = None
        self._around_seconds = 0.0  # evaluation and saving, of the last epoch

    def finished(self) -> bool:
        """Whether all epochs, or ``--max-steps``, are done and evaluated."""
        progress = self.state.progress
        evaluated = not progress.batch
        return progress.epoch >= self.recipe.epochs or (self._at_limit() and evaluated)

    def check(self) -> None:
        """Raise ``Interrupted`` where any rank has been asked to stop."""
        if any(self.ranks.agree(self.stopper.asked)):
            raise Interrupted

    def _at_limit(self) -> bool:
        limit = self.recipe.max_steps
        return limit is not None and self.state.progress.step >= limit

    def run_epoch(self, loader: Loader, checkpoint_every: float) -> None:
        """Train on what is left of the epoch.

        Raises:
            Interrupted: between two steps, where a signal asked to stop.
        """
        if self._at_limit():  # a kill came between the last step and the evaluation
            return
        state, progress = self.state, self.state.progress
        state.learner.training_mode()
        decoded_again = loader.decoded_again
        batches = self._batches(loader)
        self._mark_free()
        with self._bar() as bar:
            for batch, waited in _timed(batches):
                begun = time.perf_counter()
                self._step(batch, len(loader))
                self._mark_free()
                progress.wait_seconds += waited
                progress.seconds += waited + time.perf_counter() - begun
                skipped = self.loading.report_skipped(loader)
                if isinstance(batch, FeatureBatch):
                    skipped += batch.skipped
                again = loader.decoded_again - decoded_again
                state.sums.add_faults(skipped, again)
                decoded_again += again
                bar.set_postfix_str(self._outlook(len(loader)), refresh=False)
                bar.update(len(batch.labels) * self.ranks.world_size)
                asked, due = self.stopper.asked, state.is_due(checkpoint_every)
                stop, save = self.ranks.agree(asked, due)
                if save:
                    with part("checkpoints"):
                        state.save()
                if stop:
                    raise Interrupted
                if self._at_limit():
                    break
        begun = time.perf_counter()
        if self._features is not None:
            self._features.end_epoch(state.learner)
        state.compute.wait()  # for the steps that a GPU has still to do
        progress.seconds += time.perf_counter() - begun
        self._mark_free()

    def _batches(self, loader: Loader) -> Iterator[Batch | FeatureBatch]:
        """What is left of the epoch; of kept features, where it is of phase head."""
        state, epoch, batch = (
            self.state,
            self.state.progress.epoch,
            self.state.progress.batch,
        )
        following = epoch + 1
        if state.learner.backbone is None:
            self._features = None  # and its memory is free
            then = following if following < self.recipe.epochs else None
            return loader.epoch(epoch, batch, then=then)
        if self._features is None:
            self._features = FeatureEpochs(
                state.learner, self.data.train, state.setup, epoch
            )
        return self._features.batches(loader, epoch, batch)

    def _mark_free(self) -> None:
        """Count what a GPU has idled so far; it has nothing to do from here on."""
        if self._idle is not None:
            idled = self.state.progress.idle_seconds or 0.0
            self.state.progress.idle_seconds = idled + self._idle.take()
            self._idle.free()

    def _step(self, batch: Batch | FeatureBatch, batches_per_epoch: int) -> None:
        """Train on one batch; one that skipping has left empty is passed over."""
        state = self.state
        seen = int(self.ranks.sum(torch.tensor(len(batch.labels))))
        result = None
        if seen:
            if self._idle is not None:
                self._idle.busy()
            place = state.place(batches_per_epoch, len(self.data.train))
            result = self._trained(batch, place)
        state.count(len(batch.labels), seen, result)

    def _trained(self, batch: Batch | FeatureBatch, place: StepPlace) -> StepResult:
        learner = self.state.learner
        if isinstance(batch, FeatureBatch):
            assert self._features is not None
            return self._features.train(learner, batch, place)
        return train_step(learner, batch, place)

    def end_epoch(self) -> None:
        """Evaluate, log, and save; the best epoch on validation is kept apart.

        Raises:
            RunError: the loss is not a number any more, or no image could be decoded,
                or something that should train does not.
            Interrupted: where a signal asked to stop.
        """
        state, recipe, begun = self.state, self.recipe, time.monotonic()
        row = state.epoch_row()
        if not state.progress.seen:
            raise RunError(
                f"all {row.skipped} training images of epoch {row.epoch} are bad"
            )
        if not math.isfinite(row.train_loss):
            raise RunError(
                f"the loss is {row.train_loss} in epoch {row.epoch}: lower --lr or "
                "--head-lr, or try --amp off"
            )
        state.count_changed()
        best = state.best
        if self.data.validation is not None:
            scores = self._evaluate(self.data.validation)
            row = replace(
                row, validation_accuracy=scores.accuracy, validation_qwk=scores.qwk
            )
            reached = Best(row.epoch, scores.qwk, scores.accuracy)
            if best is None or reached.order_key > best.order_key:
                best = reached
        if recipe.test_each_epoch:
            scores = self._evaluate(self.data.test)
            row = replace(row, test_accuracy=scores.accuracy, test_qwk=scores.qwk)
        improved = best is not state.best
        state.best = best  # not before: a stop while evaluating must not count it
        with part("checkpoints"):
            state.end_epoch(row)
            state.save(best=improved)
        self._around_seconds = time.monotonic() - begun
        if self.ranks.first:
            report_progress(_epoch_line(row, recipe.epochs))

    def _evaluate(self, split: ShardSplit) -> Scores:
        state = self.state
        with (
            part("evaluation"),
            self.loading.evaluation_loader(split, self.recipe) as loader,
        ):
            predictions = predict_split(
                state.learner.evaluated(),
                split,
                loader,
                state.compute,
                self.ranks,
                self.check,
            )
        return score(predictions.labels, predictions.probabilities)

    def _outlook(self, batches_per_epoch: int) -> str:
        """How much was waited for data, and how long the run will take."""
        progress = self.state.progress
        share = min(progress.batch / batches_per_epoch, 1.0)
        left = describe_outlook(
            self.recipe,
            self.state.rows,
            progress.epoch + share,
            progress.seconds / share,
            self._around_seconds,
        )
        return f"{progress.wait_share:.0%} waiting, {left}"

    def _bar(self) -> tqdm[Any]:
        progress = self.state.progress
        return progress_bar(
            f"epoch {progress.epoch + 1}/{self.recipe.epochs} {self.state.phase}",
            len(self.data.train),
            done=progress.seen,
            shown=self.ranks.first,
        )


def _timed(batches: Iterator[_T]) -> Iterator[tuple[_T, float]]:
    """Each batch with the seconds that it was waited for."""
    while True:
        begun = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - begun


def _epoch_line(row: LoggedEpoch, epochs: int) -> str:
    """An epoch in one line, for people."""
    words = [
        f"epoch {row.epoch:>2}/{epochs} {row.phase:<4}",
        f"loss {row.train_loss:.4f}",
        f"train {row.train_accuracy:.1%}",
    ]
    for split, accuracy, qwk in (
        ("validation", row.validation_accuracy, row.validation_qwk),
        ("test", row.test_accuracy, row.test_qwk),
    ):
        if accuracy is not None:
            shown = format_interval(qwk, None, ".3f")
            words.append(f"{split} {accuracy:.1%} QWK {shown}")
    words.append(f"{row.images_per_second:,.0f} images/s, {row.wait_share:.0%} waiting")
    if row.idle_seconds is not None:
        idle = min(row.idle_seconds / max(row.seconds, 1e-9), 1.0)
        words[-1] += f", GPU {idle:.0%} idle"
    return "  ".join(words)
