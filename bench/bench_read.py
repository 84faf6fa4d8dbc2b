"""Finish line *read*: the JPEG bytes in memory, shuffled where the reader can."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from bench.data import NO_DATA, BenchData, NumbersOfRows, number_of
from bench.entrant import Entrant, EntrantResult, Runner
from bench.epoch_runner import BATCH, AnyFinishLine, EpochRunner, LoadedBatch
from bench.race import Rules, RunRace
from bench.replay import HandOver, clock
from bench.rows import Setup
from fastretina.measure.ceilings import memory_copy

LINE: AnyFinishLine = "read"

Item = TypeVar("Item")


def entrants(data: BenchData) -> list[Entrant]:
    setup: Setup = {"batch_size": BATCH, "workers": 1}
    return [
        Entrant("shards, at random", partial(_shards, data), setup=setup),
        Entrant("JPEG files", partial(_files, data), kind="report", setup=setup),
        Entrant("webdataset", partial(_webdataset, data), kind="peer", setup=setup),
        Entrant("DALI's own reader", partial(_dali, data), kind="peer", setup=setup),
    ]


@contextmanager
def _shards(data: BenchData) -> Iterator[Runner]:
    """Our index, and our reading of the tars at any place."""
    with data.train() as split:

        def epoch(number: int) -> Iterator[LoadedBatch[list[int]]]:
            rows = np.random.default_rng(number).permutation(split.rows).tolist()
            for chosen in _batches(rows):
                yield LoadedBatch([bytes(split.read(row)) for row in chosen], chosen)

        yield EpochRunner(epoch, LINE, data, NumbersOfRows(data))


@contextmanager
def _files(data: BenchData) -> Iterator[Runner]:
    """A file for each image, opened and read."""

    def epoch(number: int) -> Iterator[LoadedBatch[list[Path]]]:
        for chosen in _batches(
            random.Random(number).sample(data.files, len(data.files))
        ):
            yield LoadedBatch([file.read_bytes() for file in chosen], chosen)

    yield EpochRunner(
        epoch, LINE, data, lambda files: [number_of(file.name) for file in files]
    )


@contextmanager
def _webdataset(data: BenchData) -> Iterator[Runner]:
    """The webdataset library, in sequence, as its documentation reads tars."""
    import webdataset

    urls = sorted(map(str, data.shards.glob("train-*.tar")))
    dataset = webdataset.WebDataset(urls, shardshuffle=False)
    samples = dataset.to_tuple("jpg", "__key__").batched(BATCH, collation_fn=_columns)

    def epoch(number: int) -> Iterator[LoadedBatch[tuple[str, ...]]]:
        for images, keys in samples:
            yield LoadedBatch(images, keys)

    yield EpochRunner(epoch, LINE, data, lambda keys: list(map(number_of, keys)))


def _columns(samples: list[tuple[bytes, str]]) -> list[tuple[bytes | str, ...]]:
    return list(zip(*samples, strict=True))


@contextmanager
def _dali(data: BenchData) -> Iterator[Runner]:
    from bench.dali_reader import dali_bytes, numbers_of_documents

    with dali_bytes(data) as epoch:
        yield EpochRunner(epoch, LINE, data, numbers_of_documents)


def _batches(items: list[Item]) -> Iterator[list[Item]]:
    for first in range(0, len(items), BATCH):
        yield items[first : first + BATCH]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("name", [entrant.name for entrant in entrants(NO_DATA)])


@pytest.fixture(scope="module")
def results(
    run_race: RunRace, data: BenchData, jpegs: list[bytes], rules: Rules
) -> dict[str, EntrantResult]:
    parts = [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs]
    mean = sum(map(len, jpegs)) / len(jpegs)

    def ceiling(_: Entrant) -> float:
        return memory_copy(parts, 1) / mean  # the readers have one thread, too

    rules = replace(rules, ceiling=ceiling, files=data.all_files)
    return run_race(entrants(data), rules)


@pytest.mark.benchmark(timer=clock)
def bench_read(
    name: str, hand_over: HandOver, results: dict[str, EntrantResult]
) -> None:
    hand_over(LINE, results, name)
