"""Finish line *read*: the JPEG bytes in memory, shuffled where the reader can."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

from bench.data import BenchData, number_of
from bench.delivery import BATCH, Delivered, Delivery
from bench.race import Entrant, EntrantResult
from bench.replay import clock
from fastretina.measure.ceilings import memory_copy

LINE = "read"
_NOWHERE = BenchData(folder=None)  # type: ignore[arg-type]  # for the names alone


def entrants(data: BenchData) -> list[Entrant]:
    about: dict[str, Any] = {"batch_size": BATCH, "workers": 1}
    return [
        Entrant("shards, at random", partial(_shards, data), about=about),
        Entrant("JPEG files", partial(_files, data), kind="report", about=about),
        Entrant("webdataset", partial(_webdataset, data), kind="peer", about=about),
        Entrant("DALI's own reader", partial(_dali, data), kind="peer", about=about),
    ]


@contextmanager
def _shards(data: BenchData) -> Iterator[Delivery]:
    """Our index and memory maps; copied, as a map alone has read nothing."""
    with data.train() as split:
        numbers = [number_of(key) for key in split.column("key")]

        def epoch(number: int) -> Iterator[Delivered]:
            rows = np.random.default_rng(number).permutation(split.rows).tolist()
            for chosen in _batches(rows):
                yield Delivered([bytes(split.read(row)) for row in chosen], chosen)

        yield Delivery(epoch, LINE, data, lambda rows: [numbers[row] for row in rows])


@contextmanager
def _files(data: BenchData) -> Iterator[Delivery]:
    """A file for each image, opened and read."""

    def epoch(number: int) -> Iterator[Delivered]:
        for chosen in _batches(
            random.Random(number).sample(data.files, len(data.files))
        ):
            images = [file.read_bytes() for file in chosen]
            yield Delivered(images, [number_of(file.name) for file in chosen])

    yield Delivery(epoch, LINE, data)


@contextmanager
def _webdataset(data: BenchData) -> Iterator[Delivery]:
    """The webdataset library, in sequence, as its documentation reads tars."""
    import webdataset

    urls = sorted(map(str, data.shards.glob("train-*.tar")))
    dataset = webdataset.WebDataset(urls, shardshuffle=False)
    samples = dataset.to_tuple("jpg", "__key__").batched(BATCH, collation_fn=_columns)

    def epoch(number: int) -> Iterator[Delivered]:
        for images, keys in samples:
            yield Delivered(images, keys)

    yield Delivery(epoch, LINE, data, lambda keys: list(map(number_of, keys)))


def _columns(samples: Any) -> Any:
    return list(zip(*samples, strict=True))


@contextmanager
def _dali(data: BenchData) -> Iterator[Delivery]:
    from bench.dali_reader import dali_bytes

    with dali_bytes(data) as epoch:
        yield Delivery(epoch, LINE, data)


def _batches(items: list[Any]) -> Iterator[list[Any]]:
    for first in range(0, len(items), BATCH):
        yield items[first : first + BATCH]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("name", [entrant.name for entrant in entrants(_NOWHERE)])


@pytest.fixture(scope="module")
def outcomes(
    run_race: Any, data: BenchData, jpegs: list[bytes]
) -> dict[str, EntrantResult]:
    parts = [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs]
    mean = sum(map(len, jpegs)) / len(jpegs)

    def ceiling(_: Entrant) -> float:
        return memory_copy(parts, 1) / mean  # the readers have one thread, too

    found: dict[str, EntrantResult] = run_race(
        entrants(data), ceiling=ceiling, files=data.everything()
    )
    return found


@pytest.mark.benchmark(timer=clock)
def bench_read(name: str, report: Any, outcomes: dict[str, EntrantResult]) -> None:
    report(LINE, outcomes, name)
