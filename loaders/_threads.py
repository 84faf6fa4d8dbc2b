"""Threads that decode plans, straight into a ring of batch buffers.

    plans --> tasks (plan, place) --> threads: read, decode, flip --> slot of the ring
              one queue for all       each image into its place       one per batch

Each sample costs one decode into its place in the batch, where ``cv2.flip`` mirrors it.
Decoding releases the GIL, so threads suffice and no pixel crosses a process border.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from importlib.metadata import version
from itertools import islice
from queue import Empty, SimpleQueue

import numpy as np
import torch

from loaders._epoch import Decoded, Failure
from loaders.arrays import Bool, UInt8
from loaders.base import Decoding, Source
from loaders.cores import granted_cores
from loaders.decode import FLIP_CODE, Decoder, describe_failure, flip_in_place
from loaders.errors import DataError, SampleError
from loaders.schedule import Plan, Schedule


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
        self._ring: deque[torch.Tensor] | None = None

    def close(self) -> None:
        """Free the buffers; the threads have ended with their epoch."""
        self._ring = None

    def decode(self, plans: Iterator[Plan]) -> Generator[Decoded, None, None]:
        """Decoded plans, ``prefetch`` of them in the making at any time."""
        ring = self._slots()
        tasks: Tasks = SimpleQueue()
        # Decoders are made here: what a thread raises, such as for want of memory,
        # nobody would hear, and its batch would be waited for.
        decoders = [Decoder(self._schedule.shape) for _ in range(self.workers)]
        threads = [
            threading.Thread(target=self._work, args=(tasks, decoder), daemon=True)
            for decoder in decoders
        ]
        jobs: deque[_Job] = deque()
        try:
            for thread in threads:
                thread.start()
            while True:
                room = self._schedule.config.prefetch + 1 - len(jobs)
                for plan in islice(plans, room):
                    jobs.append(_Job(plan, ring[len(jobs)]))
                    for place in range(len(plan.rows)):
                        tasks.put((jobs[-1], place))
                if not jobs:
                    return
                job = jobs.popleft()
                failures = job.wait()
                ring.rotate(-1)  # the last to be filled again, in the next epoch, too
                yield Decoded(job.plan, job.slot[: len(job.plan.rows)], failures)
        finally:
            _stop(threads, tasks)

    def _slots(self) -> deque[torch.Tensor]:
        """Room for the batches alive at once, the next to be filled first."""
        if self._ring is None:
            slots = self._schedule.config.prefetch + 2
            self._ring = deque(self._slot() for _ in range(slots))
        return self._ring

    def _slot(self) -> torch.Tensor:
        size = (self._schedule.local_size, *self._schedule.shape, 3)
        if self._schedule.device.type == "cuda":
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        # NumPy asks Linux for huge pages, torch does not: 8 % with flips.
        return torch.from_numpy(np.empty(size, np.uint8))

    def _work(self, tasks: Tasks, decode: Decoder) -> None:
        """Decode one image after the other, until a task is None."""
        source = self._schedule.source
        while (task := tasks.get()) is not None:
            job, place = task
            out = job.images[place]
            job.finish(place, _attempt(decode, source, job.plan, place, out))


def decode_plan(
    source: Source, plan: Plan, shape: tuple[int, int]
) -> tuple[torch.Tensor, list[Failure]]:
    """Decode a batch in this thread: for what another decoder has failed on.

    Returns:
        uint8[B, H, W, 3], and the images that can't be decoded.
    """
    images = torch.empty((len(plan.rows), *shape, 3), dtype=torch.uint8)
    decode, failures = Decoder(shape), []
    for place, out in enumerate(images.numpy()):
        error = _attempt(decode, source, plan, place, out)
        if isinstance(error, SampleError):
            failures.append((place, error))
        elif error is not None:
            raise error
    return images, failures


def flip_batch(images: torch.Tensor, flips: Bool) -> None:
    """Mirror uint8[B, H, W, C] images where they lie, bool[B, 2] as in a ``Plan``."""
    for flip, code in FLIP_CODE.items():
        places = np.flatnonzero((flips == flip).all(axis=1))
        if images.device.type == "cpu":
            for place in places.tolist():
                flip_in_place(images[place].numpy(), code)
        elif len(places):
            dims = [2] * flip[0] + [1] * flip[1]
            at = torch.from_numpy(places).to(images.device)
            images[at] = images[at].flip(dims)


def _attempt(
    decode: Decoder, source: Source, plan: Plan, place: int, out: UInt8
) -> Exception | None:
    """Decode one image of a plan; returns what came in the way."""
    row = int(plan.rows[place])
    flip = (bool(plan.flips[place, 0]), bool(plan.flips[place, 1]))
    jpeg: memoryview | bytes | None = None
    try:
        jpeg = source.read(row)
        decode(jpeg, flip, out)
    except DataError as error:
        return error
    except (ValueError, OSError, SyntaxError) as error:  # or Pillow's
        return source.failure(row, describe_failure(error, jpeg))
    except Exception as error:  # a bug, or no memory: not to be waited for
        return error
    return None


class _Job:
    """A batch in the making: counts down its images, keeps what failed."""

    def __init__(self, plan: Plan, slot: torch.Tensor) -> None:
        self.plan = plan
        self.slot = slot
        self.images: UInt8 = slot.numpy()
        self._left = len(plan.rows)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._failures: list[Failure] = []
        self._error: Exception | None = None
        if not self._left:
            self._done.set()

    def finish(self, place: int, error: Exception | None) -> None:
        """Count one image as made, or as failed."""
        with self._lock:
            self._left -= 1
            if isinstance(error, SampleError):
                self._failures.append((place, error))
            else:
                self._error = self._error or error
            if not self._left:
                self._done.set()

    def wait(self) -> list[Failure]:
        """Wait for the last image; returns the images that cannot be decoded.

        Raises:
            Exception: whatever else came up.
        """
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._failures


Tasks = SimpleQueue["tuple[_Job, int] | None"]


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
