"""Where a command's time goes: its seconds by part, from the start of the process.

Any layer may say what it is doing, ``with part("intervals"):``, without being handed
anything. A part within another takes its time from that one, so that nothing counts
twice; what no part claims is ``other``. Only the thread that runs the command counts,
as what loaders' threads do meanwhile takes none of its time.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Part = Literal[
    "imports",
    "start",
    "data",
    "steps",
    "evaluation",
    "intervals",
    "figures",
    "checkpoints",
    "other",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class WallSeconds:
    """Seconds of wall clock by part; None for what a command has not done.

    Attributes:
        total: from the start of the process, and the sum of all parts.
        imports: Python modules, ours and others'.
        start: device, network, other processes.
        data: opening, reading and writing data sets and their loaders.
        steps: training, the waiting for batches included.
        evaluation: predicting, comparing, measuring; loaders included.
        intervals: scores, and how sure they are.
        figures: drawing.
        checkpoints: saving weights and the log.
        other: what no part claims.
    """

    total: float
    imports: float | None = None
    start: float | None = None
    data: float | None = None
    steps: float | None = None
    evaluation: float | None = None
    intervals: float | None = None
    figures: float | None = None
    checkpoints: float | None = None
    other: float | None = None

    def as_json(self) -> dict[str, float]:
        """The parts that there are, and the total."""
        parts = asdict(self)
        return {name: parts[name] for name in parts if parts[name] is not None}


class _WallClock:
    """Counts the seconds of the part that is on top, of one thread."""

    def __init__(self, begun: float) -> None:
        self.thread = threading.get_ident()
        self._mark = begun
        self._parts: list[Part] = ["other"]
        self._spent: dict[Part, float] = {}

    def begin(self, part: Part) -> None:
        self._count()
        self._parts.append(part)

    def end(self) -> None:
        self._count()
        self._parts.pop()

    def read(self) -> WallSeconds:
        self._count()
        spent = {part: round(seconds, 2) for part, seconds in self._spent.items()}
        return WallSeconds(total=round(sum(spent.values()), 2), **spent)

    def _count(self) -> None:
        now, part = time.perf_counter(), self._parts[-1]
        self._spent[part] = self._spent.get(part, 0.0) + now - self._mark
        self._mark = now


_running: _WallClock | None = None


@contextmanager
def wall_clock(*, of_process: bool) -> Iterator[None]:
    """Count the time of a command; within another one's, go on with that.

    Args:
        of_process: count from the start of the process, and not from now.
    """
    global _running
    if _ours() is not None:
        yield
        return
    before = _running
    now = time.perf_counter()
    _running = _WallClock(now - _process_seconds() if of_process else now)
    try:
        yield
    finally:
        _running = before


@contextmanager
def part(name: Part) -> Iterator[None]:
    """Within the block, time goes to this part, but for what parts within it take."""
    clock = _ours()
    if clock is None:
        yield
        return
    clock.begin(name)
    try:
        yield
    finally:
        clock.end()


def wall_seconds() -> WallSeconds | None:
    """The seconds until now; None where no command runs in this thread."""
    clock = _ours()
    return None if clock is None else clock.read()


def with_wall_seconds(result: Mapping[str, object]) -> dict[str, object]:
    """What a command's JSON line holds, and where its time went until now."""
    seconds = wall_seconds()
    if seconds is None:
        return dict(result)
    return {**result, "wall_seconds": seconds.as_json()}


def _ours() -> _WallClock | None:
    """The clock of this thread's command."""
    clock = _running
    return clock if clock and clock.thread == threading.get_ident() else None


def _process_seconds() -> float:
    """How long this process has run."""
    if sys.platform == "linux":
        # Field 22, the 20th after the name in brackets: when the process began, in
        # ticks of 10 ms since the system did. psutil rounds that to a second.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        begun = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - begun
    else:  # noqa: RET505  # mypy would find what follows unreachable
        import psutil

        return time.time() - float(psutil.Process().create_time())
