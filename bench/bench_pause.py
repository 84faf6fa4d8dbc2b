"""The pause between two epochs, ms, for a consumer at the pace of a training."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.data import NO_DATA, BenchData
from bench.entrant import EntrantResult
from bench.pause import pausing
from bench.race import Rules, RunRace
from bench.replay import HandOver, clock

LINE = "pause"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("name", [entrant.name for entrant in pausing(NO_DATA)])


@pytest.fixture(scope="module")
def results(
    run_race: RunRace, data: BenchData, rules: Rules
) -> dict[str, EntrantResult]:
    return run_race(pausing(data), replace(rules, num_openings=0, memory=False))


@pytest.mark.benchmark(timer=clock)
def bench_pause(
    name: str, hand_over: HandOver, results: dict[str, EntrantResult]
) -> None:
    hand_over(LINE, results, name)
