"""What it costs to compare images with their checksums: turbo with and without."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from bench.data import NO_DATA, BenchData
from bench.entrant import Entrant, EntrantResult
from bench.epoch_runner import BATCH
from bench.ours import LoaderSetting, our_loader
from bench.race import Rules, RunRace
from bench.replay import HandOver, clock
from bench.rows import Setup
from loaders.cores import granted_cores

LINE = "verify"
_UNCHECKED = "turbo, unchecked"
_SETUP: Setup = {"flips": "both", "batch_size": BATCH, "workers": granted_cores()}


def entrants(data: BenchData) -> list[Entrant]:
    """Turbo as it is, and without looking at the checksums."""
    settings = {
        "turbo": LoaderSetting("turbo"),
        _UNCHECKED: LoaderSetting("turbo", verify=False),
    }
    return [
        Entrant(name, partial(our_loader, setting, data, "batch"), setup=_SETUP)
        for name, setting in settings.items()
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("name", [entrant.name for entrant in entrants(NO_DATA)])


@pytest.fixture(scope="module")
def results(
    run_race: RunRace, data: BenchData, rules: Rules
) -> dict[str, EntrantResult]:
    rules = replace(rules, ceiling_of=_UNCHECKED, num_openings=0, memory=False)
    return run_race(entrants(data), rules)


@pytest.mark.benchmark(timer=clock)
def bench_verify(
    name: str, hand_over: HandOver, results: dict[str, EntrantResult]
) -> None:
    hand_over(LINE, results, name)
