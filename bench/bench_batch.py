"""Finish line *batch*: uint8 batches on the device, shuffled, an epoch per round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.data import BenchData
from bench.ours import scaled
from bench.peers import everybody
from bench.race import Entrant, EntrantResult
from bench.replay import clock
from loaders.cores import granted_cores

LINE = "batch"
_NOWHERE = BenchData(folder=None)  # type: ignore[arg-type]  # for the names alone


def sweep(data: BenchData) -> list[Entrant]:
    """Other numbers of workers, and other batches."""
    cores = granted_cores()
    workers = sorted({1, 2, cores // 2, cores, 2 * cores} - {0})
    settings = {(number, 32) for number in workers}
    settings |= {(cores, batch) for batch in (8, 16, 64, 128)}
    names = ("turbo", "webdataset", "dali", "dali-reader", "pil")
    return [scaled(name, data, *one) for name in names for one in sorted(settings)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is bench_batch:
        listed = everybody(_NOWHERE, LINE, metafunc.config)
    else:
        listed = sweep(_NOWHERE)
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
        files=data.everything(),
    )
    return found


@pytest.fixture(scope="module")
def scaling(
    run_race: Any,
    data: BenchData,
    decode_ceiling: Callable[[Entrant], float],
    pytestconfig: pytest.Config,
) -> dict[str, EntrantResult]:
    if not pytestconfig.getoption("full"):
        pytest.skip("other workers and batch sizes: with --full")
    found: dict[str, EntrantResult] = run_race(
        sweep(data), ceiling=decode_ceiling, firsts=0, memory=False
    )
    return found


@pytest.mark.benchmark(timer=clock)
def bench_batch(name: str, report: Any, outcomes: dict[str, EntrantResult]) -> None:
    report(LINE, outcomes, name)


@pytest.mark.benchmark(timer=clock)
def bench_scaling(name: str, report: Any, scaling: dict[str, EntrantResult]) -> None:
    report("scaling", scaling, name)
