"""Whole shards, read ahead in big pieces and cut by our index: from files or http.

    order of an epoch --> shards, by when they are needed --threads, piece by piece-->
    bytes of the shard --a batch's rows are cut out of them--> JPEGs, without a copy

A piece is a megabyte, so that neither a system call nor the waking of those who wait
for it comes to one for each sample, which kept 16 threads at 0.11 of what they can do.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from crc32c import crc32c

from loaders.arrays import Int64
from loaders.base import Jpeg, Reading
from loaders.errors import LoaderError, ShardError
from loaders.place import Url
from loaders.shards import DAMAGED, JpegPlaces, ShardSplit
from loaders.tar import BLOCK

_PIECE = 1 << 20  # bytes
_ATTEMPTS, _PAUSE = 3, 0.5  # for a shard from a server; seconds before the second
_MOST_WAIT = 1.0  # seconds for a thread to end that may be connecting to a server


class EpochStream:
    """An epoch's shards, read by threads in the order in which they are needed.

    A shard is begun when its first row is at most ``ahead`` places from the furthest
    that has been asked for; so nobody waits for a shard that waits for him. It is let
    go with the last batch that is cut out of it.
    """

    def __init__(
        self, split: ShardSplit, rows: Int64, threads: int, ahead: int
    ) -> None:
        """Nothing is read before ``start``.

        Args:
            split: where the rows are.
            rows: int64[n], each row of the epoch once, in its order.
            threads: the most that read at once.
            ahead: places that are read ahead of.
        """
        self._split, self._ahead = split, ahead
        self._remote = isinstance(split.folder, Url)
        shards = _needed_shards(split, rows)
        self._shards = {shard.number: shard for shard in shards}
        self._todo = deque(shards)
        self._asked = 0  # rows that have been asked for
        self._lock = threading.Lock()  # held for a change, and for a look before a wait
        self._may_begin = threading.Condition(self._lock)  # awaited by one that reads
        self._waiting: list[_Waiting] = []
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(min(threads, len(shards)))
        ]

    def start(self) -> None:
        """Begin to read."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads after the piece that they are at; let go of the bytes.

        One that waits for a server is not waited for for long, and ends by itself.
        """
        with self._lock:
            self._stopped.set()
            self._may_begin.notify_all()
            self._let_go(list(self._waiting))
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_MOST_WAIT if self._remote else None)
        self._todo.clear()
        self._shards.clear()

    def reading(self, rows: Int64, verify: bool) -> Reading:
        """How the next of the epoch's batches is read, int64[B] rows in its order.

        Its ``read`` waits until the bytes have come. It raises ``SampleError`` where
        they are not what the index says, ``ShardError`` where a shard can't be read,
        and ``LoaderError`` where the stream has been stopped.
        """
        split = self._split
        places = split.places_of(rows)
        shards = self._ask_for(places.shard.tolist())
        samples = _indexed_samples(split, rows, places)
        sums = split.checksums(rows) if verify else None

        def read(place: int) -> Jpeg:
            shard, sample = shards[place], samples[place]
            if shard.end_read < sample.end:
                self._wait_for(shard, sample.end)
            jpeg = shard.cut(sample.start, sample.stop)
            fault = sample.fault_in(shard) if verify else None
            if fault is None and sums is not None and crc32c(jpeg) != sums[place]:
                fault = DAMAGED
            if fault is not None:
                raise split.failure(int(rows[place]), fault)
            return jpeg

        return Reading(read)

    def _ask_for(self, numbers: list[int]) -> list[_StreamedShard]:
        """The shards of the next rows, by their numbers; each is begun by now."""
        with self._lock:
            if self._stopped.is_set():
                raise LoaderError("the epoch has ended")
            shards = [self._shards[number] for number in numbers]
            self._asked += len(shards)
            for number, count in Counter(numbers).items():
                shard = self._shards[number]
                shard.rows_left -= count
                if not shard.rows_left:  # those batches and its reader hold it now
                    del self._shards[number]
            self._wake_a_reader()
        return shards

    def _wait_for(self, shard: _StreamedShard, end: int) -> None:
        """Wait until a shard has been read up to a place in its tar."""
        waiting = _Waiting(shard, end, threading.Lock())
        with self._lock:
            if not waiting.is_over and not self._stopped.is_set():
                waiting.lock.acquire()
                self._waiting.append(waiting)
        with waiting.lock:
            pass
        if shard.end_read < end:
            raise shard.error or LoaderError("the epoch has ended")

    def _tell(self, shard: _StreamedShard, news: int | Exception) -> None:
        """Tell those who wait for a shard how far it has come, or why it won't."""
        with self._lock:
            if isinstance(news, Exception):
                shard.error = news
            else:
                shard.end_read = news
            self._let_go([one for one in self._waiting if one.is_over])

    def _let_go(self, waiting: Sequence[_Waiting]) -> None:
        for one in waiting:
            self._waiting.remove(one)
            one.lock.release()

    def _has_begin(self) -> bool:
        return bool(self._todo) and (
            self._todo[0].first_place <= self._asked + self._ahead
        )

    def _wake_a_reader(self) -> None:
        """Wake one thread where there is a shard to begin with."""
        if self._has_begin():
            self._may_begin.notify()

    def _work(self) -> None:
        """Read one shard after the other."""
        while (shard := self._next_shard()) is not None:
            try:
                self._read(shard)
            except Exception as error:  # for those who wait for its samples
                self._tell(shard, error)
            del shard  # not to be kept while the next one is waited for

    def _next_shard(self) -> _StreamedShard | None:
        with self._lock:
            while self._todo and not self._stopped.is_set() and not self._has_begin():
                self._may_begin.wait()
            if self._stopped.is_set() or not self._todo:
                return None
            shard = self._todo.popleft()
            self._wake_a_reader()
            return shard

    def _read(self, shard: _StreamedShard) -> None:
        """Read what is needed of a shard.

        Raises:
            ShardError: it can't be read, from a server not at the third attempt either.
        """
        info = self._split.shards[shard.number]
        path = self._split.folder / info.name
        if not 0 <= shard.start <= shard.end <= info.bytes:
            raise ShardError(f"{path}: the index points out of it; shard again")
        for attempt in range(_ATTEMPTS if self._remote else 1):
            if attempt and self._stopped.wait(_PAUSE * attempt):
                return
            try:
                number, stopped = shard.number, self._stopped
                with self._split.open_shard(number, stopped=stopped) as stream:
                    self._read_pieces(stream, shard)
                return
            except ShardError as error:
                failure = error
            except OSError as error:
                failure = ShardError(
                    f"{path} cannot be read ({error.strerror or error})"
                )
            except MemoryError:
                needed = shard.end - shard.start
                reason = f"there is no memory for {needed:,} bytes of it"
                raise ShardError(f"{path} cannot be read ({reason})") from None
        raise failure

    def _read_pieces(self, stream: BinaryIO, shard: _StreamedShard) -> None:
        """Go on with a shard from where its reading has come to.

        Raises:
            OSError: it ends too early.
        """
        place = 0
        if stream.seekable():
            place = stream.seek(shard.end_read)
        while not self._stopped.is_set() and place < shard.end:
            piece = shard.room(place)
            num_read = stream.readinto(piece)  # type: ignore[attr-defined]
            if not num_read:
                size = self._split.shards[shard.number].bytes
                raise OSError(f"it ends after {place:,} of {size:,} bytes")
            place += num_read
            if place > shard.end_read:
                self._tell(shard, place)


class _StreamedShard:
    """The part of a shard that is needed, as far as it has been read.

    Attributes:
        number: the shard's.
        first_place: place in the epoch of the first of its rows.
        rows_left: its rows that have not been asked for.
        start: where in the tar what is needed begins.
        end: where it ends.
        end_read: where in the tar what has been read ends.
        error: why it can't be read further.
    """

    def __init__(
        self, number: int, first_place: int, rows: int, start: int, end: int
    ) -> None:
        self.number, self.first_place, self.rows_left = number, first_place, rows
        self.start, self.end = start, end
        self.end_read = start
        self.error: Exception | None = None
        self._bytes = memoryview(b"")

    def room(self, place: int) -> memoryview:
        """Where to put the next bytes, those from this place of the tar on."""
        if place < self.end_read:  # what is not needed, or has been read before
            return memoryview(bytearray(min(_PIECE, self.end_read - place)))
        if not self._bytes:
            # NumPy asks Linux for huge pages: 1.5 ms less for a shard of 26 MB.
            self._bytes = np.empty(self.end - self.start, np.uint8).data
        return self._bytes[place - self.start :][:_PIECE]

    def byte(self, place: int) -> int:
        """The byte at a place of the tar, which has been read."""
        return self._bytes[place - self.start]

    def cut(self, start: int, end: int) -> memoryview:
        """The bytes between two places of the tar, which have been read."""
        return self._bytes[start - self.start : end - self.start]


def _needed_shards(split: ShardSplit, rows: Int64) -> list[_StreamedShard]:
    """An epoch's shards, in the order in which its rows, int64[n], need them."""
    if not len(rows):
        return []
    places = split.places_of(rows)
    by_shard = np.argsort(places.shard, kind="stable")
    numbers, first, counts = np.unique(
        places.shard[by_shard], return_index=True, return_counts=True
    )
    starts = np.minimum.reduceat(places.offset[by_shard], first) - BLOCK
    ends = np.maximum.reduceat(_grade_places(places)[by_shard], first) + 1
    table = np.stack([numbers, by_shard[first], counts, starts, ends], axis=1)
    return [_StreamedShard(*line) for line in table[table[:, 1].argsort()].tolist()]


def _grade_places(places: JpegPlaces) -> Int64:
    """Where the grades stand, one digit each, in the tar's next member: int64[n]."""
    return places.offset + -(-places.size // BLOCK) * BLOCK + BLOCK


class _Waiting(NamedTuple):
    """A thread that waits until a shard has been read up to a place in its tar."""

    shard: _StreamedShard
    end: int
    lock: threading.Lock  # held until its waiting is over

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.shard.end_read >= self.end or self.shard.error is not None


class _IndexedSample(NamedTuple):
    """What the index says of a sample, and where it must be in the tar.

    Attributes:
        key: its name.
        grade: 0 to 4.
        start: where its JPEG begins.
        stop: where that ends.
        end: where its grade does, a digit and the last of what is looked at.
    """

    key: str
    grade: int
    start: int
    stop: int
    end: int

    def fault_in(self, shard: _StreamedShard) -> str | None:
        """What is not as the index says, if anything is."""
        header = bytes(shard.cut(self.start - BLOCK, self.start))
        if not header.startswith(b"%b.jpg\0" % self.key.encode()):
            return "it is not where the index says"
        size = self.stop - self.start
        if not header.startswith(b"%011o" % size, _SIZE_PLACE):
            return f"its size is another than the {size:,} bytes of the index"
        grade = shard.byte(self.end - 1)
        if grade != _ZERO + self.grade:
            return f"its grade is {chr(grade)!a}, the index says {self.grade}"
        return None


_SIZE_PLACE = 124  # of a member, in its header
_ZERO = ord("0")


def _indexed_samples(
    split: ShardSplit, rows: Int64, places: JpegPlaces
) -> list[_IndexedSample]:
    keys = split.keys
    return list(
        map(
            _IndexedSample,
            [keys[row] for row in rows.tolist()],
            split.labels[rows].tolist(),
            places.offset.tolist(),
            (places.offset + places.size).tolist(),
            (_grade_places(places) + 1).tolist(),
        )
    )
