"""What to use, and how else to store the images: with the reasons, from numbers.

Nothing here measures: the same findings give the same advice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastretina.doctor.bottleneck import limit
from fastretina.doctor.measurements import LoaderRate, Measurements
from fastretina.doctor.storage import Change
from fastretina.recipe import PHASES
from loaders import LOADERS

_ALIKE = 0.03  # rounds of one loader lie that far apart: no reason to choose by
_CLEARLY = 1.10  # times as fast: more than what chance does to a median
_WAITS = 0.02  # share of the time; less is not worth a flag
_PREFETCH, _MORE_PREFETCH = 2, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """What to use.

    Attributes:
        loader: of the common order.
        workers: threads, or processes (pil).
        prefetch: batches.
        batch_size: images.
        images_per_second: of that loader, to *batch*.
        sentences: the reasons.
    """

    loader: str
    workers: int
    prefetch: int
    batch_size: int
    images_per_second: float
    sentences: tuple[str, ...]

    @property
    def flags(self) -> str:
        """As ``fastretina.train`` takes them."""
        return (
            f"--loader {self.loader} --workers {self.workers} "
            f"--prefetch {self.prefetch} --batch-size {self.batch_size}"
        )

    def summary(self) -> dict[str, object]:
        """As the JSON line holds it."""
        return {
            "loader": self.loader,
            "workers": self.workers,
            "prefetch": self.prefetch,
            "batch_size": self.batch_size,
        }


def best_loader(batch: Sequence[LoaderRate]) -> LoaderRate | None:
    """The fastest of the common order, with the most workers that are as fast.

    Not the fewest: on a machine that was busy, one seems as fast as all of them.
    """
    common = [one for one in batch if not LOADERS[one.loader].own_order]
    if not common:
        return None
    return max(_as_fast(common, max(common, key=_speed)), key=_workers)


def _as_fast(batch: Sequence[LoaderRate], one: LoaderRate) -> list[LoaderRate]:
    """The same loader with any number of workers that does not slow it down."""
    enough = (1 - _ALIKE) * _speed(one)
    return [two for two in batch if two.loader == one.loader and _speed(two) >= enough]


def advise(found: Measurements) -> Advice | None:
    """What to use, and why; None where nothing was loaded."""
    loading = found.loading
    best = best_loader(loading.batch) if loading else None
    if loading is None or best is None:
        return None
    prefetch, why_prefetch = _prefetch(found, best)
    batch_size, why_batch = _batch_size(found)
    sentences = [_why_loader(found, best), *_own_order(found, best)]
    return Advice(
        loader=best.loader,
        workers=best.workers,
        prefetch=prefetch,
        batch_size=batch_size,
        images_per_second=_speed(best),
        sentences=(*sentences, why_prefetch, why_batch),
    )


def _why_loader(found: Measurements, best: LoaderRate) -> str:
    assert found.loading is not None
    others = [
        one
        for one in found.loading.batch
        if one.loader != best.loader and not LOADERS[one.loader].own_order
    ]
    kind = "processes" if best.loader == "pil" else "threads"
    if best.workers == 1:
        kind = kind.removesuffix("es" if best.loader == "pil" else "s")
    sentence = (
        f"Loader {best.loader} with {best.workers} {kind}: {_speed(best):,.0f} images/s"
    )
    fewest = min(_as_fast(found.loading.batch, best), key=_workers).workers
    if fewest < best.workers:
        sentence += f" ({fewest} would do)"
    if others:
        second = max(others, key=_speed)
        ratio = _speed(best) / _speed(second)
        if ratio < 1 + _ALIKE:
            sentence += f", as fast as {second.loader}"
        else:
            sentence += (
                f", {ratio:.2f} times {second.loader}'s {_speed(second):,.0f}, which "
                "gives the same batches"
            )
    if all(limit(found, phase) == "step" for phase in PHASES):
        sentence += "; the step limits, so that any loader this fast would do"
    return sentence + "."


def _own_order(found: Measurements, best: LoaderRate) -> list[str]:
    assert found.loading is not None
    own = [one for one in found.loading.batch if LOADERS[one.loader].own_order]
    fastest = max(own, key=_speed, default=None)
    if fastest is None or _speed(fastest) < _CLEARLY * _speed(best):
        return []
    return [
        f"{fastest.loader} is {_speed(fastest) / _speed(best):.2f} times as fast, in "
        "an order of its own: a run can't change to it or from it midway."
    ]


def _prefetch(found: Measurements, best: LoaderRate) -> tuple[int, str]:
    """More of it evens out a loader that is fast enough only on average."""
    for phase in PHASES:
        end = found.training.end_to_end.get(phase)
        step = found.training.step[phase].images_per_second
        if end is None or limit(found, phase) != "step":
            continue
        if end.wait_share > _WAITS and _speed(best) > _CLEARLY * step:
            return _MORE_PREFETCH, (
                f"Prefetch {_MORE_PREFETCH}: the loader is faster than the step on "
                f"average, and yet the step waited {end.wait_share:.0%} of the time."
            )
    if any(limit(found, phase) != "step" for phase in PHASES):
        return _PREFETCH, (
            f"Prefetch {_PREFETCH}: more would fill only once and then wait, too, as "
            "the step is faster than what loads."
        )
    share = max((e.wait_share for e in found.training.end_to_end.values()), default=0.0)
    return _PREFETCH, (
        f"Prefetch {_PREFETCH}: the step waited {share:.1%} of the time with it."
    )


def _batch_size(found: Measurements) -> tuple[int, str]:
    """What was asked for, unless memory forbids it: it is part of the recipe."""
    training, wanted = found.training, found.batch_size
    used, total = training.memory.gpu, training.memory.gpu_total
    if training.out_of_memory:
        return training.batch, (
            f"Batch size {training.batch}: {wanted} do not fit in the GPU's memory."
        )
    if used is None and peak_at(found) > found.memory_granted:
        return wanted, (
            f"Batch size: {wanted} would take about {gib(peak_at(found))}, more than "
            "there is: choose a smaller one."
        )
    fits = "it fits"
    if used is not None and total:
        fits = f"it takes {used / total:.0%} of the GPU's memory"
    return wanted, (
        f"Batch size {wanted}: {fits}, and another needs another learning rate."
    )


def storing(found: Measurements) -> list[str]:
    """Whether the images should be stored differently."""
    if found.data is None:
        return []
    storage, data = found.data.storage, found.data
    sentences = [_change_sentence(change, data.shape) for change in storage.changes]
    if data.resized_to and not data.asked:
        sentences.append(
            f"The images have {data.sizes} different sizes, so training needs "
            f"--image-size; measured with {data.resized_to}. Resized once, by "
            f"scripts/shard.py --size {data.resized_to}, they load faster."
        )
    if not sentences:
        return ["The images are stored well: baseline JPEGs of the size that is used."]
    matters = [phase for phase in PHASES if limit(found, phase) != "step"]
    if not matters and storage.changes:
        sentences.append("As the step limits, none of that would be noticed here.")
    return sentences


def _change_sentence(change: Change, shape: tuple[int, int]) -> str:
    name, share, times = change
    faster = f"they would decode {times:.1f} times as fast (measured)"
    if times < _CLEARLY:
        faster = f"which costs next to nothing here ({times:.2f} times as fast without)"
    height, width = shape
    size = f"--size {height}" if height == width else "--size"
    return {
        "baseline": f"{share:.0%} of the images are progressive JPEGs: as baseline, "
        f"which jpegtran makes of them without loss, {faster}.",
        "4:2:0": f"{share:.0%} of the images are stored with full chroma (4:4:4): as "
        f"4:2:0, {faster}; that loses colour detail.",
        "smaller": f"{share:.0%} of the images have at least twice the pixels of the "
        f"{width} x {height} that are used: stored at that size "
        f"(scripts/shard.py {size}), {faster}.",
    }[name]


def memory(found: Measurements) -> list[str]:
    """What training takes."""
    training = found.training
    peak = f"Memory: {gib(training.memory.peak)} with batches of {training.batch}"
    if training.batch < found.batch_size and not training.out_of_memory:
        peak += f", at most about {gib(peak_at(found))} with {found.batch_size}"
    peak += f", of {gib(found.memory_granted)}."
    used = training.memory.gpu
    if used is None:
        return [peak, "GPU memory: not measured, as there is no GPU in use."]
    total = training.memory.gpu_total
    return [peak, f"GPU memory: {gib(used)} of {gib(total or 0)}, beside CUDA's own."]


def not_measured(found: Measurements) -> list[str]:
    """Loaders that could not be had, and why."""
    notes = found.loading.not_measured if found.loading else {}
    return [f"Not measured: {name} ({note})." for name, note in notes.items()]


def peak_at(found: Measurements) -> float:
    """Bytes at the batch size that was asked for, if all but imports grew with it."""
    memory = found.training.memory
    grows = max(memory.peak - memory.before, 0)
    return memory.before + grows * found.batch_size / found.training.batch


def gib(number: float) -> str:
    """Bytes for people."""
    return f"{number / 2**30:.1f} GiB"


def _workers(one: LoaderRate) -> int:
    return one.workers


def _speed(one: LoaderRate) -> float:
    return one.rate.images_per_second
