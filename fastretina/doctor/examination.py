"""All measurements, one after the other, in the time that is given.

The shares of what the imports have left of ``--seconds``::

    sample 2 % --> storage 6 % --> loading 45 % ------------> training: the rest
                                   read decode batch ready    step, end to end

Loading goes first, as workers should be forked before this process has threads. What
takes longer than its share takes it from training, which times fewer images then, and
leaves out what it has no time for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastretina.doctor.deadline import Deadline
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
        deadline: end of all measurements; single steps and batches are not split.
        progress: function that is called with what is measured next.
    """

    shards: ExaminedShards | None
    arch: Arch
    compute: Compute
    image_size: int | None
    batch_size: int
    deadline: Deadline
    progress: Announce


def examine(examination: Examination) -> Measurements:
    """Measure everything.

    Raises:
        SampleError: an image can't be decoded.
    """
    shards = examination.shards
    side = examination.image_size or _MADE_UP
    setup, data, loading = None, None, None
    if shards is not None:
        seconds = examination.deadline.left
        jpegs = _sample(examination, shards, 0.02 * seconds)
        data = _data_set(examination, shards, jpegs, 0.06 * seconds)
        setup = _loading_setup(examination, shards, jpegs, 0.45 * seconds)
        loading = measure_loading(setup)
    loader = _training_loader(setup, loading)
    shape = (side, side) if shards is None else shards.shape
    return Measurements(
        arch=examination.arch,
        device=str(examination.compute.device),
        memory_granted=memory_granted(),
        batch_size=examination.batch_size,
        data=data,
        loading=loading,
        training=measure_training(_training_setup(examination, shape), loader),
    )


def _training_loader(
    setup: LoadingSetup | None, loading: LoadingRates | None
) -> TrainingLoader | None:
    """The best loader of those that were measured, if any was."""
    if setup is None or loading is None or loading.ready is None:
        return None
    return TrainingLoader(setup, loading.ready.loader, loading.ready.workers)


def _sample(
    examination: Examination, shards: ExaminedShards, seconds: float
) -> list[bytes]:
    examination.progress("sampling")
    return sample_jpegs(shards, seconds)


def _loading_setup(
    examination: Examination,
    shards: ExaminedShards,
    jpegs: Sequence[bytes],
    seconds: float,
) -> LoadingSetup:
    return LoadingSetup(
        shards=shards,
        jpegs=jpegs,
        compute=examination.compute,
        batch_size=examination.batch_size,
        cores=granted_cores(),
        seconds=seconds,
        deadline=Deadline.after(seconds),
        progress=examination.progress,
    )


def _training_setup(examination: Examination, shape: tuple[int, int]) -> TrainingSetup:
    return TrainingSetup(
        arch=examination.arch,
        shape=shape,
        compute=examination.compute,
        batch_size=examination.batch_size,
        seconds=examination.deadline.left,
        progress=examination.progress,
    )


def _data_set(
    examination: Examination,
    shards: ExaminedShards,
    jpegs: Sequence[bytes],
    seconds: float,
) -> DataSetFacts:
    """The data set, and how its images are stored."""
    examination.progress("how the images are stored")
    storage = survey(jpegs, shards.shape)
    better = tuple(changes(jpegs, shards.shape, granted_cores(), seconds))
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
