"""The plan of a data set: which samples go into which shard, in which order."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fastretina.data.labels import Sample, SampleTable
from loaders.order import permutation
from loaders.shards import FORMAT, SPLITS, shard_name

PROGRESS = ".progress"
_PLAIN_NAME = re.compile(r"(.+)_(left|right)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardOptions:
    """What decides the bytes of a data set, beside its samples.

    Attributes:
        samples_per_shard: images in a tar; the last of a split may hold fewer.
        seed: seed of the one global shuffle.
        steps: some of ``preprocess_steps.STEPS``, applied to every image.
        size: pixels square to resize to, or ``None``.
    """

    samples_per_shard: int
    seed: int
    steps: tuple[str, ...]
    size: int | None


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to write: everything that a worker process needs to know.

    Attributes:
        folder: folder of the data set.
        split: ``train`` or ``test``.
        number: number of the shard within its split, from 0.
        samples: samples of the shard, in the order in which they are written.
        options: how the samples are pre-processed.
    """

    folder: Path
    split: str
    number: int
    samples: tuple[Sample, ...]
    options: ShardOptions

    @property
    def name(self) -> str:
        """The shard's file name."""
        return shard_name(self.split, self.number)

    @property
    def marker(self) -> Path:
        """The file that says that the shard is finished, and what is in it."""
        return self.folder / PROGRESS / f"{self.name}.json"


def plan_shards(
    table: SampleTable, folder: Path, options: ShardOptions
) -> list[ShardTask]:
    """Shuffle each split once, with the seed, and cut it into shards of equal length.

    Returns:
        All shards of train, then those of test, by their numbers.
    """
    tasks = []
    size = options.samples_per_shard
    for stream, split in enumerate(SPLITS):
        samples = [sample for sample in table.samples if sample.split == split]
        order = permutation(len(samples), options.seed, stream)
        shuffled = [samples[row] for row in order]
        for number, first in enumerate(range(0, len(samples), size)):
            chosen = tuple(shuffled[first : first + size])
            tasks.append(ShardTask(folder, split, number, chosen, options))
    return tasks


def plan_fingerprint(tasks: Sequence[ShardTask]) -> str:
    """Hex digest of what the shards are made of: labels, file sizes and options.

    The images' bytes are not read. File times are left out, so that a copy of the
    folder counts as the same. Patients and eyes count where ``_left`` and ``_right``
    alone would tell others, as they did in older versions: so their data sets stay.
    """
    options = asdict(tasks[0].options)
    digest = hashlib.sha256(json.dumps([FORMAT, options]).encode())
    for task in tasks:
        known = [
            (sample.key, sample.name, sample.grade, os.stat(sample.path).st_size)
            for sample in task.samples
        ]
        digest.update(json.dumps([task.name, known]).encode())
    if told := [who for task in tasks for who in _told_otherwise(task.samples)]:
        digest.update(json.dumps(told).encode())
    return digest.hexdigest()


def _told_otherwise(samples: Iterable[Sample]) -> Iterator[tuple[str, str, str]]:
    for sample in samples:
        match = _PLAIN_NAME.fullmatch(sample.name)
        plain = (match[1], match[2].lower()) if match else (sample.name, "")
        if plain != (sample.patient, sample.eye):
            yield sample.key, sample.patient, sample.eye
