"""What back ends share: how epochs begin and end, prefetching, copying to the device.

Schedule --plans--> [ the back end's own decoding ] --> _finish --> to_device --> Batch
Prefetcher: a thread that reads      bad images
ahead of it, under DALI              left out
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from queue import Empty, Queue
from types import TracebackType
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np
import torch

from loaders.base import Batch, Decoding
from loaders.errors import SampleError
from loaders.schedule import Plan, Schedule, check_place

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

Failure = tuple[int, SampleError]  # the place in its batch, and what is wrong


class Decoded(NamedTuple):
    """The images of a plan in host memory, and those that can't be decoded.

    Attributes:
        plan: which samples these are.
        images: uint8[B, H, W, 3]; a failed image's pixels mean nothing.
        failures: the place in the batch and the error of each failed image.
    """

    plan: Plan
    images: torch.Tensor
    failures: Sequence[Failure] = ()


class EpochLoader(ABC):
    """The base of every back end: a ``loaders.base.Loader`` with one epoch at a time.

    A back end says how a schedule's plans become batches, in ``_batches``, and holds
    whatever decodes for it.
    """

    def __init__(self, schedule: Schedule, decoding: Decoding) -> None:
        self.device = torch.device(schedule.config.device)
        self.decoding = decoding
        self.skipped: list[SampleError] = []
        self.decoded_again = 0
        self._schedule = schedule
        self._source = schedule.source
        self._config = schedule.config
        # Weak, so that an epoch that nobody holds any more ends there and then.
        self._running: weakref.ref[Generator[Batch, None, None]] | None = None

    def __len__(self) -> int:
        return len(self._schedule)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def epoch(self, number: int, first_batch: int = 0) -> Iterator[Batch]:
        """Yield the epoch's batches; see ``loaders.base.Loader.epoch``."""
        check_place(number, first_batch)
        self._end_epoch()
        batches = self._batches(number, first_batch)
        self._running = weakref.ref(batches)
        return batches

    def close(self) -> None:
        """Stop the workers and free the buffers and memory maps."""
        self._end_epoch()
        self._source.close()

    @abstractmethod
    def _batches(self, number: int, first_batch: int) -> Generator[Batch, None, None]:
        """An epoch's batches on the device; closing it leaves nothing behind."""

    def _end_epoch(self) -> None:
        running = self._running() if self._running else None
        if running is not None:
            running.close()
        self._running = None

    def _finish_all(
        self, decoded: Generator[Decoded, None, None]
    ) -> Generator[Batch, None, None]:
        """The batches of decoded plans, in host memory; see ``_finish``."""
        with closing(decoded):
            for plan, images, failures in decoded:
                yield self._finish(plan, images, failures)

    def _finish(
        self, plan: Plan, images: torch.Tensor, failures: Sequence[Failure] = ()
    ) -> Batch:
        """The batch of a decoded plan, without the images that failed.

        Raises:
            SampleError: the first of these, unless they are to be skipped.
        """
        if failures:
            failures = sorted(failures, key=_place)
            self._skip_or_raise(error for _, error in failures)
            kept = np.ones(len(plan.rows), np.bool_)
            kept[[place for place, _ in failures]] = False
            plan = Plan(plan.rows[kept], plan.flips[kept])
            images = images[torch.from_numpy(kept).to(images.device)]
        labels = torch.from_numpy(self._source.labels[plan.rows])
        rows = torch.from_numpy(plan.rows)
        if self.device.type == "cuda":  # or their copies would wait for the device
            labels, rows = labels.pin_memory(), rows.pin_memory()
        return Batch(images, labels, rows)

    def _skip_or_raise(self, errors: Iterable[SampleError]) -> None:
        """Count images that can't be decoded as skipped.

        Raises:
            SampleError: the first of them, unless they are to be skipped.
        """
        for error in errors:
            if self._config.on_corrupt == "raise":
                raise error
            self.skipped.append(error)


def _place(failure: Failure) -> int:
    return failure[0]


class Prefetcher(Generic[T]):
    """An iterator over what a thread takes from another; use it in a ``with``.

    What the other raises is raised here, at its place. Leaving the ``with`` ends the
    thread, after the item that it is taking.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        """Nothing is taken before the ``with`` begins.

        Args:
            items: touched by the thread alone.
            depth: the most items that are taken and not yet asked for.
        """
        self._items = items
        self._queue: Queue[tuple[T] | BaseException | None] = Queue(maxsize=depth)
        self._stopped = False
        self._thread = threading.Thread(target=self._take, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped = True
        while self._thread.is_alive():  # it may wait for room in the queue
            with suppress(Empty):
                self._queue.get(timeout=0.01)
        with suppress(Empty):  # what a traceback keeps should not keep the items
            while True:
                self._queue.get_nowait()
        self._queue.put(None)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        taken = self._queue.get()
        if isinstance(taken, tuple):
            return taken[0]
        self._queue.put(taken)  # it is the last, for every later call, too
        if taken is None:
            raise StopIteration
        raise taken

    def _take(self) -> None:
        last: BaseException | None = None
        try:
            for item in self._items:
                if self._stopped:
                    return
                self._queue.put((item,))
        except BaseException as error:  # not the thread's to handle
            last = error
        self._queue.put(last)


def to_device(
    batches: Generator[Batch, None, None], device: torch.device
) -> Generator[Batch, None, None]:
    """Move host batches to ``device``; on a CPU they pass through.

    On a GPU the copies run on a stream of their own, from pinned memory, while the
    batch before is trained on. A host batch is let go only when its copy has ended.
    """
    if device.type == "cuda":
        yield from _copy_ahead(batches, device)
    elif device.type == "cpu":
        yield from batches
    else:  # MPS has neither pinned memory nor streams of this kind
        for batch in batches:
            yield Batch(*(tensor.to(device) for tensor in batch))


def _copy_ahead(
    batches: Generator[Batch, None, None], device: torch.device
) -> Generator[Batch, None, None]:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    pending: deque[tuple[Batch, torch.cuda.Event]] = deque()
    with closing(batches):
        for host in batches:
            with torch.cuda.stream(stream):
                moved = Batch(*(part.to(device, non_blocking=True) for part in host))
                pending.append((moved, stream.record_event()))
            if len(pending) > 1:
                yield from _hand_over(pending, device)
        while pending:
            yield from _hand_over(pending, device)


def _hand_over(
    pending: deque[tuple[Batch, torch.cuda.Event]], device: torch.device
) -> Generator[Batch, None, None]:
    batch, copied = pending.popleft()
    consumer = torch.cuda.current_stream(device)
    consumer.wait_event(copied)
    for tensor in batch:  # the allocator must not reuse it while the consumer reads
        tensor.record_stream(consumer)
    yield batch
    copied.synchronize()  # the host slot is overwritten two batches on
