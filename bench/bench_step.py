"""Finish line *step*: ResNet18 at 512 pixels trained on, from a batch that is there.

On a CPU a step takes seconds, so a round is a step of 8 images. Fed by a loader, the
ceiling is the step of the same kind on a synthetic batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch

from bench.data import NO_DATA, BenchData
from bench.entrant import Entrant, EntrantResult, Round
from bench.epoch_runner import HFLIP_CHANCE, VFLIP_CHANCE
from bench.race import Rules, RunRace
from bench.replay import HandOver, clock
from bench.rows import Setup
from fastretina.measure.steps import Case, Step, make_step, synthetic
from fastretina.nn.device import Compute
from loaders import Batch, LoaderConfig, make_loader

LINE = "step"
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
        Entrant(name, partial(_synthetic, case), kind="ceiling", setup=_setup(case))
        for name, case in cases.items()
    ]
    feeders = ("turbo", "pil")
    fed = [
        Entrant(f"fed by {name}", partial(_fed, case, name, data), setup=_setup(case))
        for name in feeders
    ]
    return alone + fed


def _setup(case: Case) -> Setup:
    return {"batch_size": case.batch, "case": case.name}


class _Training:
    """A ``Runner`` that takes steps."""

    def __init__(self, case: Case, batches: Callable[[int], Iterator[Batch]]) -> None:
        self._compute = Compute(torch.device("cuda" if _CUDA else "cpu"), None)
        self._step: Step = make_step(case, self._compute)
        self._batches, self._size = batches, case.batch

    def check(self) -> str:
        """A step takes as many images as it should; also warms up."""
        timed = self.run_round(0)
        assert timed.images == self._size * _STEPS, f"{timed.images} images"
        return "trained on"

    def run_round(self, number: int, first_only: bool = False) -> Round:
        """Some steps; see ``Runner``."""
        images, begun = 0, time.perf_counter()
        for step, batch in zip(range(_STEPS), self._batches(number), strict=False):
            self._step(number * _STEPS + step, batch)
            images += len(batch.labels)
        self._compute.wait()
        seconds = time.perf_counter() - begun
        return Round(images, seconds, seconds)


@contextmanager
def _synthetic(case: Case) -> Iterator[_Training]:
    batch = synthetic(case, torch.device("cuda" if _CUDA else "cpu"))

    def batches(number: int) -> Iterator[Batch]:
        while True:
            yield batch

    yield _Training(case, batches)


@contextmanager
def _fed(case: Case, name: str, data: BenchData) -> Iterator[_Training]:
    """Steps fed by a loader that goes on from round to round, as within an epoch."""
    config = LoaderConfig(
        batch_size=case.batch,
        image_size=case.pixels,
        shuffle=True,
        drop_last=True,
        hflip=HFLIP_CHANCE,
        vflip=VFLIP_CHANCE,
        device="cuda" if _CUDA else "cpu",
    )
    with make_loader(name, data.shards, "train", config) as loader:
        # Without one it would begin epochs without end.
        assert len(loader), f"fewer images than a batch of {case.batch} takes"

        def endless() -> Generator[Batch]:
            epoch = 0
            while True:
                yield from loader.epoch(epoch)
                epoch += 1

        with closing(endless()) as batches:
            yield _Training(case, lambda _: batches)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = [entrant.name for entrant in entrants(NO_DATA, small=False)]
    metafunc.parametrize("name", names)


@pytest.fixture(scope="module")
def results(
    run_race: RunRace, data: BenchData, rules: Rules, pytestconfig: pytest.Config
) -> dict[str, EntrantResult]:
    rules = replace(
        rules,
        num_rounds=max(rules.num_rounds - 2, 1),
        ceiling_of=_SYNTHETIC,
        num_openings=0,
        memory=False,
    )
    return run_race(entrants(data, pytestconfig.getoption("small")), rules)


@pytest.mark.benchmark(timer=clock)
def bench_step(
    name: str, hand_over: HandOver, results: dict[str, EntrantResult]
) -> None:
    hand_over(LINE, results, name)
