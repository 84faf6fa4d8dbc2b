"""Finish line *batch*: uint8 batches on the device, shuffled, an epoch per round."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.data import NO_DATA, BenchData
from bench.entrant import Entrant, EntrantResult
from bench.ours import scaled_loader
from bench.peers import loader_names
from bench.race import Rules, RunRace
from bench.replay import HandOver, clock
from fastretina.measure.rounds import FinishLine
from loaders import LOADERS
from loaders.cores import granted_cores

LINE: FinishLine = "batch"


def sweep(data: BenchData) -> list[Entrant]:
    """Our loaders with other numbers of workers, and with other batch sizes."""
    cores = granted_cores()
    workers = sorted({1, 2, cores // 2, cores, 2 * cores} - {0})
    settings = {(number, 32) for number in workers}
    settings |= {(cores, batch) for batch in (8, 16, 64, 128)}
    return [
        scaled_loader(name, data, *one) for name in LOADERS for one in sorted(settings)
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is bench_batch:
        names = loader_names(LINE, metafunc.config)
    else:
        names = [entrant.name for entrant in sweep(NO_DATA)]
    metafunc.parametrize("name", names)


@pytest.fixture(scope="module")
def scaling(
    run_race: RunRace, data: BenchData, decode_rules: Rules, pytestconfig: pytest.Config
) -> dict[str, EntrantResult]:
    if not pytestconfig.getoption("full"):
        pytest.skip("other workers and batch sizes: with --full")
    return run_race(sweep(data), replace(decode_rules, num_openings=0, memory=False))


@pytest.mark.benchmark(timer=clock)
def bench_batch(
    name: str, hand_over: HandOver, loader_results: dict[str, EntrantResult]
) -> None:
    hand_over(LINE, loader_results, name)


@pytest.mark.benchmark(timer=clock)
def bench_scaling(
    name: str, hand_over: HandOver, scaling: dict[str, EntrantResult]
) -> None:
    hand_over("scaling", scaling, name)
