"""Finish line *step*: ResNet18 at 512 pixels trained on, from a batch that is there.

On a CPU a step takes seconds, so a round is a step of 8 images. Fed by a loader, the
ceiling is the step of the same kind on a synthetic batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch

from bench.data import BenchData
from bench.delivery import HFLIP, VFLIP
from bench.race import Entrant, EntrantResult, Lap
from bench.replay import clock
from fastretina.measure.steps import Case, Step, make_step, synthetic
from fastretina.nn.device import Compute
from loaders import Batch, LoaderConfig, make_loader

LINE = "step"
_NOWHERE = BenchData(folder=None)  # type: ignore[arg-type]  # for the names alone
_CUDA = torch.cuda.is_available()
_CASE = Case(
    "resnet18", 64 if _CUDA else 8, 512, "bf16", "channels-last", "full", strong=False
)
_STEPS = 20 if _CUDA else 1
_SYNTHETIC = "synthetic, bf16 channels-last"


def entrants(data: BenchData, small: bool) -> list[Entrant]:
    case = _CASE._replace(pixels=64, batch=2) if small else _CASE
    plain = case._replace(precision="fp32")
    cases = {
        _SYNTHETIC: case,
        "synthetic, float32 channels-last": plain,
        "synthetic, float32 NCHW": plain._replace(layout="NCHW"),
    }
    alone = [
        Entrant(name, partial(_synthetic, case), kind="ceiling", about=_about(case))
        for name, case in cases.items()
    ]
    feeders = ("turbo", "pil")
    fed = [
        Entrant(f"fed by {name}", partial(_fed, case, name, data), about=_about(case))
        for name in feeders
    ]
    return alone + fed


def _about(case: Case) -> dict[str, Any]:
    return {"batch_size": case.batch, "case": case.name}


class _Training:
    """A ``Runner`` that takes steps."""

    def __init__(self, case: Case, batches: Callable[[int], Iterator[Batch]]) -> None:
        dtype = torch.bfloat16 if case.precision == "bf16" else None
        device = torch.device("cuda" if _CUDA else "cpu")
        self._compute = Compute(device, dtype)
        self._step: Step = make_step(case, self._compute)
        self._batches, self._size = batches, case.batch

    def check(self) -> str:
        """A step takes as many images as it should; also warms up."""
        lap = self.lap(0)
        assert lap.images == self._size * _STEPS, f"{lap.images} images"
        return "trained on"

    def lap(self, number: int, first_only: bool = False) -> Lap:
        """Some steps; see ``race.Runner``."""
        images, begun = 0, time.perf_counter()
        for step, batch in zip(range(_STEPS), self._batches(number), strict=False):
            self._step(number * _STEPS + step, batch)
            images += len(batch.labels)
        self._compute.wait()
        seconds = time.perf_counter() - begun
        return Lap(images, seconds, seconds)


@contextmanager
def _synthetic(case: Case) -> Iterator[_Training]:
    batch = synthetic(case, torch.device("cuda" if _CUDA else "cpu"))

    def batches(number: int) -> Iterator[Batch]:
        while True:
            yield batch

    yield _Training(case, batches)


@contextmanager
def _fed(case: Case, name: str, data: BenchData) -> Iterator[_Training]:
    """By a loader that goes on from lap to lap, as within an epoch."""
    config = LoaderConfig(
        batch_size=case.batch,
        image_size=case.pixels,
        shuffle=True,
        drop_last=True,
        hflip=HFLIP,
        vflip=VFLIP,
        device="cuda" if _CUDA else "cpu",
    )
    with make_loader(name, data.shards, "train", config) as loader:

        def endless() -> Iterator[Batch]:
            epoch = 0
            while True:
                yield from loader.epoch(epoch)
                epoch += 1

        going = endless()
        yield _Training(case, lambda _: going)
        going.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = [entrant.name for entrant in entrants(_NOWHERE, small=False)]
    metafunc.parametrize("name", names)


@pytest.fixture(scope="module")
def outcomes(
    run_race: Any, data: BenchData, rounds: int, pytestconfig: pytest.Config
) -> dict[str, EntrantResult]:
    found: dict[str, EntrantResult] = run_race(
        entrants(data, pytestconfig.getoption("small")),
        rounds=max(rounds - 2, 1),
        ceiling_of=_SYNTHETIC,
        firsts=0,
        memory=False,
    )
    return found


@pytest.mark.benchmark(timer=clock)
def bench_step(name: str, report: Any, outcomes: dict[str, EntrantResult]) -> None:
    report(LINE, outcomes, name)
