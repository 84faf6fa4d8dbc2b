"""Sharding a folder: read, decode in full, hash, index, write."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.data import BenchData
from bench.race import Entrant, EntrantResult, Lap
from bench.replay import clock
from fastretina.shard import command as shard
from loaders import open_split

LINE = "shard"


class _Sharding:
    """A ``Runner`` that shards the photographs anew in each lap."""

    def __init__(self, data: BenchData, folder: Path) -> None:
        self._data, self._folder = data, folder

    def check(self) -> str:
        """The shards must be those that the others load."""
        self.lap(0)
        for split in ("train", "test"):
            with (
                open_split(self._folder / "shards", split) as made,
                open_split(self._data.shards, split) as expected,
            ):
                hashes = made.column("sha256")
                assert hashes == expected.column("sha256"), "other images"
        return "the same bytes"

    def lap(self, number: int, first_only: bool = False) -> Lap:
        """Shard it all; see ``race.Runner``."""
        out = self._folder / "shards"
        shutil.rmtree(out, ignore_errors=True)
        begun = time.perf_counter()
        written = shard.write(shard.Options(data=self._data.photographs, shards=out))
        seconds = time.perf_counter() - begun
        assert written is not None
        images = int(written["samples"])
        return Lap(images, seconds, seconds)


@contextmanager
def _sharding(data: BenchData) -> Iterator[_Sharding]:
    with tempfile.TemporaryDirectory(dir=data.folder.parent) as folder:
        yield _Sharding(data, Path(folder))


@pytest.fixture(scope="module")
def outcomes(
    run_race: Any, data: BenchData, decode_ceiling: Callable[[Entrant], float]
) -> dict[str, EntrantResult]:
    entrant = Entrant("scripts/shard.py", partial(_sharding, data))
    found: dict[str, EntrantResult] = run_race(
        [entrant], ceiling=decode_ceiling, firsts=0
    )
    return found


@pytest.mark.benchmark(timer=clock)
@pytest.mark.parametrize("name", ["scripts/shard.py"])
def bench_shard(name: str, report: Any, outcomes: dict[str, EntrantResult]) -> None:
    report(LINE, outcomes, name)
