"""How fast images are read, decoded, gathered in batches and made ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from fastretina.doctor.advice import best_loader
from fastretina.doctor.measurements import LoaderRate, Loading
from fastretina.doctor.sample import ImageSample
from fastretina.measure import page_cache
from fastretina.measure.ceilings import decode_only
from fastretina.measure.rounds import Line, Rate, drain, rounds
from fastretina.nn.device import Compute
from fastretina.recipe import STRONG
from loaders import LOADERS, Loader, LoaderConfig, make_loader, missing
from loaders.errors import DataError

Tell = Callable[[str], None]

_FORKING = ("pil",)  # before DALI has threads, beside which a fork might hang
_ROUND = 0.5  # seconds of an epoch that is timed, at the speed of decoding alone
_LEAST_BATCHES = 8
_ROUNDS = 5
_COLD_BYTES = 256 * 2**20
_CHUNK = 32  # images between two looks at the clock


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What loading is measured with.

    Attributes:
        subject: the data set.
        jpegs: a sample of it.
        compute: where the batches go.
        batch_size: images.
        cores: granted.
        seconds: for all of it.
        tell: called with what is going on.
    """

    subject: ImageSample
    jpegs: Sequence[bytes]
    compute: Compute
    batch_size: int
    cores: int
    seconds: float
    tell: Tell

    def config(self, workers: int, batch_size: int | None = None) -> LoaderConfig:
        """A loader's options as in training."""
        return LoaderConfig(
            batch_size=batch_size or self.batch_size,
            image_size=self.subject.image_size,
            shuffle=True,
            hflip=STRONG.hflip,
            vflip=STRONG.vflip,
            device=str(self.compute.device),
            workers=workers,
        )


def measure_loading(bench: Bench) -> Loading:
    """All stages, each in its share of the time."""
    seconds = bench.seconds
    bench.tell("reading")
    cold, warm = _read(bench, 0.08 * seconds)
    bench.tell("decoding")
    decode = _decode(bench, 0.12 * seconds)
    ceiling = decode[bench.cores].images_per_second
    images = max(round(_ROUND * ceiling), _LEAST_BATCHES * bench.batch_size)
    race = _Race(bench, images)
    for names in _groups():
        race.run(names, 0.7 * seconds * len(names) / len(LOADERS))
    ready = _ready(race, 0.1 * seconds)
    return Loading(
        read_warm=warm,
        read_cold=cold,
        decode=decode,
        batch=race.rates(),
        ready=ready,
        not_measured=race.failed,
    )


def counts(cores: int) -> list[int]:
    """1, 2, 4 and so on up to all cores."""
    powers = [2**power for power in range(cores.bit_length()) if 2**power < cores]
    return [*powers, cores]


def _groups() -> list[list[str]]:
    there = [name for name in LOADERS if missing(name) is None]
    groups = [
        [name for name in there if (name in _FORKING) is forking]
        for forking in (True, False)
    ]
    return [group for group in groups if group]


def _read(bench: Bench, seconds: float) -> tuple[Rate | None, Rate]:
    """From the disk, where the page cache lets go of the shards, and from memory."""
    subject = bench.subject
    mean = sum(map(len, bench.jpegs)) / len(bench.jpegs)
    images = min(len(subject.rows), max(int(_COLD_BYTES / mean), 1))
    cold = None
    if page_cache.drop(subject.files(images)):
        with subject.part(images) as part:
            rows = part.rows.tolist()
            cold = Rate.of([_reading_speed(part.read, rows, seconds)])
    with subject.part(images) as part:
        rows = part.rows.tolist()[:2048]

        def read_all() -> int:
            for row in rows:
                bytes(part.read(row))
            return len(rows)

        return cold, Rate.of(rounds(read_all, 0.3 * seconds))


def _reading_speed(
    read: Callable[[int], memoryview], rows: Sequence[int], seconds: float
) -> float:
    """Images/s of one thread, of as many images as that time allows."""
    begun = time.perf_counter()
    for number, row in enumerate(rows, 1):
        bytes(read(row))
        if number % _CHUNK == 0 and time.perf_counter() - begun > seconds:
            break
    return number / max(time.perf_counter() - begun, 1e-9)


def _decode(bench: Bench, seconds: float) -> dict[int, Rate]:
    numbers = counts(bench.cores)
    share = seconds / len(numbers)

    def decoding(threads: int) -> Callable[[], int]:
        def work() -> int:
            decode_only(bench.jpegs, threads)
            return len(bench.jpegs)

        return work

    return {n: Rate.of(rounds(decoding(n), share)) for n in numbers}


def _ready(race: _Race, seconds: float) -> LoaderRate | None:
    """The best loader of the common order, normalised."""
    best = best_loader(race.rates())
    if best is None:
        return None
    race.bench.tell(f"{best.loader} to ready")
    found = _Race(race.bench, race.images)
    found.lap([best.loader], best.workers, seconds, "ready")
    return found.rates()[0] if found.rates() else None


class _Race:
    """Loaders that take turns, each with its epochs.

    Attributes:
        bench: what is measured with.
        images: of an epoch, with all workers.
        failed: loader to the reason.
    """

    def __init__(self, bench: Bench, images: int) -> None:
        self.bench = bench
        self.images = images
        self.failed = {name: note for name in LOADERS if (note := missing(name))}
        self._speeds: dict[tuple[str, int], list[float]] = {}

    def rates(self) -> list[LoaderRate]:
        """What was measured so far, in the order of ``LOADERS``."""
        found = [
            LoaderRate(name, workers, Rate.of(speeds))
            for (name, workers), speeds in self._speeds.items()
        ]
        names = list(LOADERS)
        return sorted(found, key=lambda one: (names.index(one.loader), one.workers))

    def run(self, names: Sequence[str], seconds: float) -> None:
        """All workers first, then one, then what lies between while there is time."""
        numbers = counts(self.bench.cores)
        deadline = time.monotonic() + seconds
        for number in dict.fromkeys([numbers[-1], numbers[0], *numbers[::-1]]):
            left = deadline - time.monotonic()
            if number == numbers[-1] or left > 0.15 * seconds:
                words = f"{', '.join(names)} with {number} workers"
                self.bench.tell(words if number > 1 else words.removesuffix("s"))
                self.lap(names, number, left * 0.55 if numbers[1:] else left, "batch")

    def lap(
        self, names: Sequence[str], workers: int, seconds: float, line: Line
    ) -> None:
        """Epochs of every loader, in turn, until the time is over."""
        bench = self.bench
        share = workers / bench.cores
        least = _LEAST_BATCHES // 2 * bench.batch_size
        images = max(round(self.images * share), least)
        deadline = time.monotonic() + seconds
        with ExitStack() as opened:
            loaders: dict[str, Loader] = {}
            for name in names:
                with _Noting(self.failed, name):
                    part = opened.enter_context(bench.subject.part(images))
                    loader = make_loader(name, part, "train", bench.config(workers))
                    opened.enter_context(loader)
                    drain(loader, 0, bench.compute, line)
                    loaders[name] = loader
            for number in range(1, _ROUNDS + 1):
                for name, loader in loaders.items():
                    if number > 1 and time.monotonic() > deadline:
                        return
                    with _Noting(self.failed, name):
                        taken, spent = drain(loader, number, bench.compute, line)
                        speeds = self._speeds.setdefault((name, workers), [])
                        speeds.append(taken / max(spent, 1e-9))


class _Noting:
    """Notes why a loader can't be measured, as the others go on."""

    def __init__(self, notes: dict[str, str], name: str) -> None:
        self._notes, self._name = notes, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        if isinstance(error, (DataError, RuntimeError)):
            self._notes.setdefault(self._name, str(error).partition("\n")[0])
            return True
        return False
