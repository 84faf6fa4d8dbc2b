"""What every benchmark needs: photographs, the decode-only ceiling, the machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from loaders._cores import granted_cores
from loaders.shards import ShardSplit, open_split


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shards",
        type=Path,
        help="shards to benchmark on; by default demo photographs, drawn once",
    )


@pytest.fixture(scope="session")
def photographs(pytestconfig: pytest.Config) -> Path:
    """A course-format folder of 1,000 demo photographs of 512 pixels, drawn once."""
    from fastretina import demo

    folder = Path(pytestconfig.cache.mkdir("fastretina")) / "photographs"
    assert demo.main([str(folder), "--images", "1000"]) == 0
    return folder


@pytest.fixture(scope="session")
def shards(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Path:
    """The shards to benchmark on."""
    given: Path | None = pytestconfig.getoption("shards")
    if given is not None:
        return given
    from fastretina import shard

    photographs: Path = request.getfixturevalue("photographs")
    folder = photographs.parent / "shards"
    assert shard.main([str(photographs), str(folder)]) == 0
    return folder


def read_all(split: ShardSplit) -> list[bytes]:
    """The JPEG bytes of a split, in memory."""
    return [bytes(split.read(int(row))) for row in split.rows]


def decode_only(jpegs: Sequence[bytes], threads: int) -> float:
    """The ceiling: images/s of libjpeg-turbo alone, each thread with its share."""

    def work(share: Sequence[bytes]) -> None:
        room: dict[tuple[int, int], Any] = {}
        for jpeg in share:
            shape = simplejpeg.decode_jpeg_header(jpeg)[:2]
            if shape not in room:
                room[shape] = np.empty((*shape, 3), np.uint8)
            simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=room[shape])

    workers = [
        threading.Thread(target=work, args=(jpegs[n::threads],)) for n in range(threads)
    ]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(jpegs) / (time.perf_counter() - begun)


class Beside:
    """Measures the ceiling before every round, so that both see the same machine."""

    def __init__(self, jpegs: Sequence[bytes], threads: int) -> None:
        self._jpegs, self._threads = jpegs, threads
        self.ceilings: list[float] = []

    def setup(self, prepare: Callable[[], tuple[Any, ...]]) -> Callable[[], Any]:
        def before_round() -> tuple[tuple[Any, ...], dict[str, Any]]:
            self.ceilings.append(decode_only(self._jpegs, self._threads))
            return prepare(), {}

        return before_round

    def report(self, benchmark: Any, images: int) -> None:
        """Put images/s, the ceiling and the share of it beside the times.

        The share is the median over rounds of each round's own ratio.
        """
        if benchmark.stats is None:  # --benchmark-disable
            return
        seconds = benchmark.stats.stats.data
        ceilings = self.ceilings[-len(seconds) :]
        shares = [images / s / c for s, c in zip(seconds, ceilings, strict=True)]
        speed = images / float(np.median(seconds))
        benchmark.extra_info.update(
            images_per_second=round(speed, 1),
            ceiling_images_per_second=round(float(np.median(ceilings)), 1),
            share_of_ceiling=round(float(np.median(shares)), 3),
            threads=self._threads,
        )
        print(
            f"\n{benchmark.name}: {speed:,.0f} images/s, "
            f"{np.median(shares):.2f} of the decode-only ceiling on {self._threads} "
            f"threads ({min(shares):.2f} to {max(shares):.2f})"
        )


@pytest.fixture(scope="session")
def cores() -> int:
    return granted_cores()


@pytest.fixture(scope="session")
def train_split(shards: Path) -> ShardSplit:
    return open_split(shards, "train")
