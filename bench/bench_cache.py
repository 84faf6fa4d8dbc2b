"""Images that are kept decoded, to *batch*: from the second epoch on, beside turbo.

The ceiling is turbo itself, which takes its turn in each round: the share says how many
times as fast an epoch is that decodes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from bench.data import NO_DATA, BenchData
from bench.entrant import Entrant, EntrantResult
from bench.epoch_runner import BATCH
from bench.ours import LoaderSetting, our_loader
from bench.race import Rules, RunRace
from bench.replay import HandOver, clock
from bench.rows import Setup
from loaders.cores import granted_cores

LINE = "cache"
_PLAIN = "turbo"
_SETUP: Setup = {"flips": "both", "batch_size": BATCH, "workers": granted_cores()}


def entrants(data: BenchData) -> list[Entrant]:
    """Turbo without a cache, and with each kind that there is here."""
    kinds: dict[str, str | Path | None] = {
        _PLAIN: None,
        "turbo, kept in memory": "memory",
        "turbo, kept in a folder": data.folder / "kept",
    }
    if torch.cuda.is_available():
        kinds["turbo, kept on the device"] = "device"
    return [
        Entrant(
            name,  # the check before the race fills what is kept
            partial(our_loader, LoaderSetting(_PLAIN, cache=cache), data, "batch"),
            setup=_SETUP,
        )
        for name, cache in kinds.items()
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("name", [entrant.name for entrant in entrants(NO_DATA)])


@pytest.fixture(scope="module")
def results(
    run_race: RunRace, data: BenchData, rules: Rules
) -> dict[str, EntrantResult]:
    rules = replace(rules, ceiling_of=_PLAIN, num_openings=0, memory=False)
    return run_race(entrants(data), rules)


@pytest.mark.benchmark(timer=clock)
def bench_cache(
    name: str, hand_over: HandOver, results: dict[str, EntrantResult]
) -> None:
    hand_over(LINE, results, name)
