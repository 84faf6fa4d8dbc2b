"""The webdataset library, streaming: whole shards in sequence, from files or http.

    loader = make_loader("webdataset", "https://host/shards", "train", config)

    shards in the epoch's order --threads that stream--> bytes of each row
        --taken row by row, by threads that decode--> Batch

Threads stream the shards, each the next in our order, and give the samples to the
decoders of ``turbo``. So every sample comes once per epoch, whatever the number of
threads and shards, and an epoch can begin anywhere. What is shuffled is a window of
shards, whose bytes are in memory.
"""

from __future__ import annotations

import os
import tarfile
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cached_property
from http.client import HTTPException

import numpy as np

from loaders._epoch import EpochLoader, Made, to_device
from loaders._threads import ThreadedDecoder
from loaders.arrays import Int64
from loaders.base import LoaderConfig, Source
from loaders.errors import LoaderError, SampleError, ShardError
from loaders.place import Url
from loaders.schedule import DEFAULT_WINDOW, PieceSchedule, Plan, whole_shards
from loaders.shards import ShardSplit

# Read when webdataset is imported: no shell commands in URLs, no unpickling. What is
# used here opens no URL and decodes nothing, so this is for whatever comes later.
os.environ.setdefault("WDS_SECURE", "1")

from webdataset.tariterators import group_by_keys, tar_file_expander

_ATTEMPTS, _PAUSE = 3, 0.5  # for a shard from a server; seconds before the second


class WebDatasetLoader(EpochLoader):
    """Streams shards and decodes as ``turbo`` does; see ``loaders.base.Loader``.

    ``workers`` are the threads that decode, and as many that stream. One rank's order
    is that of ``EpochOrder`` with the config's ``window`` (``None`` is 2 shards here).
    Several ranks share out that order in one piece each, so that a shard is streamed by
    one of them, or two; their global batches are others than a single rank's.
    """

    def __init__(self, source: Source, config: LoaderConfig) -> None:
        """See ``LoaderConfig``; ``balance`` can't be had.

        Raises:
            ValueError: ``balance`` is asked for, which may need a shard many times.
            LoaderError: the source holds no shards.
        """
        self._stream = _StreamedSource(whole_shards("webdataset", source, config))
        config = replace(config, window=config.window or DEFAULT_WINDOW)
        schedule = PieceSchedule(self._stream, config)
        self._decoder = ThreadedDecoder(schedule)
        super().__init__(schedule, self._decoder.decoding)

    def close(self) -> None:
        """Stop the threads and free the buffers."""
        super().close()
        self._decoder.close()

    def _batches(self, plans: Iterator[Plan]) -> Generator[Made, None, None]:
        return to_device(self._host_batches(plans), self.device)

    def _host_batches(self, plans: Iterator[Plan]) -> Generator[Made, None, None]:
        """The planned batches in host memory, while their shards are streamed."""
        listed = list(plans)
        batches = self._finish_all(self._decoder.decode(iter(listed)))
        rows = [plan.rows for plan in listed] or [np.empty(0, np.int64)]
        window = self._config.window if self._config.shuffle else 1
        ahead = max(self._stream.shard_sizes, default=0) * (window or 1)
        # Streams end first, as decoders may wait for them; "yield from" would not do.
        with (
            closing(batches),
            self._stream.reading(np.concatenate(rows), self._decoder.workers, ahead),
        ):
            for batch in batches:  # noqa: UP028
                yield batch


class _StreamedSource:
    """A split as a source: reading a row waits until it has been streamed."""

    def __init__(self, split: ShardSplit) -> None:
        self.split = split
        self.rows, self.labels = split.rows, split.labels
        self.shard_sizes, self.dimensions = split.shard_sizes, split.dimensions
        self._epoch: _EpochStream | None = None

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.split.column("key"))}

    @contextmanager
    def reading(self, rows: Int64, threads: int, ahead: int) -> Iterator[None]:
        """Stream an epoch's rows, int64[n] in its order, within the ``with``."""
        self._epoch = _EpochStream(self.split, rows, self._row_of, threads, ahead)
        try:
            self._epoch.start()
            yield
        finally:
            self._epoch.stop()
            self._epoch = None

    def read(self, row: int) -> bytes:
        """The JPEG bytes of a row, which can be had once; waits until they arrive."""
        assert self._epoch is not None
        return self._epoch.take(row)

    def failure(self, row: int, reason: str) -> SampleError:
        """The error that names the place of a row."""
        return self.split.failure(row, reason)

    def close(self) -> None:
        """Do nothing, as nothing is held open between epochs."""


class _EpochStream:
    """An epoch's shards, streamed by threads in the order in which they are needed.

    A shard is begun when its first row is at most ``ahead`` places from the furthest
    that has been asked for; so nobody waits for a shard that waits for him.
    """

    def __init__(
        self,
        split: ShardSplit,
        rows: Int64,
        row_of: Mapping[str, int],
        threads: int,
        ahead: int,
    ) -> None:
        self._split, self._row_of, self._ahead = split, row_of, ahead
        numbers = split.shard_of(rows).tolist()
        self._shard = dict(zip(rows.tolist(), numbers, strict=True))
        self._place = {row: place for place, row in enumerate(rows.tolist())}
        self._wanted: dict[int, set[int]] = {}  # rows by shard, in order of need
        for row, number in self._shard.items():
            self._wanted.setdefault(number, set()).add(row)
        self._todo: deque[tuple[int, int]] = deque(
            (min(self._place[row] for row in wanted), number)
            for number, wanted in self._wanted.items()
        )
        self._furthest = 0
        self._arrived: dict[int, bytes | SampleError] = {}
        self._errors: dict[int, Exception] = {}  # by shard
        self._stopped = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(min(threads, len(self._todo)))
        ]

    def start(self) -> None:
        """Begin to stream."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads after the sample that they are at; let go of the bytes."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._arrived.clear()

    def take(self, row: int) -> bytes:
        """The bytes of a row, which are then forgotten.

        Raises:
            SampleError: they are not what the index says.
            ShardError: its shard can't be read.
        """
        with self._changed:
            if self._place[row] > self._furthest:
                self._furthest = self._place[row]
                if self._todo and self._may_begin():
                    self._changed.notify_all()
            while row not in self._arrived:
                if self._stopped:
                    raise LoaderError("the epoch has ended")
                if (error := self._errors.get(self._shard[row])) is not None:
                    raise error
                self._changed.wait()
            jpeg = self._arrived.pop(row)
        if isinstance(jpeg, SampleError):
            raise jpeg
        return jpeg

    def _may_begin(self) -> bool:
        return self._todo[0][0] <= self._furthest + self._ahead

    def _work(self) -> None:
        """Stream one shard after the other."""
        while (number := self._next_shard()) is not None:
            try:
                self._stream(number)
            except Exception as error:  # for those who wait for its samples
                with self._changed:
                    self._errors[number] = error
                    self._changed.notify_all()

    def _next_shard(self) -> int | None:
        with self._changed:
            while self._todo and not self._stopped and not self._may_begin():
                self._changed.wait()
            if self._stopped or not self._todo:
                return None
            return self._todo.popleft()[1]

    def _stream(self, number: int) -> None:
        """Put a shard's samples where they are waited for.

        Raises:
            ShardError: it can't be read, from a server not at the third attempt either.
        """
        left = self._wanted[number]
        remote = isinstance(self._split.folder, Url)
        for attempt in range(_ATTEMPTS if remote else 1):
            if attempt and self._has_ended(_PAUSE * attempt):
                return
            try:
                self._stream_once(number, left)
                break
            except ShardError as error:
                failure = error
            except (OSError, HTTPException, tarfile.TarError) as error:
                path = self._split.folder / self._split.shards[number].name
                failure = ShardError(f"{path} cannot be read ({_reason(error)})")
        else:
            raise failure
        if not self._stopped:
            for row in left:
                self._put(row, self._split.failure(row, "it is not in its shard"))

    def _has_ended(self, seconds: float) -> bool:
        """Whether the epoch ends while this waits."""
        with self._changed:
            return self._changed.wait_for(lambda: self._stopped, seconds)

    def _stream_once(self, number: int, left: set[int]) -> None:
        """Stream a shard from its beginning; what has come is not ``left`` any more."""
        with self._split.open_shard(number) as stream:
            source = [{"url": self._split.shards[number].name, "stream": stream}]
            files = tar_file_expander(source, select_files=_is_needed)
            for sample in group_by_keys(files):
                row = self._row_of.get(sample["__key__"], -1)
                if row in left:
                    left.discard(row)
                    self._put(row, self._checked(row, sample))
                if self._stopped or not left:
                    return

    def _put(self, row: int, jpeg: bytes | SampleError) -> None:
        with self._changed:
            self._arrived[row] = jpeg
            self._changed.notify_all()

    def _checked(self, row: int, sample: Mapping[str, bytes]) -> bytes | SampleError:
        """The JPEG of a sample, if it is what the index says of it."""
        jpeg, grade = sample.get("jpg", b""), sample.get("cls", b"")
        listed, label = self._split.jpeg_size(row), self._split.labels[row]
        if len(jpeg) != listed:
            reason = f"it has {len(jpeg):,} bytes, the index says {listed:,}"
            return self._split.failure(row, reason)
        if grade != b"%d" % label:
            text = grade.decode("ascii", "replace") or "missing"
            reason = f"its grade is {text}, the index says {label}"
            return self._split.failure(row, reason)
        return bytes(jpeg)


def _is_needed(name: str) -> bool:
    return not name.endswith(".json")


def _reason(error: Exception) -> str:
    """What went wrong, without what webdataset adds to it."""
    text = getattr(error, "strerror", None) or (error.args or [error])[0]
    return str(text).partition(" @ ")[0]
