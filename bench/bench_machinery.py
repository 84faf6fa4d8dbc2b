"""The machinery alone: loaders whose decoding is stubbed, by number of threads.

No ceiling, as there is nothing that it could not beat: goals are in ``bench.targets``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.entrant import EntrantResult
from bench.machinery import machinery, tiny_shards
from bench.race import Rules, RunRace
from bench.replay import HandOver, clock

LINE = "machinery"
_SMALL_IMAGES, _IMAGES, _FULL_IMAGES = 96, 8_192, 32_768


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = [entrant.name for entrant in machinery(Path("nowhere"))]
    metafunc.parametrize("name", names)


@pytest.fixture(scope="module")
def results(
    run_race: RunRace, rules: Rules, pytestconfig: pytest.Config
) -> dict[str, EntrantResult]:
    images = _FULL_IMAGES if pytestconfig.getoption("full") else _IMAGES
    if pytestconfig.getoption("small"):
        images = _SMALL_IMAGES
    assert pytestconfig.cache is not None
    shards = tiny_shards(images, Path(pytestconfig.cache.mkdir("fastretina")))
    return run_race(machinery(shards), replace(rules, num_openings=0, memory=False))


@pytest.mark.benchmark(timer=clock)
def bench_machinery(
    name: str, hand_over: HandOver, results: dict[str, EntrantResult]
) -> None:
    hand_over(LINE, results, name)
