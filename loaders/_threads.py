"""Threads that decode plans, straight into a ring of batch buffers.

    plans --> parts of 4 images, the --> threads: read, decode, flip --> slot of the
              oldest batch's first       each image into its place       ring, one
                                                                         per batch

Each sample costs one decode into its place in the batch, where ``cv2.flip`` mirrors it.
Decoding releases the GIL, so threads suffice and no pixel crosses a process border. The
rest of it needs the GIL: it is done for a whole batch where it can be, and a part is
several images, as 16 threads that took one each reached 0.28 of what they could decode.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from itertools import count, islice
from time import perf_counter

import torch

from loaders._epoch import Decoded, Failure
from loaders._ring import new_ring
from loaders.arrays import UInt8
from loaders.base import Decoding, Jpeg, Source
from loaders.cores import granted_cores
from loaders.decode import (
    Decoder,
    describe_failure,
    flip_codes,
)
from loaders.errors import SampleError
from loaders.schedule import Plan, Schedule

_MOST_IMAGES = 4  # to a part

# Seconds, some of the time that it takes to wake a thread and hand it Python's lock.
_QUICK = 100e-6
_SLOW_PARTS = 4  # one alone may have been interrupted


class ThreadedDecoder:
    """Decodes a schedule's plans in threads of its own, in order.

    Holds ``prefetch + 2`` batches of memory: those being made, the one in use and the
    one before it, which is still valid.

    Attributes:
        workers: threads that decode.
        decoding: who makes the pixels.
    """

    def __init__(self, schedule: Schedule) -> None:
        """Take what the batches hold; no thread begins before the first plan."""
        self.workers = schedule.config.workers or granted_cores()
        self.decoding = Decoding(
            f"simplejpeg {version('simplejpeg')}",
            "libjpeg-turbo",
            "torch" if schedule.resizes else None,
        )
        self._schedule = schedule
        self._source, self._verify = schedule.source, schedule.config.verify_reads
        self._part_size = _part_size(schedule, self.workers)
        self._ring: deque[_Slot] | None = None

    def close(self) -> None:
        """Free the buffers; the threads have ended with their epoch."""
        self._ring = None

    def decode(self, plans: Iterator[Plan]) -> Generator[Decoded, None, None]:
        """Decoded plans, ``prefetch`` of them in the making at any time."""
        if self._ring is None:
            self._ring = deque(map(_Slot, new_ring(self._schedule)))
        ring = self._ring
        todo = _Todo(self.workers, self._part_size)
        jobs: deque[_Job] = deque()
        try:
            while True:
                room = self._schedule.config.prefetch + 1 - len(jobs)
                for plan in islice(plans, room):
                    job = _Job(self._source, plan, ring[len(jobs)], self._verify)
                    jobs.append(job)
                    todo.add(job)
                if not jobs:
                    return
                job = jobs.popleft()
                failures = job.wait()
                ring.rotate(-1)  # the last to be filled again, in the next epoch, too
                yield Decoded(job.plan, job.images, failures)
        finally:
            todo.stop()


def _part_size(schedule: Schedule, workers: int) -> int:
    """Images to a part: 4, and fewer where threads would have less than 1.5 parts."""
    under_way = schedule.local_size * (schedule.config.prefetch + 1)
    return max(1, min(_MOST_IMAGES, 2 * under_way // (3 * workers)))


def decode_plan(
    source: Source, plan: Plan, shape: tuple[int, int], *, verify: bool = True
) -> tuple[torch.Tensor, list[Failure]]:
    """Decode a batch in this thread: for what another decoder has failed on.

    Returns:
        uint8[B, H, W, 3], and the images that can't be decoded.
    """
    images = torch.empty((len(plan.rows), *shape, 3), dtype=torch.uint8)
    job = _Job(source, plan, _Slot(images), verify)
    for part in job.divide(max(len(plan.rows), 1)):
        job.make(part, Decoder())
    return images, job.wait()


@lru_cache(maxsize=8)
def _divided(size: int, part_size: int) -> Sequence[range]:
    return [range(n, min(n + part_size, size)) for n in range(0, size, part_size)]


class _Todo:
    """What nobody makes yet, the oldest batch's first, and the threads that make it.

    To wake a thread, or to begin one, takes longer than to make a part of small images.
    So that is done one at a time, by whoever adds or takes a part and sees more, and
    the one that was busy last is woken first. While parts are quick to make it is not
    done at all, as long as any thread is awake.
    """

    def __init__(self, workers: int, part_size: int) -> None:
        """Begin no thread yet.

        Args:
            workers: the most threads.
            part_size: images to a part.
        """
        self._part_size = part_size
        self._parts: deque[tuple[_Job, range]] = deque()
        self._idle: deque[threading.Lock] = deque()  # what each of those threads awaits
        # Decoders are made here: what a thread raises, such as for want of memory,
        # nobody would hear, and its batch would be waited for.
        self._threads = [
            threading.Thread(target=self._work, args=(Decoder(),), daemon=True)
            for _ in range(workers)
        ]
        self._not_begun = deque(self._threads)
        self._slow_parts = _SLOW_PARTS  # made one after the other, up to now
        self._stopped = False

    def add(self, job: _Job) -> None:
        """Have a batch made."""
        self._parts.extend([(job, part) for part in job.divide(self._part_size)])
        num_begun = len(self._threads) - len(self._not_begun)
        if self._slow_parts >= _SLOW_PARTS or len(self._idle) == num_begun:
            self._call_one()

    def stop(self) -> None:
        """Have nobody begin another part, and wait for the threads to end theirs."""
        self._stopped = True
        self._parts.clear()
        self._not_begun.clear()
        while self._wake_one():
            pass
        for thread in self._threads:  # whoever began one stands before it
            if thread.ident is not None:
                thread.join()

    def _work(self, decode: Decoder) -> None:
        """Make parts, in a thread, until this is stopped."""
        awaited = threading.Lock()
        awaited.acquire()
        while not self._stopped:
            self._make_parts(decode)
            self._idle.append(awaited)
            if self._parts or self._stopped:  # as of someone who had not seen that
                self._wake_one()
            awaited.acquire()

    def _call_one(self) -> None:
        """Wake a thread that has nothing to do, or begin another, if there is any."""
        if not self._wake_one():
            with suppress(IndexError):
                self._not_begun.popleft().start()

    def _wake_one(self) -> bool:
        """Wake the thread that was busy last; False if all are awake."""
        try:
            self._idle.pop().release()
        except IndexError:
            return False
        return True

    def _make_parts(self, decode: Decoder) -> None:
        """Make parts for as long as there are any."""
        while (next_part := self._next_part()) is not None:
            job, part = next_part
            begun = perf_counter()
            job.make(part, decode)
            quick = perf_counter() - begun < _QUICK
            self._slow_parts = 0 if quick else self._slow_parts + 1
            del job, next_part  # not to be kept while the next one is waited for

    def _next_part(self) -> tuple[_Job, range] | None:
        """The next part; if there are more, another thread is called for them."""
        try:
            job, part = self._parts.popleft()
        except IndexError:
            return None
        if self._parts and self._slow_parts >= _SLOW_PARTS:
            try:
                self._call_one()
            except Exception as error:  # no more threads can be had
                job.fail(error)
        return job, part


class _Slot:
    """Room for a batch.

    Attributes:
        tensor: uint8[B, H, W, 3].
        places: uint8[H, W, 3], where each of its images is decoded to.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.places: list[UInt8] = list(tensor.numpy())


class _Job:
    """A batch in the making: counts its parts, keeps what failed.

    Attributes:
        plan: which samples it holds.
        images: uint8[B, H, W, 3], where they are decoded to.
    """

    def __init__(self, source: Source, plan: Plan, slot: _Slot, verify: bool) -> None:
        size = len(plan.rows)
        self.plan, self.images = plan, slot.tensor[:size]
        self._source, self._places = source, slot.places
        self._read = source.reading(plan.rows, verify=verify).read
        self._flips = flip_codes(plan.flips)
        self._num_parts = 0
        self._parts_made = count(1)  # counts in C: no two threads get the same number
        self._failures: list[Failure] = []
        self._errors: list[Exception] = []
        self._unfinished = threading.Lock()  # held until the last part has been made
        self._unfinished.acquire()

    def divide(self, size: int) -> Sequence[range]:
        """Its places, divided into parts of so many, each of which is to be made."""
        parts = _divided(len(self.plan.rows), size)
        self._num_parts = len(parts)
        if not parts:
            self._unfinished.release()
        return parts

    def make(self, part: range, decode: Decoder) -> None:
        """Make a part of the batch."""
        read, places, flips = self._read, self._places, self._flips
        for place in part:
            jpeg: Jpeg | None = None
            try:
                jpeg = read(place)
                decode(jpeg, places[place], flips[place])
            except Exception as raised:  # a bug, too: not to be waited for
                failure = self._failure(place, raised, jpeg)
                if isinstance(failure, SampleError):
                    self._failures.append((place, failure))
                else:
                    self.fail(failure)
        if next(self._parts_made) == self._num_parts:
            self._unfinished.release()

    def fail(self, error: Exception) -> None:
        """Have an error raised in place of the batch."""
        self._errors.append(error)

    def _failure(self, place: int, error: Exception, jpeg: Jpeg | None) -> Exception:
        """What came in the way of an image, as the error that names it if it can.

        What could not be read may be as good as any: that is no fault of the image.
        """
        if jpeg is None or not isinstance(error, ValueError):
            return error.with_traceback(None)  # whose frames hold the bytes
        reason = describe_failure(error, jpeg)
        return self._source.failure(int(self.plan.rows[place]), reason)

    def wait(self) -> list[Failure]:
        """Wait for the last image; returns the images that cannot be decoded.

        Raises:
            Exception: whatever else came up.
        """
        self._unfinished.acquire()
        if self._errors:
            raise self._errors[0]
        return self._failures
