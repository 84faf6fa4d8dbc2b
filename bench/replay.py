"""Hand laps that were taken in turn to pytest-benchmark, which would run them in a row.

Its clock can be chosen (``@pytest.mark.benchmark(timer=...)``); this one goes on by the
seconds of each lap while that lap is handed over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any


class Replay:
    """A clock that stands still but while laps are handed over."""

    def __init__(self) -> None:
        self._now = 0.0
        self._laps: deque[float] = deque()

    def __call__(self) -> float:
        return self._now

    def hand_over(self, benchmark: Any, seconds: Sequence[float]) -> None:
        """Make these the rounds of a benchmark whose timer is this clock."""
        self._laps.extend(seconds)
        benchmark.pedantic(self._lap, rounds=len(seconds))
        self._laps.clear()

    def _lap(self) -> None:
        if self._laps:  # with --benchmark-disable it is called once
            self._now += self._laps.popleft()


clock = Replay()
