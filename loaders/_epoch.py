"""What back ends share: how epochs begin and end, prefetching, copying to the device.

plans --> back end decodes --> bad images left out --> to_device --> epoch
          (pil, turbo, webdataset)                                   counts what it
dali: Prefetcher reads ahead --> DALI --> bad images left out --------> hands out,
dali-reader makes its batches itself ---------------------------------> or raises
_cached has a back end make what it has not kept ---------------------->
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from operator import itemgetter
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch

from loaders._runs import BatchRun, PlannedRun, Plans
from loaders.base import Batch, Decoding, KeptImages
from loaders.errors import SampleError
from loaders.schedule import Plan, Schedule, check_start

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


class Made(NamedTuple):
    """A batch that is not handed out yet, and what went wrong while it was made.

    Attributes:
        batch: without the images that failed.
        errors: of those images, in the order of the batch.
        decoded_again: 1 where the host has decoded it in DALI's place.
    """

    batch: Batch
    errors: Sequence[SampleError] = ()
    decoded_again: int = 0

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Made:
        """The same with its batch on a device."""
        moved = (part.to(device, non_blocking=non_blocking) for part in self.batch)
        return self._replace(batch=Batch(*moved))


class EpochLoader:
    """The base of every back end: a ``loaders.base.Loader`` with one epoch at a time.

    A back end says how plans become batches, in ``_batches``, and holds whatever
    decodes for it. One that makes an epoch otherwise says how, in ``_new_run``.
    """

    def __init__(self, schedule: Schedule, decoding: Decoding) -> None:
        self.device = schedule.device
        self.decoding = decoding
        self.skipped: list[SampleError] = []
        self.decoded_again = 0
        self.kept: KeptImages | None = None
        self._schedule = schedule
        self._source = schedule.source
        self._config = schedule.config
        self._next = 0  # the epoch that iterating takes
        # Weak, so that an epoch that nobody holds any more ends there and then.
        self._running: weakref.ref[Generator[Batch, None, None]] | None = None
        self._waiting: BatchRun[Made] | None = (
            None  # for its next epoch to be asked for
        )

    def __len__(self) -> int:
        return len(self._schedule)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(self._next)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def epoch(
        self, number: int, first_batch: int = 0, *, then: int | None = None
    ) -> Iterator[Batch]:
        """Yield the epoch's batches; see ``loaders.base.Loader.epoch``."""
        check_start(number, first_batch)
        check_start(then or 0, 0)
        self._end_epoch()
        run, self._waiting = self._waiting, None
        if run is not None and (run.then != number or first_batch):
            run.close()
            run = None
        run = run or self._new_run(number, first_batch)
        run.then = None
        if then is not None:
            run.follow_with(then)
        count = max(len(self) - first_batch, 0)
        batches = self._hand_out(number, run, count)
        self._running = weakref.ref(batches)
        return batches

    def close(self) -> None:
        """Stop the workers and free the buffers and open files."""
        self._end_epoch()
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None
        self._source.close()

    def _new_run(self, number: int, first_batch: int) -> BatchRun[Made]:
        """The batches of an epoch on the device, and of those that follow it."""
        return PlannedRun(self._batches, self._schedule, number, first_batch)

    def _batches(self, plans: Plans) -> Generator[Made, None, None]:
        """The batches of any plans on the device, one after the other.

        Nothing is taken of the plans before the first is asked for; another thread may
        take them. One run at a time; closing it leaves nothing behind.
        """
        raise NotImplementedError

    def _hand_out(
        self, number: int, run: BatchRun[Made], count: int
    ) -> Generator[Batch, None, None]:
        """So many batches, each counted for what was skipped in it as it goes.

        Not when they are made, which may be ahead: a checkpoint must hold what went
        wrong up to its own batch, and no more.

        Raises:
            SampleError: the first image that failed, unless these are to be skipped.
        """
        self._next = number + 1  # not before: Lightning asks for an epoch twice
        goes_on = False
        try:
            for _ in range(count):
                batch, errors, decoded_again = next(run)
                self.decoded_again += decoded_again
                if errors and self._config.on_corrupt == "raise":
                    raise errors[0]
                self.skipped.extend(errors)
                yield batch
                del batch  # not to be kept while the next one is made
            goes_on = run.then is not None
        finally:
            if goes_on:
                self._waiting = run
            else:
                run.close()

    def _end_epoch(self) -> None:
        running = self._running() if self._running else None
        if running is not None:
            running.close()
        self._running = None

    def _finish_all(
        self, decoded: Generator[Decoded, None, None]
    ) -> Generator[Made, None, None]:
        """The batches of decoded plans, in host memory; see ``_finish``."""
        with closing(decoded):
            for each in decoded:
                yield self._finish(*each)

    def _finish(
        self, plan: Plan, images: torch.Tensor, failures: Sequence[Failure] = ()
    ) -> Made:
        """The batch of a decoded plan, without the images that failed."""
        if failures:
            failures = sorted(failures, key=itemgetter(0))  # by place
            kept = np.ones(len(plan.rows), np.bool_)
            kept[[place for place, _ in failures]] = False
            plan = Plan(plan.rows[kept], plan.flips[kept])
            images = images[torch.from_numpy(kept).to(images.device)]
        labels = torch.from_numpy(self._source.labels[plan.rows])
        rows = torch.from_numpy(plan.rows)
        if self.device.type == "cuda":  # or their copies would wait for the device
            labels, rows = labels.pin_memory(), rows.pin_memory()
        return Made(Batch(images, labels, rows), [error for _, error in failures])


def to_device(
    batches: Generator[Made, None, None], device: torch.device
) -> Generator[Made, None, None]:
    """Move host batches to ``device``; on a CPU they pass through.

    On a GPU the copies run on a stream of their own, from pinned memory, while the
    batch before is trained on. A host batch is let go only when its copy has ended.
    """
    if device.type == "cuda":
        yield from _copy_ahead(batches, device)
    elif device.type == "cpu":
        yield from batches
    else:  # MPS has neither pinned memory nor streams of this kind
        for made in batches:
            yield made.to(device)


def _copy_ahead(
    batches: Generator[Made, None, None], device: torch.device
) -> Generator[Made, None, None]:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    pending: deque[tuple[Made, torch.cuda.Event]] = deque()
    with closing(batches):
        try:
            for host in batches:
                with torch.cuda.stream(stream):
                    moved = host.to(device, non_blocking=True)
                    pending.append((moved, stream.record_event()))
                if len(pending) > 1:
                    yield from _when_copied(pending, device)
        except Exception:  # of a later batch: those before it come first
            while pending:
                yield from _when_copied(pending, device)
            raise
        else:
            while pending:
                yield from _when_copied(pending, device)
        finally:  # an abandoned epoch's slots are filled again by the next
            stream.synchronize()


def _when_copied(
    pending: deque[tuple[Made, torch.cuda.Event]], device: torch.device
) -> Generator[Made, None, None]:
    made, copied = pending.popleft()
    consumer = torch.cuda.current_stream(device)
    consumer.wait_event(copied)
    for tensor in made.batch:  # the allocator must not reuse it while it is read
        tensor.record_stream(consumer)
    yield made
    copied.synchronize()  # the host slot is overwritten two batches on
