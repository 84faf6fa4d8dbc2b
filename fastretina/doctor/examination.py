"""All measurements, one after the other, in the time that is given."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastretina.doctor.loader_rates import Bench, Tell, measure_loading
from fastretina.doctor.measurements import DataSet, Measurements
from fastretina.doctor.sample import ImageSample, sample
from fastretina.doctor.storage import changes, survey
from fastretina.doctor.training_rates import Drill, Feed, measure_training
from fastretina.measure.machine import memory_granted
from fastretina.nn.device import Compute
from fastretina.recipe import Arch
from loaders.cores import granted_cores

_MADE_UP = 512  # pixels, where there are no shards


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is to be examined.

    Attributes:
        subject: the data set; None measures training alone, on made-up images.
        arch: the network.
        compute: where it is trained.
        image_size: of made-up images, pixels.
        batch_size: images.
        seconds: for all of it, about.
        tell: called with what is going on.
    """

    subject: ImageSample | None
    arch: Arch
    compute: Compute
    image_size: int | None
    batch_size: int
    seconds: float
    tell: Tell


def examine(wanted: Wanted) -> Measurements:
    """Measure everything; loading first, as forks should come before threads.

    Raises:
        SampleError: an image can't be decoded.
    """
    if wanted.subject is None:
        side = wanted.image_size or _MADE_UP
        return _found(wanted, _drill(wanted, (side, side), 0.6), None, None)
    wanted.tell("sampling")
    bench = Bench(
        subject=wanted.subject,
        jpegs=sample(wanted.subject, 0.02 * wanted.seconds),
        compute=wanted.compute,
        batch_size=wanted.batch_size,
        cores=granted_cores(),
        seconds=0.45 * wanted.seconds,
        tell=wanted.tell,
    )
    drill = _drill(wanted, wanted.subject.shape, 0.4)
    return _found(wanted, drill, bench, _data(bench))


def _found(
    wanted: Wanted, drill: Drill, bench: Bench | None, data: DataSet | None
) -> Measurements:
    loading = None if bench is None else measure_loading(bench)
    feed = None
    if bench is not None and loading is not None and loading.ready is not None:
        feed = Feed(bench, loading.ready.loader, loading.ready.workers)
    return Measurements(
        arch=wanted.arch,
        device=str(wanted.compute.device),
        cores=granted_cores(),
        memory_granted=memory_granted(),
        batch_size=wanted.batch_size,
        data=data,
        loading=loading,
        training=measure_training(drill, feed),
    )


def _drill(wanted: Wanted, shape: tuple[int, int], share: float) -> Drill:
    return Drill(
        arch=wanted.arch,
        shape=shape,
        compute=wanted.compute,
        batch_size=wanted.batch_size,
        seconds=share * wanted.seconds,
        tell=wanted.tell,
    )


def _data(bench: Bench) -> DataSet:
    """The data set, and how its images are stored."""
    subject = bench.subject
    bench.tell("how the images are stored")
    storage = survey(bench.jpegs, subject.shape)
    better = tuple(changes(bench.jpegs, subject.shape, bench.cores))
    return DataSet(
        train=subject.train,
        test=subject.test,
        bytes=subject.bytes,
        shape=subject.shape,
        sizes=subject.sizes,
        resized_to=subject.image_size,
        asked=subject.asked,
        storage=replace(storage, changes=better),
    )
