"""Hand rounds taken in turn to pytest-benchmark, which would run them in a row.

Its clock can be chosen (``@pytest.mark.benchmark(timer=...)``); this one goes on by the
seconds of each round while that round is handed over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from bench.entrant import EntrantResult


class Benchmark(Protocol):
    """pytest-benchmark's fixture, as far as it is used here.

    Attributes:
        group: what it is listed under.
        extra_info: what stands beside the times in its JSON.
    """

    group: str | None
    extra_info: dict[str, object]

    def pedantic(self, target: Callable[[], None], *, rounds: int) -> object:
        """Time that many rounds of a function."""


class Replay:
    """A clock that stands still but while rounds are handed over."""

    def __init__(self) -> None:
        self._now = 0.0
        self._seconds: deque[float] = deque()

    def __call__(self) -> float:
        return self._now

    def hand_over(self, benchmark: Benchmark, seconds: Sequence[float]) -> None:
        """Make these the rounds of a benchmark whose timer is this clock."""
        self._seconds.extend(seconds)
        benchmark.pedantic(self._advance, rounds=len(seconds))
        self._seconds.clear()

    def _advance(self) -> None:
        if self._seconds:  # with --benchmark-disable it is called once
            self._now += self._seconds.popleft()


HandOver = Callable[[str, dict[str, EntrantResult], str], None]
clock = Replay()
