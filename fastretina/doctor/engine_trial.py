"""How fast DALI is with two shares of the images for a GPU's JPEG engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from fastretina.doctor.engine_share import ALL, LESS
from fastretina.doctor.measurements import LoadingRates
from fastretina.doctor.setup import LoadingSetup
from fastretina.measure.rounds import Rate, drain
from loaders import Loader, make_loader
from loaders.errors import DataError

_LOADER = "dali"
_ROUNDS = 5


def measure_engine(
    setup: LoadingSetup, rates: LoadingRates, images: int, seconds: float
) -> dict[float, Rate]:
    """The speed of DALI to *batch* with either share, in turn; empty without an engine.

    Args:
        setup: what is measured with.
        rates: of the loaders; DALI is tried with its fastest number of workers.
        images: number of images of an epoch.
        seconds: for the trial; each share gets a round at least.
    """
    known = [one for one in rates.batch if one.loader == _LOADER]
    if setup.compute.device.type != "cuda" or not known:
        return {}
    workers = max(known, key=lambda one: one.images_per_second).workers
    with ExitStack() as opened:
        try:
            return _try_both(setup, opened, workers, images, seconds)
        except (DataError, RuntimeError):  # as of a GPU that is full: all, as ever
            return {}


def _try_both(
    setup: LoadingSetup, opened: ExitStack, workers: int, images: int, seconds: float
) -> dict[float, Rate]:
    """Rounds in turn; a first one of each is not timed."""
    part = opened.enter_context(setup.shards.part(images))
    epochs: dict[float, Callable[[int], float]] = {}
    for share in (ALL, LESS):
        unset = share == ALL  # so that it is known whether there is an engine
        config = replace(
            setup.config(workers), hw_decoder_load=None if unset else share
        )
        loader = opened.enter_context(make_loader(_LOADER, part, "train", config))
        if loader.decoding.hw_decoder_load != share:
            return {}
        if unset:
            setup.progress("the GPU's JPEG engine")
        epochs[share] = partial(_speed, setup, loader)
        epochs[share](0)
    deadline = time.monotonic() + seconds
    speeds: dict[float, list[float]] = {share: [] for share in epochs}
    for number in range(1, _ROUNDS + 1):
        for share, epoch in epochs.items():
            if number > 1 and time.monotonic() > deadline:
                break
            speeds[share].append(epoch(number))
    return {share: Rate.of(each) for share, each in speeds.items()}


def _speed(setup: LoadingSetup, loader: Loader, number: int) -> float:
    """Images/s of an epoch to *batch*."""
    return drain(loader, number, setup.compute, "batch").images_per_second
