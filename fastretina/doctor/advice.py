"""Which loader, workers, prefetch and batch size to use: with the reasons.

Nothing here measures: the same measurements give the same advice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fastretina.doctor.bottleneck import limit
from fastretina.doctor.engine_share import ALL, choose_share
from fastretina.doctor.measurements import CLEARLY_FASTER, LoaderRate, Measurements
from fastretina.doctor.notes import peak_at
from fastretina.formatting import format_gib
from fastretina.measure.rounds import Rate
from fastretina.recipe import PHASES
from loaders import LOADERS

_ALIKE = 0.03  # rounds of one loader lie that far apart: no reason to choose by
_WAITS = 0.02  # share of the time; less is not worth a flag
_LOADING = {"read", "decode", "loader"}  # what later epochs are spared
_PREFETCH, _MORE_PREFETCH = 2, 4
# Of the memory left beside training, and of a GPU's: what --cache takes by itself.
_MEMORY, _GPU = 0.7, 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """The options to train with here.

    Attributes:
        loader: name of a loader of the common order.
        workers: its threads, or processes (pil).
        prefetch: batches that it loads ahead.
        batch_size: images of a step.
        images_per_second: speed of that loader to *batch*, images/s.
        sentences: the reasons.
        cache: where to keep the decoded images; None where that would win nothing, or
            an epoch does not fit.
        hw_decoder_load: share of the images for the GPU's JPEG engine, under DALI; None
            where none was tried.
    """

    loader: str
    workers: int
    prefetch: int
    batch_size: int
    images_per_second: float
    sentences: tuple[str, ...]
    cache: Literal["device", "memory"] | None = None
    hw_decoder_load: float | None = None

    @property
    def flags(self) -> str:
        """The flags for ``fastretina train``."""
        flags = (
            f"--loader {self.loader} --workers {self.workers} "
            f"--prefetch {self.prefetch} --batch-size {self.batch_size}"
        )
        if self.loader == "dali" and self.hw_decoder_load is not None:
            flags += f" --hw-decoder-load {self.hw_decoder_load:g}"
        return f"{flags} --cache {self.cache}" if self.cache else flags

    def summary(self) -> dict[str, object]:
        """The options under their JSON keys."""
        return {
            "loader": self.loader,
            "workers": self.workers,
            "prefetch": self.prefetch,
            "batch_size": self.batch_size,
            "cache": self.cache or "none",
            "hw_decoder_load": self.hw_decoder_load,
        }


def best_loader(rates: Sequence[LoaderRate]) -> LoaderRate | None:
    """The fastest of the common order, with the most workers that are as fast.

    Not the fewest: on a machine that was busy, one seems as fast as all of them.
    """
    common = [one for one in rates if not LOADERS[one.loader].own_order]
    fastest = _fastest(common)
    if fastest is None:
        return None
    return max(_as_fast(common, fastest), key=lambda one: one.workers)


def advise(measurements: Measurements) -> Advice | None:
    """What to use, and why; None where nothing was loaded."""
    loading = measurements.loading
    usable = loading.usable() if loading else []
    best = best_loader(usable)
    if best is None:
        return None
    prefetch, why_prefetch = _prefetch(measurements, best)
    batch_size, why_batch = _batch_size(measurements)
    why_loader = _why_loader(usable, best)
    if all(limit(measurements, phase) == "step" for phase in PHASES):
        why_loader += "; the step limits, so that any loader this fast would do"
    reasons = (f"{why_loader}.", *_own_order(usable, best))
    cache, why_cache = _cache(measurements)
    tried = loading.engine if loading else {}
    return Advice(
        loader=best.loader,
        workers=best.workers,
        prefetch=prefetch,
        batch_size=batch_size,
        images_per_second=best.images_per_second,
        sentences=(*reasons, *_engine(tried), *why_cache, why_prefetch, why_batch),
        cache=cache,
        hw_decoder_load=choose_share(tried),
    )


def _as_fast(rates: Sequence[LoaderRate], fastest: LoaderRate) -> list[LoaderRate]:
    """The same loader with any number of workers that does not slow it down."""
    enough = (1 - _ALIKE) * fastest.images_per_second
    same = [one for one in rates if one.loader == fastest.loader]
    return [one for one in same if one.images_per_second >= enough]


def _fastest(rates: Sequence[LoaderRate]) -> LoaderRate | None:
    return max(rates, key=lambda one: one.images_per_second, default=None)


def _why_loader(rates: Sequence[LoaderRate], best: LoaderRate) -> str:
    """A clause that sets the best loader against the second best, without the end."""
    kind = ("process", "processes") if best.loader == "pil" else ("thread", "threads")
    clause = (
        f"Loader {best.loader} with {best.workers} {kind[best.workers > 1]}: "
        f"{best.images_per_second:,.0f} images/s"
    )
    fewest = min(one.workers for one in _as_fast(rates, best))
    if fewest < best.workers:
        clause += f" ({fewest} would do)"
    others = [one for one in rates if one.loader != best.loader]
    second = _fastest([one for one in others if not LOADERS[one.loader].own_order])
    if second is None:
        return clause
    ratio = best.images_per_second / second.images_per_second
    if ratio < 1 + _ALIKE:
        return f"{clause}, as fast as {second.loader}"
    return (
        f"{clause}, {ratio:.2f} times {second.loader}'s "
        f"{second.images_per_second:,.0f}, which gives the same batches"
    )


def _own_order(rates: Sequence[LoaderRate], best: LoaderRate) -> list[str]:
    """A sentence where a loader with an order of its own is clearly faster."""
    own = _fastest([one for one in rates if LOADERS[one.loader].own_order])
    ratio = 0.0 if own is None else own.images_per_second / best.images_per_second
    if own is None or ratio < CLEARLY_FASTER:
        return []
    return [
        f"{own.loader} is {ratio:.2f} times as fast, in an order of its own: a run "
        "can't change to it or from it midway."
    ]


def _engine(rates: Mapping[float, Rate]) -> list[str]:
    """A sentence on the GPU's JPEG engine, where two shares were tried."""
    share = choose_share(rates)
    if share is None:
        return []
    speeds = {each: rate.images_per_second for each, rate in rates.items()}
    told = ", ".join(f"{speeds[each]:,.0f} with {each:g}" for each in speeds)
    why = "nearest to Pillow, and no other is faster" if share == ALL else "faster"
    return [f"JPEG engine {share:g} of dali's images: {why} ({told} images/s)."]


def _cache(
    measurements: Measurements,
) -> tuple[Literal["device", "memory"] | None, list[str]]:
    """Where an epoch of decoded images fits, if training waits for loading."""
    data, memory = measurements.data, measurements.training.memory
    slowed = {limit(measurements, phase) for phase in PHASES} & _LOADING
    if data is None or not slowed:
        return None, []
    epoch = data.train * 3 * data.shape[0] * data.shape[1]
    why = f"an epoch of decoded images takes {format_gib(epoch)}, and later epochs"
    total, used = memory.gpu_total, memory.gpu
    if total and used is not None and epoch <= min(_GPU * total, total - used):
        why = f"Cache device: {why} need neither decoding nor copies to the GPU."
        return "device", [why]
    left = measurements.memory_granted - peak_at(measurements)
    if epoch <= _MEMORY * left:
        return "memory", [f"Cache memory: {why} decode nothing."]
    return None, []


def _prefetch(measurements: Measurements, best: LoaderRate) -> tuple[int, str]:
    """Batches to load ahead: more evens out a loader that is fast only on average."""
    training = measurements.training
    limits = {phase: limit(measurements, phase) for phase in PHASES}
    for phase in [phase for phase in PHASES if phase in training.end_to_end]:
        end = training.end_to_end[phase]
        ceiling = CLEARLY_FASTER * training.step[phase].images_per_second
        fast_enough = limits[phase] == "step" and best.images_per_second > ceiling
        if fast_enough and end.wait_share > _WAITS:
            return _MORE_PREFETCH, (
                f"Prefetch {_MORE_PREFETCH}: the loader is faster than the step on "
                f"average, and yet the step waited {end.wait_share:.0%} of the time."
            )
    if "unknown" in limits.values():
        return _PREFETCH, f"Prefetch {_PREFETCH}: as ever, as what limits is not known."
    if not training.end_to_end:
        return _PREFETCH, f"Prefetch {_PREFETCH}: as ever, as end to end was not timed."
    if any(stage != "step" for stage in limits.values()):
        return _PREFETCH, (
            f"Prefetch {_PREFETCH}: more would fill only once and then wait, too, as "
            "the step is faster than what loads."
        )
    share = max((end.wait_share for end in training.end_to_end.values()), default=0.0)
    return _PREFETCH, (
        f"Prefetch {_PREFETCH}: the step waited {share:.1%} of the time with it."
    )


def _batch_size(measurements: Measurements) -> tuple[int, str]:
    """What was asked for, unless memory forbids it: it is part of the recipe."""
    training, wanted = measurements.training, measurements.batch_size
    used, total = training.memory.gpu, training.memory.gpu_total
    if training.out_of_memory:
        return training.batch, (
            f"Batch size {training.batch}: {wanted} do not fit in the GPU's memory."
        )
    if used is None and peak_at(measurements) > measurements.memory_granted:
        return wanted, (
            f"Batch size: {wanted} would take about "
            f"{format_gib(peak_at(measurements))}, more than there is: choose a "
            "smaller one."
        )
    fits = "it fits"
    if used is not None and total:
        fits = f"it takes {used / total:.0%} of the GPU's memory"
    return wanted, (
        f"Batch size {wanted}: {fits}, and another needs another learning rate."
    )
