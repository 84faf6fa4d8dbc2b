"""DALI's own WebDataset reader over our tars, by the index of the split.

For storage that is fast in sequence alone: a shard is read from its beginning to its
end, with no Python per sample. The order is DALI's, and other than that of the other
loaders: the shards are permuted by ours, then its buffer shuffles what it reads.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from torch.utils.dlpack import from_dlpack

from loaders._dali_checks import DaliChecks
from loaders._dali_pipeline import (
    built,
    consumer,
    dali_reason,
    decode_operator,
    describe_decoding,
    new_pipeline,
)
from loaders._epoch import EpochLoader, Made
from loaders._flips import flip_batch
from loaders._open_tar import allow_files
from loaders._runs import BatchRun, SeparateRuns
from loaders._threads import decode_plan
from loaders.arrays import Int64
from loaders.base import LoaderConfig, Source
from loaders.errors import LoaderError, SampleError
from loaders.leftovers import temporary_folder
from loaders.order import flips, stream_key
from loaders.place import Url
from loaders.schedule import (
    DEFAULT_WINDOW,
    PieceSchedule,
    Plan,
    Schedule,
    whole_shards,
)
from loaders.shards import ShardSplit

_OTHER_FILES = 64  # of a pipeline, and spare ones
_SHUFFLE = 100  # keeps DALI's draws apart from the streams of order.py


class DaliReaderLoader(EpochLoader):
    """Reads and decodes with DALI alone; see ``loaders.base.Loader``.

    An epoch is exact: it holds every sample once, and the same (seed, epoch) repeats
    it. To begin at ``first_batch`` it decodes what comes before, and throws it away.
    ``window`` is the size of the buffer that shuffles, in shards; ``None`` is 2. Each
    epoch builds a pipeline of its own, as DALI can't be set back to a given epoch.
    """

    def __init__(self, source: Source, config: LoaderConfig) -> None:
        """See ``LoaderConfig``; ``balance`` can't be had.

        Raises:
            ValueError: ``balance`` is asked for.
            LoaderError: the source holds no shards, or not on this machine.
        """
        self._split = whole_shards("dali-reader", source, config)
        if isinstance(self._split.folder, Url):
            raise LoaderError(
                "the dali-reader loader reads local files: pass --loader webdataset"
            )
        # A piece of the epoch is whole shards but for its ends; DALI shuffles further.
        schedule = PieceSchedule(source, replace(config, window=1))
        super().__init__(schedule, describe_decoding(schedule, fancy=True))
        self._buffer = max(self._split.shard_sizes, default=0) * (
            config.window or DEFAULT_WINDOW
        )

    def _new_run(self, number: int, first_batch: int) -> BatchRun[Made]:
        first = min(first_batch, len(self))
        ahead = self._config.prefetch
        return SeparateRuns(self._epoch_batches, (number, first), len(self), ahead)

    def _epoch_batches(
        self, number: int, first_batch: int
    ) -> Generator[Made, None, None]:
        config, size = self._config, self._schedule.local_size
        parts = [plan.rows for plan in self._schedule.plans(number)]
        rows = np.concatenate(parts or [np.empty(0, np.int64)])
        with (
            temporary_folder() as folder,
            closing(
                _Reading(self._schedule, rows, number, self._buffer, folder)
            ) as reading,
        ):
            for place in range(len(self)):
                images, taken, bad = self._take(reading, min(size, len(reading.left)))
                if place >= first_batch:
                    mirrored = flips(
                        config.seed, number, taken, (config.hflip, config.vflip)
                    )
                    flip_batch(images, mirrored)
                    made = self._finish(Plan(taken, mirrored), images)
                    made = made._replace(errors=bad)
                    yield made.to(self.device, non_blocking=True)

    def _take(
        self, reading: _Reading, size: int
    ) -> tuple[torch.Tensor, Int64, list[SampleError]]:
        """The next images, their rows, and what was skipped on the way to them.

        What is skipped leaves this batch shorter, and those after it as they were.

        Raises:
            SampleError: one can't be decoded, unless it is to be skipped.
        """
        parts: list[_Taken] = []
        bad: list[SampleError] = []
        while (num_missing := size - len(bad) - sum(len(p.rows) for p in parts)) > 0:
            taken = reading.take(num_missing)
            if isinstance(taken, _Taken):
                parts.append(taken)
            elif self._config.on_corrupt == "raise":
                raise taken
            else:
                bad.append(taken)
        if len(parts) == 1:
            return *parts[0], bad
        shape = (0, *self._schedule.shape, 3)
        nothing = torch.empty(shape, dtype=torch.uint8, device=self.device)
        images = torch.cat([nothing, *(part.images for part in parts)])
        rows = [np.empty(0, np.int64), *(part.rows for part in parts)]
        return images, np.concatenate(rows), bad


class _Taken(NamedTuple):
    """Images, uint8[n, H, W, 3], and their rows, int64[n]."""

    images: torch.Tensor
    rows: Int64


class _Reading:
    """An epoch that DALI's reader is in the middle of."""

    def __init__(
        self,
        schedule: Schedule,
        rows: Int64,
        epoch: int,
        buffer: int,
        folder: Path,
    ) -> None:
        """Nothing is read before the first ``take``.

        Args:
            schedule: the loader's, whose source is a ``ShardSplit``.
            rows: int64[n], the rows of the split that are read.
            epoch: the epoch's number, which fixes the order.
            buffer: how many samples are shuffled among.
            folder: where DALI's index files are written, of what is read alone. Those
                beside the tars are not read, as they may say otherwise.
        """
        assert isinstance(schedule.source, ShardSplit)
        split = schedule.source
        self._split, self._schedule = split, schedule
        self._epoch, self._buffer, self._folder = epoch, buffer, folder
        self._row_of = {split.keys[row]: row for row in rows.tolist()}
        self._device = schedule.device
        self._pipeline: Pipeline | None = None
        self._checks: DaliChecks | None = None
        self._num_runs = 0
        # Rows that DALI is not to be given, found and not delivered yet: damaged, or
        # for the host to decode.
        self._apart: dict[int, SampleError | None] = {}
        # Rows not delivered yet, shard by shard as they come up there.
        self.left = dict.fromkeys(rows.tolist())
        order = np.concatenate([*self._wanted().values(), rows[:0]])
        self._place = {row: place for place, row in enumerate(order.tolist())}
        self._num_delivered = 0  # or found bad

    def close(self) -> None:
        """Let go of DALI, its threads and its maps, and of the thread that checks."""
        self._pipeline = None
        if self._checks is not None:
            self._checks.close()

    def take(self, size: int) -> _Taken | SampleError:
        """The next images: so many, or a single one that the host has decoded.

        Or else an image that DALI has failed on, or a damaged one whose place in the
        order of reading has come; it then goes on without it.

        Raises:
            LoaderError: it has failed on something else.
        """
        while True:
            for row in self._apart:
                if self._place[row] < self._num_delivered + size:
                    return self._take_apart(row)
            pipeline = self._pipeline
            if pipeline is None or not self._serves(pipeline, size):
                pipeline = self._build(size)
            self._pipeline = None
            if not self._meets_another(pipeline.max_batch_size):
                break
        try:
            pipeline.schedule_run()
            made, places = pipeline.outputs(cuda_stream=consumer(self._device))
        except RuntimeError as error:
            reason = dali_reason(error)
        else:
            self._pipeline = pipeline
            # DALI pads the last batch, and names a sample as "TAR:OFFSET:MEMBER".
            names = [bytes(places.at(n)).decode() for n in range(size)]
            images: torch.Tensor = from_dlpack(made.as_tensor())[:size]
            return _Taken(images, self._delivered(names))
        return self._find_bad(reason)  # not above, where the error holds the pipeline

    def _take_apart(self, row: int) -> _Taken | SampleError:
        """An image that DALI is not given, by the host, or why it can't be had."""
        del self.left[row]
        self._num_delivered += 1
        return self._apart.pop(row) or self._decode(row)

    def _decode(self, row: int) -> _Taken | SampleError:
        """An image as the host decodes it, or why it can't."""
        plan = Plan(np.array([row]), np.zeros((1, 2), np.bool_))
        verify = self._schedule.config.verify_reads
        images, failures = decode_plan(
            self._split, plan, self._schedule.shape, verify=verify
        )
        if failures:
            return failures[0][1]
        return _Taken(images.to(self._device), plan.rows)

    def _delivered(self, names: list[str]) -> Int64:
        """The rows of samples as DALI names them, which are not left any more."""
        keys = [name.rpartition(":")[2].partition(".")[0] for name in names]
        rows = [self._row_of[key] for key in keys]
        for key, row in zip(keys, rows, strict=True):
            if row not in self.left:
                raise LoaderError(f"DALI has delivered sample {key} twice")
            del self.left[row]
        self._num_delivered += len(rows)
        return np.array(rows, np.int64)

    def _serves(self, pipeline: Pipeline, size: int) -> bool:
        """Whether its next batch is of this size, or the last, which DALI pads.

        A batch with bad images is smaller than the one before and the next.
        """
        is_last = size == len(self.left) - len(self._apart)
        return pipeline.max_batch_size == size or (
            is_last and pipeline.max_batch_size > size
        )

    def _meets_another(self, batch_size: int) -> bool:
        """Whether DALI is not to be given a row that it may decode in its next run."""
        assert self._checks is not None
        self._num_runs += 1
        found = self._checks.first_apart(self._buffer + self._num_runs * batch_size)
        self._apart.update(found)
        return bool(found)

    def _find_bad(self, reason: str) -> SampleError:
        """The first of the images left that the host can't decode either.

        Raises:
            ShardError: a tar can't be read any more.
            LoaderError: the host finds nothing wrong.
        """
        for row in self.left:
            failure = self._decode(row)
            if isinstance(failure, SampleError):
                del self.left[row]
                self._num_delivered += 1
                return failure
        self._check_sizes(self._wanted())
        raise LoaderError(f"DALI can't go on: {reason}")

    def _build(self, batch_size: int) -> Pipeline:
        config, device = self._schedule.config, self._device
        wanted = self._wanted()
        tars, indices = self._files(wanted)
        # Runs that DALI starts ahead, and what its reader prefetches.
        self._num_runs = config.prefetch + 2
        if self._checks is not None:
            self._checks.close()
        order = np.concatenate([*wanted.values(), np.empty(0, np.int64)])
        self._checks = DaliChecks(self._schedule, order)
        seed = stream_key(config.seed, self._epoch, _SHUFFLE) & 0x7FFFFFFF
        with new_pipeline(config, batch_size, device) as pipeline:
            jpegs = fn.readers.webdataset(
                paths=tars,
                index_paths=indices,
                ext=["jpg"],
                missing_component_behavior="error",
                random_shuffle=config.shuffle,
                initial_fill=min(self._buffer, len(self.left)),
                seed=seed,
                # A map of a tar that is cut short ends the process with a SIGBUS.
                dont_use_mmap=True,
                # Together with our counting, what makes an epoch exact.
                pad_last_batch=True,
                stick_to_shard=True,
            )
            images = decode_operator(jpegs, self._schedule, device, fancy=True)
            pipeline.set_outputs(images, fn.get_property(jpegs, key="source_info"))
        return built(pipeline, device)

    def _wanted(self) -> dict[int, Int64]:
        """The rows to read of each shard, int64[n], both in the order of reading."""
        rows = np.array([r for r in self.left if r not in self._apart], np.int64)
        numbers = self._split.shard_of(rows)
        return {
            number: np.sort(rows[numbers == number])
            for number in dict.fromkeys(numbers.tolist())
        }

    def _files(self, wanted: Mapping[int, Int64]) -> tuple[list[str], list[str]]:
        """The tars to read, in order, and for each the index of what to read of it.

        Raises:
            ShardError: a tar is missing, or has another size than the manifest says.
            LoaderError: they are more than may be open.
        """
        self._check_sizes(wanted)
        if not allow_files(len(wanted) + _OTHER_FILES):
            raise LoaderError(
                f"DALI keeps all {len(wanted):,} tars open (Too many open files): "
                "allow more (ulimit -n), or pass --loader turbo"
            )
        folder = Path(str(self._split.folder))
        tars = [folder / self._split.shards[number].name for number in wanted]
        indices = [
            self._index(tar.with_suffix(".idx").name, rows)
            for tar, rows in zip(tars, wanted.values(), strict=True)
        ]
        return [str(tar) for tar in tars], [str(index) for index in indices]

    def _check_sizes(self, numbers: Iterable[int]) -> None:
        """Raise the ``ShardError`` of the first tar that can't be had as it was."""
        for number in numbers:
            self._split.open_shard(number).close()

    def _index(self, name: str, rows: Int64) -> Path:
        """An index of these rows of a shard, int64[n], for DALI: 1 us each."""
        keys, places = self._split.keys, self._split.places_of(rows)
        spans = zip(
            rows.tolist(), places.offset.tolist(), places.size.tolist(), strict=True
        )
        lines = [f"jpg {start} {size} {keys[row]}.jpg" for row, start, size in spans]
        path = self._folder / name
        path.write_text("\n".join([f"v1.2 {len(lines)}", *lines, ""]))
        return path
