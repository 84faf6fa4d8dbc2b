"""Finish line *batch*: uint8 batches on the device, shuffled, an epoch per round."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.data import NO_DATA, BenchData
from bench.entrant import Entrant, EntrantResult
from bench.peers import loader_names
from bench.race import Rules, RunRace
from bench.replay import HandOver, clock
from bench.scaling import sweep
from fastretina.measure.ceilings import decode_only
from fastretina.measure.rounds import FinishLine
from loaders.cores import granted_cores

LINE: FinishLine = "batch"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is bench_batch:
        names = loader_names(LINE, metafunc.config)
    else:
        names = [entrant.name for entrant in _sweep(NO_DATA, metafunc.config)]
    metafunc.parametrize("name", names)


def _sweep(data: BenchData, config: pytest.Config) -> list[Entrant]:
    return sweep(data, granted_cores(), config.getoption("full"))


@pytest.fixture(scope="module")
def scaling(
    run_race: RunRace,
    data: BenchData,
    jpegs: list[bytes],
    rules: Rules,
    pytestconfig: pytest.Config,
) -> dict[str, EntrantResult]:
    def ceiling(entrant: Entrant) -> float:
        return decode_only(jpegs, entrant.setup["threads"])

    rules = replace(rules, ceiling=ceiling, num_openings=0, memory=False)
    return run_race(_sweep(data, pytestconfig), rules)


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
