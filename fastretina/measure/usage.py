"""What a process and its children use: processor time and memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from typing_extensions import Self


def cpu_seconds(pid: int | None = None) -> float:
    """Processor time of a process tree so far, ended children included, seconds."""
    total = 0.0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
            total += times.children_user + times.children_system
    return total


def memory_bytes(pid: int | None = None) -> int:
    """Memory of a process tree, bytes.

    Pages shared among processes count once (PSS) on Linux; elsewhere, what is resident
    is added up.
    """
    total = 0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
    return total


class PeakMemory:
    """The most memory that a process tree holds while this is open, looked at often.

    Each look takes the kernel 1 to 10 ms per process, so this does not belong around a
    timed round.

    Attributes:
        bytes: the most memory that was seen so far.
    """

    def __init__(self, pid: int | None = None, every: float = 0.05) -> None:
        self.bytes = 0
        self._pid, self._every = pid, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, memory_bytes(self._pid))
            if self._stop.wait(self._every):
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()


def _tree(pid: int | None) -> Iterator[psutil.Process]:
    """A process and all of its descendants that still run."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        yield first
        yield from first.children(recursive=True)
