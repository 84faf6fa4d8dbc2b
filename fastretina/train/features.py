r"""Phase ``head`` on features that are kept: one epoch computes them, the others ask.

    first epoch   Loader --batch--> backbone --> features --> a step of the head
                               \--flips that will come up--> backbone --> kept
    later epochs  Schedule --rows, flips--> kept features --> a step of the head

Flips are a function of seed, epoch and row, so the first epoch knows which of an
image's four flips the others will show: 3.05 on average over five epochs with two even
chances, its own among them. Each is computed once, and the image is decoded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

from fastretina.data.training_config import training_config
from fastretina.nn.features import (
    NUM_FLIPS,
    FrozenFeatures,
    codes_of,
    flipped,
)
from fastretina.nn.model import head_of
from fastretina.nn.step import Learner, StepPlace, StepResult, StepSetup, train_on
from loaders import Batch, Loader, ShardSplit
from loaders.arrays import Bool, Int64
from loaders.device import on_device
from loaders.order import flips
from loaders.schedule import Schedule


class FeatureBatch(NamedTuple):
    """One rank's share of a batch, whose features are kept or about to be.

    Attributes:
        codes: int64[B], image and flip of each sample, as ``codes_of`` numbers them.
        labels: int64[B], the grades; on the device if they were loaded.
        loaded: the loader's batch; None where all features are kept.
        skipped: samples left out, as their images were found bad in an epoch before.
    """

    codes: Int64
    labels: torch.Tensor
    loaded: Batch | None = None
    skipped: int = 0


class FeatureEpochs:
    """The epochs of phase ``head`` that a run has before it, over kept features.

    An epoch that lacks a feature is loaded whole, as the first one is. After a resume
    within an epoch that is the next one, too.
    """

    def __init__(
        self, learner: Learner, train: ShardSplit, setup: StepSetup, epoch: int
    ) -> None:
        """Find out what will be asked for after the run's next ``epoch``.

        Raises:
            RunError: it does not fit into memory.
        """
        self._recipe, self._train, self._ranks = setup.recipe, train, setup.ranks
        self._schedule = Schedule(train, training_config(setup.recipe, setup.ranks))
        wanted = np.zeros(NUM_FLIPS * len(train.labels), np.bool_)
        for later in range(epoch + 1, self._end()):
            wanted[self._codes(later)] = True
        length = head_of(learner.network).in_features
        assert isinstance(length, int)
        self._kept = FrozenFeatures(wanted, length, setup.compute, setup.ranks)
        self._wanted = wanted.reshape(-1, NUM_FLIPS)
        self._waiting = _NOTHING

    def _end(self) -> int:
        """The epoch that phase ``head`` ends before, or ``--max-steps`` ends in."""
        recipe, limit = self._recipe, self._recipe.max_steps
        if limit is None:
            return recipe.head_epochs
        return min(recipe.head_epochs, -(-limit // max(len(self._schedule), 1)))

    def _codes(self, epoch: int) -> Int64:
        """What all ranks ask for in an epoch, in the order of the index."""
        recipe, rows = self._recipe, self._train.rows
        return codes_of(
            rows, flips(recipe.seed, epoch, rows, (recipe.hflip, recipe.vflip))
        )

    def is_kept(self, epoch: int) -> bool:
        """Whether an epoch needs no image: the same on all ranks."""
        codes = self._codes(epoch)
        known: Bool = self._kept.here[codes] | self._kept.bad[codes // NUM_FLIPS]
        return bool(known.all())

    def batches(
        self, loader: Loader, epoch: int, first_batch: int
    ) -> Iterator[FeatureBatch]:
        """The epoch's batches from ``first_batch`` on, as the loader has them in order.

        The loader is asked for those of an epoch that lacks a feature, and for none
        other.

        Raises:
            SampleError: as ``Loader.epoch`` does.
        """
        if self.is_kept(epoch):
            return self._from_kept(epoch, first_batch)
        return self._loaded(loader, epoch, first_batch)

    def _from_kept(self, epoch: int, first_batch: int) -> Iterator[FeatureBatch]:
        for plan in self._schedule.plans(epoch, first_batch):
            bad = self._kept.bad[plan.rows]
            rows = plan.rows[~bad]
            labels = torch.from_numpy(self._train.labels[rows])
            codes = codes_of(rows, plan.flips[~bad])
            yield FeatureBatch(codes, labels, skipped=int(bad.sum()))

    def _loaded(
        self, loader: Loader, epoch: int, first_batch: int
    ) -> Iterator[FeatureBatch]:
        # The next one to be loaded, so that it is prefetched.
        following = epoch + 1 if first_batch else max(self._end(), epoch + 1)
        then = following if following < self._recipe.epochs else None
        batches = loader.epoch(epoch, first_batch, then=then)
        plans = self._schedule.plans(epoch, first_batch)
        for plan, batch in zip(plans, batches, strict=True):
            rows, mirrored = plan
            if len(batch.labels) < len(rows):  # or the device would be waited for
                arrived = np.isin(rows, batch.index.cpu().numpy())
                self._kept.bad[rows[~arrived]] = True
                rows, mirrored = rows[arrived], mirrored[arrived]
            yield FeatureBatch(codes_of(rows, mirrored), batch.labels, batch)

    def train(
        self, learner: Learner, batch: FeatureBatch, place: StepPlace
    ) -> StepResult:
        """Train the head on a batch; of one that was loaded, keep the features.

        Raises:
            RunError: as ``train_step`` does.
        """
        if batch.loaded is None:
            with _one_thread():
                features = self._kept.gather(batch.codes)
                labels = on_device(batch.labels.numpy(), features.device)
                return train_on(learner, features, labels, place)
        features = learner.features(learner.inputs(batch.loaded, place))
        self._kept.keep(batch.codes, features)
        self._fill(learner, batch.loaded.images, batch.codes)
        return train_on(learner, features, batch.labels, place)

    def end_epoch(self, learner: Learner) -> None:
        """Compute what is left, and exchange all; every rank must call it."""
        if len(self._waiting.codes):
            self._compute(learner, self._waiting)
            self._waiting = _NOTHING
        self._kept.exchange()

    def _fill(self, learner: Learner, images: torch.Tensor, codes: Int64) -> None:
        """Compute the flips of a batch's images that will come up, and are not here.

        In batches as large as a step's, as a compiled graph has it: what is left of
        them waits for the next.
        """
        every = (codes // NUM_FLIPS * NUM_FLIPS)[:, None] + np.arange(NUM_FLIPS)
        places, others = self._kept.lacking(every).nonzero()
        images = images[on_device(places, images.device)]
        images = flipped(images, codes[places] % NUM_FLIPS ^ others)
        codes = every[places, others]
        if len(self._waiting.codes):
            images = torch.cat([self._waiting.images, images])
            codes = np.concatenate([self._waiting.codes, codes])
        size, start = self._schedule.local_size, 0
        for start in range(0, len(codes) + 1, size):
            part = slice(start, start + size)
            if len(codes[part]) == size:
                self._compute(learner, _Flipped(images[part], codes[part]))
        # A copy, or all of the images would be held on to.
        self._waiting = _Flipped(images[start:].clone(), codes[start:])

    def _compute(self, learner: Learner, found: _Flipped) -> None:
        rows = on_device(found.codes // NUM_FLIPS, found.images.device)
        batch = Batch(found.images, labels=torch.zeros_like(rows), index=rows)
        features = learner.features(learner.inputs(batch, _ANY_PLACE))
        self._kept.keep(found.codes, features)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread of the processor: a step of the head has no work for more.

    On two busy cores, two threads that waited for each other took 33 ms, one 1.5.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Flipped(NamedTuple):
    """Images to be computed, uint8[n, H, W, 3], and their int64[n] codes."""

    images: torch.Tensor
    codes: Int64


_NOTHING = _Flipped(torch.empty(0, dtype=torch.uint8), np.empty(0, np.int64))
_ANY_PLACE = StepPlace(0, 0, 0.0)  # flips alone depend on no draw of a step
