"""Sharding a folder: read, decode in full, hash, index, write."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path
from typing import Any

from conftest import Beside, read_all

from fastretina import shard
from loaders import open_split


def bench_shard(
    benchmark: Any,
    photographs: Path,
    shards: Path,
    cores: int,
    tmp_path: Path,
    capsys: Any,
) -> None:
    benchmark.group = "shard"
    with open_split(shards, "train") as train, open_split(shards, "test") as test:
        jpegs = read_all(train) + read_all(test)
    beside, numbers = Beside(jpegs, cores), count()

    def write(folder: Path) -> int:
        return shard.main([str(photographs), str(folder)])

    def fresh() -> tuple[Path]:
        number = next(numbers)
        shutil.rmtree(tmp_path / str(number - 1), ignore_errors=True)
        return (tmp_path / str(number),)

    code = benchmark.pedantic(
        write, setup=beside.setup(fresh), rounds=5, warmup_rounds=1
    )
    assert code == 0
    with capsys.disabled():
        beside.report(benchmark, len(jpegs))
