"""The splits of a run: train, the validation patients held out of it, and test."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from fastretina.data.patients import hold_out, some_of
from fastretina.recipe import Recipe
from fastretina.run_config import RunData
from loaders import LoaderConfig
from loaders.arrays import Int64
from loaders.errors import ShardError
from loaders.grades import GRADES
from loaders.schedule import Schedule
from loaders.shards import ShardSplit, open_split


@dataclass(frozen=True, slots=True)
class DataSplits:
    """The splits of a run; use it in a ``with``.

    Attributes:
        train: the samples to train on.
        validation: patients held out of train, to choose the checkpoint on.
        test: the samples to report.
    """

    train: ShardSplit
    validation: ShardSplit | None
    test: ShardSplit

    def __enter__(self) -> DataSplits:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for split in (self.train, self.validation, self.test):
            if split is not None:
                split.close()

    def describe(self) -> RunData:
        """What of the data a run depends on."""
        manifest = self.train.manifest
        other = self.test.folder != self.train.folder
        return RunData(
            fingerprint=manifest.fingerprint,
            preprocessing=manifest.preprocessing,
            train=len(self.train),
            validation=len(self.validation) if self.validation else 0,
            test=len(self.test),
            test_fingerprint=self.test.manifest.fingerprint if other else None,
            origin=manifest.origin,
            test_origin=self.test.manifest.origin if other else None,
        )

    def image_shape(self, recipe: Recipe) -> tuple[int, int]:
        """Height and width of what the network is trained on, pixels."""
        if recipe.image_size is not None:
            return recipe.image_size, recipe.image_size
        return self.train.dimensions[0]

    def square(self) -> bool:
        """Whether all training images are square before they are resized."""
        return all(height == width for height, width in self.train.dimensions)

    def is_one_cohort(self) -> bool:
        """Whether a patient's number names the same person in train and in test.

        Of another data set that was named to test on it may name anybody, unless it
        holds the same photographs, e.g. preprocessed otherwise.
        """
        train, test = self.train.manifest.fingerprint, self.test.manifest.fingerprint
        if self.test.folder == self.train.folder or (train and train == test):
            return True
        try:
            with open_split(self.test.folder, "train") as other:
                return set(other.column("key")) == set(self.train.column("key"))
        except ShardError:
            return False

    def known_rows(self) -> Int64:
        """int64[n]: rows of train whose labels the run has seen, validation's too."""
        parts = [self.train, *filter(None, [self.validation])]
        return np.concatenate([part.rows for part in parts])

    def train_counts(self) -> list[int]:
        """Training samples of each grade."""
        labels = self.train.labels[self.train.rows]
        counts: list[int] = np.bincount(labels, minlength=len(GRADES)).tolist()
        return counts


def open_data(
    shards: str | Path, recipe: Recipe, test_shards: str | Path | None = None
) -> DataSplits:
    """Open a data set and hold out the recipe's validation patients.

    Args:
        shards: the data set's folder, or its http(s) URL.
        recipe: says how many patients and samples to take.
        test_shards: another data set to test on.

    Raises:
        ShardError: it can't be used, or one of its splits is empty.
    """
    with ExitStack() as opened:
        test = opened.enter_context(open_split(test_shards or shards, "test"))
        train = opened.enter_context(open_split(shards, "train"))
        for split in (train, test):
            if not len(split):
                raise ShardError(f"{split.folder} has no {split.name} samples")
            # Now, not after hours of training: do its images fit into one batch?
            Schedule(split, LoaderConfig(image_size=recipe.image_size))
        test = opened.enter_context(some_of(test, recipe.test_samples))
        train = opened.enter_context(some_of(train, recipe.train_samples))
        for split, most in ((train, recipe.train_samples), (test, recipe.test_samples)):
            if not len(split):
                raise ShardError(
                    f"{split.folder} has too few {split.name} patients of each grade "
                    f"to take {most} samples; pass a larger --{split.name}-samples"
                )
        validation = None
        if recipe.validation:
            train, validation = hold_out(train, recipe.validation, recipe.seed)
            opened.enter_context(train)
            opened.enter_context(validation)
            if not len(train) or not len(validation):
                raise ShardError(
                    f"{shards} has too few patients to hold out a validation share of "
                    f"{recipe.validation}; pass --validation 0"
                )
        opened.pop_all()
    return DataSplits(train, validation, test)
