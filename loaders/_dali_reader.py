"""DALI's own WebDataset reader over our tars and their ``.idx`` files.

For storage that is fast in sequence alone: a shard is read from its beginning to its
end, with no Python per sample. The order is DALI's, and other than that of the other
loaders: the shards are permuted by ours, then its buffer shuffles what it reads.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from torch.utils.dlpack import from_dlpack

from loaders._dali_pipeline import (
    built,
    consumer,
    decode_operator,
    describe_decoding,
    first_line,
    new_pipeline,
)
from loaders._epoch import EpochLoader, Made
from loaders._threads import decode_plan, flip_batch
from loaders.arrays import Int64
from loaders.base import LoaderConfig, Source
from loaders.errors import LoaderError, SampleError
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

    def _batches(self, number: int, first_batch: int) -> Generator[Made, None, None]:
        config, size = self._config, self._schedule.local_size
        parts = [plan.rows for plan in self._schedule.plans(number)]
        rows = np.concatenate(parts or [np.empty(0, np.int64)])
        with (
            TemporaryDirectory(prefix="fastretina-") as folder,
            closing(
                _Reading(self._schedule, rows, number, self._buffer, Path(folder))
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
        bad: list[SampleError] = []
        while len(bad) < size:
            taken = reading.take(size - len(bad))
            if not isinstance(taken, SampleError):
                return *taken, bad
            if self._config.on_corrupt == "raise":
                raise taken
            bad.append(taken)
        shape = (0, *self._schedule.shape, 3)
        return torch.empty(shape, dtype=torch.uint8), np.empty(0, np.int64), bad


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
            folder: where index files of shards that are not read whole are written.
        """
        assert isinstance(schedule.source, ShardSplit)
        split = schedule.source
        self._split, self._schedule = split, schedule
        self._epoch, self._buffer, self._folder = epoch, buffer, folder
        self._row_of = {key: row for row, key in enumerate(split.column("key"))}
        self._device = schedule.device
        self._pipeline: Pipeline | None = None
        # Rows not delivered yet, shard by shard as they come up there.
        self.left = dict.fromkeys(rows.tolist())

    def close(self) -> None:
        """Let go of DALI, its threads and its maps."""
        self._pipeline = None

    def take(self, size: int) -> tuple[torch.Tensor, Int64] | SampleError:
        """The next batch: uint8[size, H, W, 3] and the rows, int64[size].

        Or else an image that DALI has failed on, without which it then goes on.

        Raises:
            LoaderError: it has failed on something else.
        """
        pipeline = self._pipeline
        # One that was built for a batch with bad images is too small for the next.
        if pipeline is None or pipeline.max_batch_size < size:
            pipeline = self._build(size)
        self._pipeline = None
        try:
            pipeline.schedule_run()
            made, places = pipeline.outputs(cuda_stream=consumer(self._device))
        except RuntimeError as error:
            reason = first_line(error)
        else:
            self._pipeline = pipeline
            # DALI pads the last batch, and names a sample as "TAR:OFFSET:MEMBER".
            names = [bytes(places.at(n)).decode() for n in range(size)]
            images: torch.Tensor = from_dlpack(made.as_tensor())[:size]
            return images, self._delivered(names)
        return self._find_bad(reason)  # not above, where the error holds the pipeline

    def _delivered(self, names: list[str]) -> Int64:
        """The rows of samples as DALI names them, which are not left any more."""
        keys = [name.rpartition(":")[2].partition(".")[0] for name in names]
        rows = [self._row_of[key] for key in keys]
        for key, row in zip(keys, rows, strict=True):
            if row not in self.left:
                raise LoaderError(f"DALI has delivered sample {key} twice")
            del self.left[row]
        return np.array(rows, np.int64)

    def _find_bad(self, reason: str) -> SampleError:
        """The first of the images left that the host can't decode either."""
        for row in self.left:
            plan = Plan(np.array([row]), np.zeros((1, 2), np.bool_))
            _, failures = decode_plan(self._split, plan, self._schedule.shape)
            if failures:
                del self.left[row]
                return failures[0][1]
        raise LoaderError(f"DALI can't go on: {reason}")

    def _build(self, batch_size: int) -> Pipeline:
        config, device = self._schedule.config, self._device
        tars, indices = self._files()
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
                # Together with our counting, what makes an epoch exact.
                pad_last_batch=True,
                stick_to_shard=True,
            )
            images = decode_operator(jpegs, self._schedule, device, fancy=True)
            pipeline.set_outputs(images, fn.get_property(jpegs, key="source_info"))
        return built(pipeline, device)

    def _files(self) -> tuple[list[str], list[str]]:
        """The tars to read, in order, and for each the index of what to read of it."""
        wanted: dict[int, list[int]] = {}
        rows = np.array(list(self.left), np.int64)
        for row, number in zip(rows.tolist(), self._split.shard_of(rows), strict=True):
            wanted.setdefault(int(number), []).append(row)
        folder = Path(str(self._split.folder))
        tars = [folder / self._split.shards[number].name for number in wanted]
        indices = [
            self._index(tar.with_suffix(".idx"), number, rows)
            for tar, (number, rows) in zip(tars, wanted.items(), strict=True)
        ]
        return [str(tar) for tar in tars], [str(index) for index in indices]

    def _index(self, whole: Path, number: int, rows: list[int]) -> Path:
        """A shard's index, or one of only these rows."""
        version, *lines = whole.read_text().splitlines()
        if len(rows) == len(lines):
            return whole
        first = sum(shard.samples for shard in self._split.shards[:number])
        chosen = [lines[row - first] for row in sorted(rows)]
        part = self._folder / whole.name
        head = f"{version.split()[0]} {len(chosen)}"
        part.write_text("\n".join([head, *chosen, ""]))
        return part
