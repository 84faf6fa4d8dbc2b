"""All measurements, one after the other, in the time that is given.

The shares of ``--seconds``::

    sample 2 % --> storage --> loading 45 % --------------> training 40 %
                               read decode batch ready      step, end to end

Loading goes first, as workers should be forked before this process has threads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastretina.doctor.loader_rates import measure_loading
from fastretina.doctor.measurements import DataSetFacts, LoadingRates, Measurements
from fastretina.doctor.sample import ExaminedShards, sample_jpegs
from fastretina.doctor.setup import (
    Announce,
    LoadingSetup,
    TrainingLoader,
    TrainingSetup,
)
from fastretina.doctor.storage import changes, survey
from fastretina.doctor.training_rates import measure_training
from fastretina.measure.machine import memory_granted
from fastretina.nn.device import Compute
from fastretina.recipe import Arch
from loaders.cores import granted_cores

_MADE_UP = 512  # pixels, where there are no shards


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """What is to be measured.

    Attributes:
        shards: the data set; None measures training alone, on made-up images.
        arch: the network.
        compute: device and precision of training.
        image_size: side of made-up images, pixels; None takes 512.
        batch_size: images of a step.
        seconds: seconds that all of it takes, about.
        progress: function that is called with what is measured next.
    """

    shards: ExaminedShards | None
    arch: Arch
    compute: Compute
    image_size: int | None
    batch_size: int
    seconds: float
    progress: Announce


def examine(examination: Examination) -> Measurements:
    """Measure everything.

    Raises:
        SampleError: an image can't be decoded.
    """
    shards = examination.shards
    if shards is None:
        side = examination.image_size or _MADE_UP
        training = _training_setup(examination, (side, side), 0.6)
        return _measure(examination, training, None)
    training = _training_setup(examination, shards.shape, 0.4)
    return _measure(examination, training, _loading_setup(examination, shards))


def _measure(
    examination: Examination, training: TrainingSetup, setup: LoadingSetup | None
) -> Measurements:
    data = None if setup is None else _data_set(setup)
    loading = None if setup is None else measure_loading(setup)
    loader = _training_loader(setup, loading)
    return Measurements(
        arch=examination.arch,
        device=str(examination.compute.device),
        memory_granted=memory_granted(),
        batch_size=examination.batch_size,
        data=data,
        loading=loading,
        training=measure_training(training, loader),
    )


def _training_loader(
    setup: LoadingSetup | None, loading: LoadingRates | None
) -> TrainingLoader | None:
    """The best loader of those that were measured, if any was."""
    if setup is None or loading is None or loading.ready is None:
        return None
    return TrainingLoader(setup, loading.ready.loader, loading.ready.workers)


def _loading_setup(examination: Examination, shards: ExaminedShards) -> LoadingSetup:
    examination.progress("sampling")
    return LoadingSetup(
        shards=shards,
        jpegs=sample_jpegs(shards, 0.02 * examination.seconds),
        compute=examination.compute,
        batch_size=examination.batch_size,
        cores=granted_cores(),
        seconds=0.45 * examination.seconds,
        progress=examination.progress,
    )


def _training_setup(
    examination: Examination, shape: tuple[int, int], share: float
) -> TrainingSetup:
    return TrainingSetup(
        arch=examination.arch,
        shape=shape,
        compute=examination.compute,
        batch_size=examination.batch_size,
        seconds=share * examination.seconds,
        progress=examination.progress,
    )


def _data_set(setup: LoadingSetup) -> DataSetFacts:
    """The data set, and how its images are stored."""
    shards = setup.shards
    setup.progress("how the images are stored")
    storage = survey(setup.jpegs, shards.shape)
    better = tuple(changes(setup.jpegs, shards.shape, setup.cores))
    return DataSetFacts(
        train=shards.train,
        test=shards.test,
        bytes=shards.bytes,
        shape=shards.shape,
        sizes=shards.sizes,
        resized_to=shards.image_size,
        asked=shards.asked,
        storage=replace(storage, changes=better),
    )
