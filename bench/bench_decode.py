"""Decoders alone: decode, and decode + resize to 224, on one thread and on all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.data import NO_DATA, BenchData
from bench.decoders import IMAGES, decoders
from bench.entrant import Entrant, EntrantResult
from bench.race import Rules, RunRace
from bench.replay import HandOver, clock
from fastretina.measure.ceilings import decode_only
from loaders.cores import granted_cores

_THREADS = sorted({1, granted_cores()})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = [entrant.name for entrant in decoders(NO_DATA, _THREADS)]
    metafunc.parametrize("name", names)


@pytest.fixture(scope="module")
def results(
    run_race: RunRace, data: BenchData, jpegs: list[bytes], rules: Rules
) -> dict[str, EntrantResult]:
    def ceiling(entrant: Entrant) -> float:
        return decode_only(jpegs[:IMAGES], entrant.setup["threads"])

    rules = replace(rules, ceiling=ceiling, num_openings=0, memory=False)
    return run_race(decoders(data, _THREADS), rules)


@pytest.mark.benchmark(timer=clock)
def bench_decode(
    name: str, hand_over: HandOver, results: dict[str, EntrantResult]
) -> None:
    threads = results[name].entrant.setup["threads"]
    hand_over(f"decode, {threads} thread{'s' * (threads > 1)}", results, name)
