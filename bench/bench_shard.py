"""Sharding a folder: read, decode in full, hash, index, write."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from bench.data import BenchData
from bench.entrant import Entrant, EntrantResult, Round
from bench.race import Rules, RunRace
from bench.replay import HandOver, clock
from fastretina.shard import command as shard
from loaders import open_split

LINE = "shard"


class _Sharding:
    """A ``Runner`` that shards the photographs anew in each round."""

    def __init__(self, data: BenchData, folder: Path) -> None:
        self._data, self._folder = data, folder

    def check(self) -> str:
        """The shards must be those that the others load."""
        self.run_round(0)
        for split in ("train", "test"):
            with (
                open_split(self._folder / "shards", split) as made,
                open_split(self._data.shards, split) as expected,
            ):
                hashes = made.column("sha256")
                assert hashes == expected.column("sha256"), "other images"
        return "the same bytes"

    def run_round(self, number: int, first_only: bool = False) -> Round:
        """Shard all photographs; see ``Runner``."""
        out = self._folder / "shards"
        shutil.rmtree(out, ignore_errors=True)
        begun = time.perf_counter()
        written = shard.write(shard.Options(data=self._data.photographs, shards=out))
        seconds = time.perf_counter() - begun
        images = written["samples"]
        assert isinstance(images, int)
        return Round(images, seconds, seconds)


@contextmanager
def _sharding(data: BenchData) -> Iterator[_Sharding]:
    with tempfile.TemporaryDirectory(dir=data.folder.parent) as folder:
        yield _Sharding(data, Path(folder))


@pytest.fixture(scope="module")
def results(
    run_race: RunRace, data: BenchData, decode_rules: Rules
) -> dict[str, EntrantResult]:
    entrant = Entrant("scripts/shard.py", partial(_sharding, data))
    return run_race([entrant], replace(decode_rules, num_openings=0))


@pytest.mark.benchmark(timer=clock)
@pytest.mark.parametrize("name", ["scripts/shard.py"])
def bench_shard(
    name: str, hand_over: HandOver, results: dict[str, EntrantResult]
) -> None:
    hand_over(LINE, results, name)
