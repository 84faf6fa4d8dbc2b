"""Finish line *ready*: normalised float32 in channels-last, an epoch per round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.data import BenchData
from bench.peers import everybody
from bench.race import Entrant, EntrantResult
from bench.replay import clock

LINE = "ready"
_NOWHERE = BenchData(folder=None)  # type: ignore[arg-type]  # for the names alone


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    listed = everybody(_NOWHERE, LINE, metafunc.config)
    metafunc.parametrize("name", [entrant.name for entrant in listed])


@pytest.fixture(scope="module")
def outcomes(
    run_race: Any,
    data: BenchData,
    decode_ceiling: Callable[[Entrant], float],
    pytestconfig: pytest.Config,
) -> dict[str, EntrantResult]:
    found: dict[str, EntrantResult] = run_race(
        everybody(data, LINE, pytestconfig),
        ceiling=decode_ceiling,
        firsts=0,
        memory=False,
    )
    return found


@pytest.mark.benchmark(timer=clock)
def bench_ready(name: str, report: Any, outcomes: dict[str, EntrantResult]) -> None:
    report(LINE, outcomes, name)
