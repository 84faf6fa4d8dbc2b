"""How fast each loader is to *batch* and to *ready*."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from bench.epoch_runner import HFLIP_CHANCE, VFLIP_CHANCE
from bench.error_line import describe_error
from bench.gpu.photographs import usual_size
from bench.gpu.scope import Measurement, Scope
from bench.gpu.section_rows import FailedLoaderRow, ThroughputRow
from fastretina.measure.ceilings import decode_only, read_all
from fastretina.measure.rounds import FinishLine, Rate, drain
from fastretina.nn.device import Compute
from loaders import LOADERS, Loader, LoaderConfig, available, make_loader
from loaders.cores import granted_cores

_LINES: tuple[FinishLine, ...] = ("batch", "ready")
_FIRST = ("turbo", "dali")
_PER_CORE, _OTHERS_PER_CORE = {"pil": 150}, 500  # images/s of 512 pixels, at least


class Candidate(NamedTuple):
    """A loader to be timed.

    Attributes:
        loader: name of the loader.
        load: share of the images that a GPU's JPEG engine decodes; ``None`` for the
            loader's default.
    """

    loader: str
    load: float | None = None

    @property
    def name(self) -> str:
        """The candidate's name in the tables."""
        load = "" if self.load is None else f", load {self.load:g}"
        return f"{self.loader}{load}"

    def open(self, scope: Scope) -> Loader:
        """The loader as it is in training."""
        config = LoaderConfig(
            batch_size=scope.sizes.batch,
            shuffle=True,
            hflip=HFLIP_CHANCE,
            vflip=VFLIP_CHANCE,
            device=scope.device,
        )
        if self.load is not None:
            config = replace(config, hw_decoder_load=self.load)
        return make_loader(self.loader, scope.long, "train", config)


def candidates(scope: Scope) -> list[Candidate]:
    """The loaders that are installed; DALI at other loads too, where that matters."""
    names = available()
    loads = (0.0, 1.0) if scope.cuda and "dali" in names else ()
    return [*map(Candidate, names), *(Candidate("dali", load) for load in loads)]


def plan_throughput(scope: Scope) -> list[Measurement]:
    """Plan epochs to *batch* and to *ready*; the loaders take turns in each round.

    Those that fork have rounds of their own: a fork beside DALI's threads might hang,
    and the others' times would be lost with it. To *batch* comes first.
    """
    return [
        Measurement(
            f"{', '.join(one.name for one in group)} to {line}",
            1.0 + sum(_seconds(scope, one) for one in group),
            partial(_rounds, scope, line, group),
        )
        for line in _LINES
        for group in groups(scope)
    ]


def groups(scope: Scope) -> list[list[Candidate]]:
    """Loaders that take turns: those meant for a GPU first, and alone that fork."""
    together = [one for one in candidates(scope) if not LOADERS[one.loader].forks]
    first = [one for one in together if one.loader in _FIRST]
    others = [one for one in together if one not in first]
    forking = [[one] for one in candidates(scope) if LOADERS[one.loader].forks]
    return [group for group in (first, others, *forking) if group]


def _seconds(scope: Scope, one: Candidate) -> float:
    """Expected for the warm-up and the rounds, on slow cores."""
    sizes = scope.sizes
    images = scope.steps * sizes.batch * (sizes.rounds + 1)
    per_core = _PER_CORE.get(one.loader, _OTHERS_PER_CORE)
    return images * (sizes.pixels / 512) ** 2 / (per_core * granted_cores())


def _rounds(
    scope: Scope, line: FinishLine, group: Sequence[Candidate]
) -> list[ThroughputRow | FailedLoaderRow]:
    """A row for each loader: medians of its speed, and of its share of the ceiling."""
    compute = Compute(torch.device(scope.device), None)
    jpegs, cores = _jpegs(scope), granted_cores()
    rounds = {one.name: TimedEpochs() for one in group}
    ceilings: list[float] = []
    with ExitStack() as opened:
        loaders: dict[str, Loader] = {}
        for one in group:
            with rounds[one.name].record_error():
                loaders[one.name] = opened.enter_context(one.open(scope))
                drain(loaders[one.name], 0, compute, line)
        for number in range(1, scope.sizes.rounds + 1):
            if number > 1 and scope.seconds_left() < 0:
                break  # a row says how many rounds it is of
            ceilings.append(decode_only(jpegs, cores))
            for name, loader in loaders.items():
                with rounds[name].record_error():
                    rounds[name].add(*drain(loader, number, compute, line))
    return [
        FailedLoaderRow(line, name, taken.error, scope.sizes.batch, cores)
        if taken.error
        else ThroughputRow(
            line=line,
            loader=name,
            rate=taken.rate,
            images_per_round=taken.images,
            ceiling_images_per_second=statistics.median(ceilings),
            share_of_ceiling=taken.share_of(ceilings),
            batch_size=scope.sizes.batch,
            cores=cores,
        )
        for name, taken in rounds.items()
    ]


class TimedEpochs:
    """The timed epochs of a loader, up to the first that fails.

    Attributes:
        error: the first error in one line; empty where there was none.
        images: number of images in the last epoch.
    """

    def __init__(self) -> None:
        self.error = ""
        self.images = 0
        self._speeds: list[float] = []

    def add(self, images: int, seconds: float) -> None:
        """Note an epoch."""
        self.images = images
        self._speeds.append(images / seconds)

    @contextmanager
    def record_error(self) -> Iterator[None]:
        """Keep an error instead of raising it, as the other loaders go on."""
        try:
            yield
        except Exception as error:
            self.error = self.error or describe_error(error)

    @property
    def rate(self) -> Rate:
        """The speed over the epochs, images/s."""
        return Rate.of(self._speeds)

    def share_of(self, ceilings: Sequence[float]) -> float:
        """The median share of the ceilings of the same rounds, images/s."""
        return statistics.median(
            speed / ceiling
            for speed, ceiling in zip(self._speeds, ceilings, strict=True)
        )


def _jpegs(scope: Scope) -> list[bytes]:
    """As many JPEGs as an epoch has, in memory; the same ones over and over."""
    with usual_size(scope.shards) as split:
        own = read_all(split)
    images = scope.steps * scope.sizes.batch
    return [own[number % len(own)] for number in range(images)]
