"""A thread that takes from an iterator ahead of whoever needs what it gives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, Queue
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


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
