"""Later epochs of phase ``head``: on kept features, beside passes through the backbone.

The ceiling is the head trained by passes, fed by turbo, which takes its turn in each
round: the share says how many times as fast an epoch is whose features are kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
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
from fastretina.data.training_config import training_config
from fastretina.nn.device import Compute, choose
from fastretina.nn.distributed import ALONE
from fastretina.nn.model import build_model
from fastretina.nn.step import Learner, StepPlace, StepSetup, train_step
from fastretina.recipe import SEED
from fastretina.train.features import FeatureEpochs
from loaders import Loader, ShardSplit, make_loader

LINE = "features"
_PLAIN = "passes, fed by turbo"
_CUDA = torch.cuda.is_available()
_RECIPE = replace(
    SEED,
    batch_size=32 if _CUDA else 8,
    head_epochs=5,
    head_batchnorm="eval",
    hflip=HFLIP_CHANCE,
    vflip=VFLIP_CHANCE,
)
_IMAGES = 1024 if _CUDA else 16  # two cores pass some 10 a second
_REPEATS = 32  # epochs on kept features to a round: one takes 10 ms


class _Head:
    """A ``Runner`` that trains the head for an epoch a round, after the first one."""

    def __init__(
        self, train: ShardSplit, loader: Loader, compute: Compute, kept: bool
    ) -> None:
        self._loader, self._compute = loader, compute
        setup = StepSetup(
            recipe=_RECIPE,
            compute=compute,
            train_counts=[1] * 5,
            keeps_features=kept,
        )
        network = build_model(_RECIPE.arch, "none", seed=0).to(compute.device)
        self._learner = Learner(network, "head", setup)
        self._kept = FeatureEpochs(self._learner, train, setup, 0) if kept else None

    def check(self) -> str:
        """The first epoch takes all images; the others need none where it is kept."""
        images = self._epoch(0)
        assert images == len(self._loader) * _RECIPE.batch_size, f"{images} images"
        if self._kept is not None:
            assert all(map(self._kept.is_kept, range(1, _RECIPE.head_epochs)))
        return "trained on"

    def run_round(self, number: int, first_only: bool = False) -> Round:
        """An epoch behind the first, or many; see ``Runner``."""
        later = _RECIPE.head_epochs - 1
        begun, images = time.perf_counter(), 0
        for repeat in range(1 if self._kept is None else _REPEATS):
            images += self._epoch(1 + (number + repeat) % later)
        self._compute.wait()
        seconds = time.perf_counter() - begun
        return Round(images, seconds, seconds)

    def _epoch(self, epoch: int) -> int:
        images, learner, kept = 0, self._learner, self._kept
        place = StepPlace(epoch, 0, epoch)
        if kept is None:
            for batch in self._loader.epoch(epoch):
                train_step(learner, batch, place)
                images += len(batch.labels)
            return images
        for features in kept.batches(self._loader, epoch, 0):
            kept.train(learner, features, place)
            images += len(features.labels)
        kept.end_epoch(learner)
        return images


@contextmanager
def _opened(data: BenchData, images: int, size: int, kept: bool) -> Iterator[_Head]:
    compute = choose("auto", "off")
    train = data.train()
    images = min(images, len(train)) // _RECIPE.batch_size * _RECIPE.batch_size
    train = train.select(train.rows[:images])
    recipe = replace(_RECIPE, image_size=size)
    config = replace(training_config(recipe, ALONE), device=str(compute.device))
    with make_loader("turbo", train, train.name, config) as loader:
        yield _Head(train, loader, compute, kept)


def entrants(data: BenchData, small: bool) -> list[Entrant]:
    """Passes through the backbone, and kept features."""
    images, size = (8, 64) if small else (_IMAGES, 512)
    setup: Setup = {"batch_size": _RECIPE.batch_size, "flips": "both"}
    return [
        Entrant(name, partial(_opened, data, images, size, kept), setup=setup)
        for name, kept in ((_PLAIN, False), ("kept features", True))
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = [entrant.name for entrant in entrants(NO_DATA, small=True)]
    metafunc.parametrize("name", names)


@pytest.fixture(scope="module")
def results(
    run_race: RunRace, data: BenchData, rules: Rules, pytestconfig: pytest.Config
) -> dict[str, EntrantResult]:
    rules = replace(
        rules,
        num_rounds=max(rules.num_rounds - 2, 1),
        ceiling_of=_PLAIN,
        num_openings=0,
        memory=False,
    )
    return run_race(entrants(data, pytestconfig.getoption("small")), rules)


@pytest.mark.benchmark(timer=clock)
def bench_features(
    name: str, hand_over: HandOver, results: dict[str, EntrantResult]
) -> None:
    hand_over(LINE, results, name)
