"""Runs of batches that go on from one epoch to the next without a pause.

epoch(3, then=4): plans of 3, plans of 4 --one back end, one run--> batches of 3, of 4
                                            handed out epoch by epoch

So the first batches of an epoch are made while the one before it ends, and while
whoever takes them evaluates. A run can be given its next epoch while it is in the last.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Generic, Protocol, TypeVar

from loaders._prefetcher import Prefetcher
from loaders.schedule import Plan, Schedule

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class BatchRun(Protocol[T_co]):
    """The batches of an epoch, and perhaps of the next.

    Attributes:
        then: the epoch that comes next; ``None`` where nothing does.
    """

    then: int | None

    def __next__(self) -> T_co:
        """The next batch."""

    def follow_with(self, number: int) -> None:
        """Go on with an epoch, ``then``, where that can still be had."""

    def close(self) -> None:
        """Leave nothing behind."""


class PlannedRun(Generic[T]):
    """A run of a back end whose batches are a function of plans."""

    def __init__(
        self,
        make: Callable[[Plans], Generator[T, None, None]],
        schedule: Schedule,
        number: int,
        first_batch: int,
    ) -> None:
        """Nothing is made before the first batch is asked for."""
        self.then: int | None = None
        self._schedule = schedule
        self._plans = Plans(schedule.plans(number, first_batch))
        self._batches = make(self._plans)

    def __next__(self) -> T:
        """The next batch."""
        return next(self._batches)

    def follow_with(self, number: int) -> None:
        """Go on with an epoch; not if all plans of the last are taken already."""
        followed = self._plans.follow_with(self._schedule.plans(number))
        self.then = number if followed else None

    def close(self) -> None:
        """End what is made."""
        self._batches.close()


class Plans:
    """The plans of some epochs, one after the other; any thread may take them."""

    def __init__(self, plans: Iterator[Plan]) -> None:
        self._epochs = deque([plans])
        self._ended = False
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Plan]:
        return self

    def __next__(self) -> Plan:
        with self._lock:
            while self._epochs:
                for plan in self._epochs[0]:
                    return plan
                self._epochs.popleft()
            self._ended = True
        raise StopIteration

    def next_epoch(self) -> Iterator[Plan] | None:
        """All plans that are left of the next epoch; ``None`` at the end."""
        with self._lock:
            self._ended = not self._epochs
            return None if self._ended else self._epochs.popleft()

    def follow_with(self, plans: Iterator[Plan]) -> bool:
        """Go on with another epoch's; False if whoever takes them has seen an end."""
        with self._lock:
            if not self._ended:
                self._epochs.append(plans)
            return not self._ended


class SeparateRuns(Generic[T]):
    """A run of a back end that makes each epoch by itself, two of them at once.

    The next is begun, in a thread, some batches before the last of this one.
    """

    def __init__(
        self,
        open_epoch: Callable[[int, int], Generator[T, None, None]],
        numbers: tuple[int, int],
        num_batches: int,
        ahead: int,
    ) -> None:
        """Nothing is made before the first batch is asked for.

        Args:
            open_epoch: makes an epoch's batches from a first one on.
            numbers: the epoch's, and that of its first batch.
            num_batches: in an epoch.
            ahead: how many batches of the next epoch are made ahead.
        """
        self.then: int | None = None
        self._open_epoch, self._num_batches, self._ahead = (
            open_epoch,
            num_batches,
            ahead,
        )
        self._left = num_batches - numbers[1]
        self._running: _Ahead[T] | Generator[T, None, None] = open_epoch(*numbers)
        self._next: _Ahead[T] | None = None

    def __next__(self) -> T:
        """The next batch."""
        if not self._left:
            assert self._next is not None
            self._running.close()
            self._running, self._next = self._next, None
            self._left = self._num_batches
        self._left -= 1
        self._begin_next()
        return next(self._running)

    def follow_with(self, number: int) -> None:
        """Go on with an epoch."""
        self.then = number
        if not self._left:  # no batch will be asked for that could begin it
            self._begin_next()

    def close(self) -> None:
        """End both epochs."""
        self._running.close()
        if self._next is not None:
            self._next.close()

    def _begin_next(self) -> None:
        if self.then is not None and self._next is None and self._left <= self._ahead:
            self._next = _Ahead(self._open_epoch(self.then, 0), self._ahead)


class _Ahead(Generic[T]):
    """An epoch whose batches are made in a thread."""

    def __init__(self, batches: Generator[T, None, None], depth: int) -> None:
        self._batches = batches
        self._thread = Prefetcher(batches, depth)
        self._thread.__enter__()

    def __next__(self) -> T:
        return next(self._thread)

    def close(self) -> None:
        self._thread.__exit__(None, None, None)
        self._batches.close()


class SingleRun(Generic[T]):
    """A run of one epoch alone."""

    def __init__(self, batches: Generator[T, None, None]) -> None:
        self.then: int | None = None
        self._batches = batches

    def __next__(self) -> T:
        """The next batch."""
        return next(self._batches)

    def follow_with(self, number: int) -> None:
        """Do nothing: the next epoch begins by itself."""

    def close(self) -> None:
        """End what is made."""
        self._batches.close()
