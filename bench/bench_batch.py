"""Finish line *batch*: uint8 batches of 32 in memory, an epoch per round."""

from __future__ import annotations

import zlib
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import Beside, read_all

from loaders import Loader, LoaderConfig, ShardSplit, available, make_loader

TRAINING = LoaderConfig(batch_size=32, shuffle=True, hflip=0.4, vflip=0.5)


def drain(loader: Loader, epoch: int) -> int:
    """Take one epoch; returns how many images really arrived."""
    return sum(len(batch.labels) for batch in loader.epoch(epoch))


def check_against_pil(loader: Loader, split: ShardSplit) -> None:
    """An epoch must hold the reference's images: a wrong loader is not fast."""
    with make_loader("pil", split, "train", TRAINING) as reference:
        assert checksums(loader) == checksums(reference)


def checksums(loader: Loader) -> dict[int, int]:
    """Of every image of an epoch, by row."""
    return {
        row: zlib.crc32(image)
        for batch in loader.epoch(0)
        for row, image in zip(
            batch.index.tolist(), batch.images.cpu().numpy(), strict=True
        )
    }


@pytest.mark.parametrize("name", available())
def bench_batch(name: str, benchmark: Any, train_split: ShardSplit, cores: int) -> None:
    benchmark.group = "batch"
    beside, epochs = Beside(read_all(train_split), cores), count()
    with make_loader(name, train_split, "train", TRAINING) as loader:
        check_against_pil(loader, train_split)
        seen = benchmark.pedantic(
            drain,
            setup=beside.setup(lambda: (loader, next(epochs))),
            rounds=7,
            warmup_rounds=1,
        )
    assert seen == len(train_split)
    beside.report(benchmark, seen)


def bench_first_batch(benchmark: Any, shards: Path) -> None:
    """From a folder's name to the first batch in hand: index, threads, buffers."""
    benchmark.group = "first batch"

    def first() -> int:
        with make_loader("turbo", shards, "train", TRAINING) as loader:
            return len(next(iter(loader.epoch(0))).labels)

    assert benchmark.pedantic(first, rounds=7, warmup_rounds=1) == TRAINING.batch_size
