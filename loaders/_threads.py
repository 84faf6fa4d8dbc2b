"""Threads that decode plans, straight into a ring of batch buffers.

    plans --> jobs: batches, in --> threads: read, decode, flip --> slot of the ring
              parts of 4 images     each image into its place       one per batch

Each sample costs one decode into its place in the batch, where ``cv2.flip`` mirrors it.
Decoding releases the GIL, so threads suffice and no pixel crosses a process border. The
rest of it needs the GIL: it is done for a whole batch where it can be, and a task is
several images, as 16 threads that took one each reached 0.28 of what they could decode.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from itertools import islice
from queue import Empty, SimpleQueue

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
from loaders.errors import DataError, SampleError
from loaders.schedule import Plan, Schedule

_MOST_IMAGES = 4  # to a task


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
        self._task_size = _task_size(schedule, self.workers)
        self._ring: deque[torch.Tensor] | None = None

    def close(self) -> None:
        """Free the buffers; the threads have ended with their epoch."""
        self._ring = None

    def decode(self, plans: Iterator[Plan]) -> Generator[Decoded, None, None]:
        """Decoded plans, ``prefetch`` of them in the making at any time."""
        if self._ring is None:
            self._ring = new_ring(self._schedule)
        ring = self._ring
        tasks: Tasks = SimpleQueue()
        # Decoders are made here: what a thread raises, such as for want of memory,
        # nobody would hear, and its batch would be waited for.
        threads = [
            threading.Thread(target=_work, args=(tasks, Decoder()), daemon=True)
            for _ in range(self.workers)
        ]
        jobs: deque[_Job] = deque()
        try:
            for thread in threads:
                thread.start()
            while True:
                room = self._schedule.config.prefetch + 1 - len(jobs)
                for plan in islice(plans, room):
                    job = _Job(self._source, plan, ring[len(jobs)], self._verify)
                    jobs.append(job)
                    for _ in range(min(job.divide(self._task_size), self.workers)):
                        tasks.put(job)
                if not jobs:
                    return
                job = jobs.popleft()
                failures = job.wait()
                ring.rotate(-1)  # the last to be filled again, in the next epoch, too
                yield Decoded(job.plan, job.slot[: len(job.plan.rows)], failures)
        finally:
            for job in jobs:
                job.give_up()
            _stop(threads, tasks)


def _task_size(schedule: Schedule, workers: int) -> int:
    """Images to a task: 4, and fewer where threads would have less than 1.5 tasks."""
    under_way = schedule.local_size * (schedule.config.prefetch + 1)
    return max(1, min(_MOST_IMAGES, 2 * under_way // (3 * workers)))


def _work(tasks: Tasks, decode: Decoder) -> None:
    """Decode what is left of one batch after the other, until there is None."""
    while (job := tasks.get()) is not None:
        job.work(decode)
        del job  # not to be kept while the next one is waited for


def decode_plan(
    source: Source, plan: Plan, shape: tuple[int, int], *, verify: bool = True
) -> tuple[torch.Tensor, list[Failure]]:
    """Decode a batch in this thread: for what another decoder has failed on.

    Returns:
        uint8[B, H, W, 3], and the images that can't be decoded.
    """
    images = torch.empty((len(plan.rows), *shape, 3), dtype=torch.uint8)
    job = _Job(source, plan, images, verify)
    job.divide(max(len(plan.rows), 1))
    job.work(Decoder())
    return images, job.wait()


class _Job:
    """A batch in the making: counts down its images, keeps what failed."""

    def __init__(
        self, source: Source, plan: Plan, slot: torch.Tensor, verify: bool
    ) -> None:
        self.plan = plan
        self.slot = slot
        self._source = source
        self._images: UInt8 = slot.numpy()
        self._read, components = source.reading(plan.rows, verify=verify)
        self._flips = flip_codes(plan.flips)
        self._components: Sequence[int | None]
        self._components = components or [None] * len(plan.rows)
        self._left = len(plan.rows)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._failures: list[Failure] = []
        self._error: Exception | None = None
        if not self._left:
            self._done.set()
        self._parts: deque[range] = deque()  # which any thread may take from

    def divide(self, size: int) -> int:
        """Divide it into parts of so many images; returns how many parts."""
        end = len(self.plan.rows)
        self._parts.extend(range(n, min(n + size, end)) for n in range(0, end, size))
        return len(self._parts)

    def give_up(self) -> None:
        """Let nobody begin another part."""
        self._parts.clear()

    def work(self, decode: Decoder) -> None:
        """Make parts of the batch for as long as there are any that nobody makes."""
        failures: list[Failure] = []
        error, num_made = None, 0
        read, images = self._read, self._images
        flips, components = self._flips, self._components
        while (part := self._next_part()) is not None:
            num_made += len(part)
            for place in part:
                try:
                    decode(read(place), images[place], flips[place], components[place])
                except Exception as raised:  # a bug, too: not to be waited for
                    failure = self._failure(place, raised)
                    if isinstance(failure, SampleError):
                        failures.append((place, failure))
                    else:
                        error = failure
        with self._lock:
            self._left -= num_made
            self._failures += failures
            self._error = self._error or error
            if not self._left:
                self._done.set()

    def _next_part(self) -> range | None:
        try:
            return self._parts.popleft()
        except IndexError:
            return None

    def _failure(self, place: int, error: Exception) -> Exception:
        """What came in the way of an image, as the error that names it if it can."""
        if isinstance(error, DataError):
            return error.with_traceback(None)  # which would keep the memory map
        if not isinstance(error, (ValueError, OSError, SyntaxError)):  # or Pillow's
            return error
        jpeg: Jpeg | None = None
        with suppress(DataError, OSError):
            jpeg = self._read(place)
        reason = describe_failure(error, jpeg)
        return self._source.failure(int(self.plan.rows[place]), reason)

    def wait(self) -> list[Failure]:
        """Wait for the last image; returns the images that cannot be decoded.

        Raises:
            Exception: whatever else came up.
        """
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._failures


Tasks = SimpleQueue["_Job | None"]


def _stop(threads: list[threading.Thread], tasks: Tasks) -> None:
    """Take back the tasks not begun, and wait for the threads to end theirs."""
    with suppress(Empty):
        while True:
            tasks.get_nowait()
    for _ in threads:
        tasks.put(None)
    for thread in threads:
        if thread.ident is not None:  # a thread that never started can't be joined
            thread.join()
