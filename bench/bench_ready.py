"""Finish line *ready*: normalised float32 in channels-last, an epoch per round."""

from __future__ import annotations

import pytest

from bench.entrant import EntrantResult
from bench.peers import loader_names
from bench.replay import HandOver, clock
from fastretina.measure.rounds import FinishLine

LINE: FinishLine = "ready"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("name", loader_names(LINE, metafunc.config))


@pytest.mark.benchmark(timer=clock)
def bench_ready(
    name: str, hand_over: HandOver, loader_results: dict[str, EntrantResult]
) -> None:
    hand_over(LINE, loader_results, name)
