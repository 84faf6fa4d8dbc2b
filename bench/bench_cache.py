"""Images that are kept decoded, to *batch*: from the second epoch on, beside turbo.

The ceiling is turbo itself, which takes its turn in each round: the share says how many
times as fast an epoch is that decodes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from bench.data import NO_DATA, BenchData, NumbersOfRows
from bench.entrant import Entrant, EntrantResult, Runner
from bench.epoch_runner import (
    BATCH,
    HFLIP_CHANCE,
    VFLIP_CHANCE,
    EpochRunner,
    LoadedBatch,
)
from bench.race import Rules, RunRace
from bench.replay import HandOver, clock
from bench.rows import Setup
from loaders import LoaderConfig, make_loader
from loaders.cores import granted_cores

LINE = "cache"
_PLAIN = "turbo"
_SETUP: Setup = {"flips": "both", "batch_size": BATCH, "workers": granted_cores()}


@contextmanager
def keeping_loader(data: BenchData, cache: str | Path | None) -> Iterator[Runner]:
    """A ``turbo`` that keeps what it decodes; the check before the race fills it."""
    config = LoaderConfig(
        batch_size=BATCH,
        shuffle=True,
        hflip=HFLIP_CHANCE,
        vflip=VFLIP_CHANCE,
        device="cuda" if torch.cuda.is_available() else "cpu",
        cache=cache,
    )
    with make_loader(_PLAIN, data.shards, "train", config) as loader:

        def epoch(number: int) -> Iterator[LoadedBatch[torch.Tensor]]:
            for batch in loader.epoch(number):
                yield LoadedBatch(batch.images, batch.index)

        numbers = NumbersOfRows(data)
        yield EpochRunner(epoch, "batch", data, lambda index: numbers(index.tolist()))


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
        Entrant(name, partial(keeping_loader, data, cache), setup=_SETUP)
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
