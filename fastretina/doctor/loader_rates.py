"""How fast images are read, decoded, gathered in batches and made ready.

Each stage includes those before it, but for *decode*, which is libjpeg-turbo alone on
bytes in memory: the ceiling of every loader on as many cores::

    read ----> decode ----> batch --------------> ready
    one thread 1 to all     every loader,         the best loader,
    cold, warm cores        1 to all workers      normalised
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from fastretina.doctor.advice import best_loader
from fastretina.doctor.deadline import NO_TIME
from fastretina.doctor.engine_trial import measure_engine
from fastretina.doctor.measurements import LoaderRate, LoadingRates, NotMeasured
from fastretina.doctor.setup import LoadingSetup
from fastretina.formatting import format_count
from fastretina.measure import page_cache
from fastretina.measure.ceilings import decode_only
from fastretina.measure.rounds import FinishLine, Rate, drain, rounds
from loaders import LOADERS, Loader, make_loader, missing
from loaders.errors import DataError

_ROUND = 0.5  # seconds of an epoch that is timed, at the speed of decoding alone
_LEAST_BATCHES = 8
_ROUNDS = 5
_COLD_BYTES = 256 * 2**20
_WARM_IMAGES = 2048
_CHUNK = 32  # images between two looks at the clock


def measure_loading(setup: LoadingSetup) -> LoadingRates:
    """Measure all stages of loading, each in its share of the time."""
    seconds = setup.seconds
    setup.progress("reading")
    cold = _read_cold(setup, 0.08 * seconds)
    warm = _read_warm(setup, 0.024 * seconds)
    setup.progress("decoding")
    decode = _decode(setup, 0.12 * seconds)
    ceiling = decode[setup.cores].images_per_second
    each = 0.7 * seconds / len(LOADERS)  # seconds for a loader
    race = _Race(setup, _images_of_an_epoch(setup, ceiling, each))
    first, *others = _groups()
    race.run(first, each * len(first), more=bool(others))
    for names in others:
        race.run(names, each * len(names))
    ready, not_ready = _ready(race, 0.1 * seconds)
    rates = LoadingRates(
        read_warm=warm,
        read_cold=cold,
        decode=decode,
        batch=race.rates(),
        ready=ready,
        not_measured=[*race.failures(), *not_ready],
    )
    return replace(
        rates, engine=measure_engine(setup, rates, race.images, 0.07 * seconds)
    )


def _images_of_an_epoch(setup: LoadingSetup, ceiling: float, seconds: float) -> int:
    """Images that a loader is timed with: fewer where they would take its time alone.

    Two epochs of a loader at half the speed of decoding alone take that time.
    """
    wanted = max(round(_ROUND * ceiling), _LEAST_BATCHES * setup.batch_size)
    allowed = max(round(0.25 * seconds * ceiling), 2 * setup.batch_size)
    return min(wanted, allowed)


def counts(cores: int) -> list[int]:
    """Numbers of workers to try: 1, 2, 4 and so on up to all cores."""
    powers = [2**power for power in range(cores.bit_length()) if 2**power < cores]
    return [*powers, cores]


def _groups() -> list[list[str]]:
    """The loaders that run here: first those that fork, then the others."""
    there = [name for name in LOADERS if missing(name) is None]
    groups = [
        [name for name in there if LOADERS[name].forks is forking]
        for forking in (True, False)
    ]
    return [group for group in groups if group]


def _read_cold(setup: LoadingSetup, seconds: float) -> Rate | None:
    """Images/s from the disk; None where the page cache keeps the shards."""
    images = _images_to_read(setup)
    if not page_cache.drop(setup.shards.files(images)):
        return None
    with setup.shards.part(images) as part:
        return Rate.of([_reading_speed(part.read, part.rows.tolist(), seconds)])


def _read_warm(setup: LoadingSetup, seconds: float) -> Rate:
    """Images/s out of the page cache."""
    with setup.shards.part(_images_to_read(setup)) as part:
        rows = part.rows.tolist()[:_WARM_IMAGES]
        begun = time.perf_counter()
        speed = _reading_speed(part.read, rows, seconds)  # where they are not warm yet
        rows = rows[: max(round(speed * (time.perf_counter() - begun)), 1)]

        def read_all() -> int:
            for row in rows:
                bytes(part.read(row))
            return len(rows)

        return Rate.of(rounds(read_all, seconds, warm_up=False))


def _images_to_read(setup: LoadingSetup) -> int:
    """How many images make 256 MiB: one at least, and all of them at most."""
    mean = sum(map(len, setup.jpegs)) / len(setup.jpegs)
    return min(len(setup.shards.rows), max(int(_COLD_BYTES / mean), 1))


def _reading_speed(
    read: Callable[[int], memoryview], rows: Sequence[int], seconds: float
) -> float:
    """Images/s of one thread, over as many images as that time allows."""
    begun = time.perf_counter()
    for number, row in enumerate(rows, 1):
        bytes(read(row))
        if number % _CHUNK == 0 and time.perf_counter() - begun > seconds:
            break
    return number / max(time.perf_counter() - begun, 1e-9)


def _decode(setup: LoadingSetup, seconds: float) -> dict[int, Rate]:
    """The speed of decoding alone in 1, 2, 4 and more threads, up to all cores."""
    numbers = counts(setup.cores)
    share = seconds / len(numbers)

    def decoding(threads: int) -> Callable[[], int]:
        def work() -> int:
            decode_only(setup.jpegs, threads)
            return len(setup.jpegs)

        return work

    return {n: Rate.of(rounds(decoding(n), share)) for n in numbers}


def _ready(race: _Race, seconds: float) -> tuple[LoaderRate | None, list[NotMeasured]]:
    """The speed to *ready* of the best loader that gets there, and which ones fail."""
    rates = race.rates()
    failures: list[NotMeasured] = []
    while (best := best_loader(rates)) is not None:
        race.setup.progress(f"{best.loader} to ready")
        alone = _Race(race.setup, race.images)
        alone.time_rounds([best.loader], best.workers, seconds, "ready")
        if speeds := alone.rates():
            return speeds[0], failures
        reason = alone.failed[best.loader, best.workers]
        failures.append(NotMeasured(best.loader, reason, best.workers, "ready"))
        rates = [one for one in rates if one.loader != best.loader]
    return None, failures


class _Race:
    """Loaders that take turns, each with its epochs.

    Attributes:
        setup: what is measured with.
        images: number of images of an epoch, with all workers.
        failed: loader and number of workers to the reason why they have no speed.
    """

    def __init__(self, setup: LoadingSetup, images: int) -> None:
        self.setup = setup
        self.images = images
        self.failed: dict[tuple[str, int], str] = {}
        self._speeds: dict[tuple[str, int], list[float]] = {}
        self._more = False

    def rates(self) -> list[LoaderRate]:
        """What was measured so far, in the order of ``LOADERS``."""
        rates = [
            LoaderRate(name, workers, Rate.of(speeds))
            for (name, workers), speeds in self._speeds.items()
        ]
        names = list(LOADERS)
        return sorted(rates, key=lambda one: (names.index(one.loader), one.workers))

    def failures(self) -> list[NotMeasured]:
        """What has no speed: a loader, or some of its numbers of workers."""
        there = {name for name, _ in self._speeds}
        failures: list[NotMeasured] = []
        for name in LOADERS:
            reasons = {n: why for (of, n), why in self.failed.items() if of == name}
            if name in there:
                failures += [NotMeasured(name, reasons[n], n) for n in sorted(reasons)]
            elif why := missing(name) or next(iter(reasons.values()), None):
                failures.append(NotMeasured(name, why))
        return failures

    def run(self, names: Sequence[str], seconds: float, *, more: bool = False) -> None:
        """Time all workers first, then one, then what lies between while time lasts.

        Args:
            names: the loaders.
            seconds: for all of them.
            more: whether others follow, whose time should not be taken.
        """
        self._more = more
        numbers = counts(self.setup.cores)
        deadline = time.monotonic() + seconds
        for number in dict.fromkeys([numbers[-1], numbers[0], *numbers[::-1]]):
            left = deadline - time.monotonic()
            if number == numbers[-1] or left > 0.15 * seconds:
                workers = format_count(number, "worker")
                self.setup.progress(f"{', '.join(names)} with {workers}")
                share = left * 0.55 if numbers[1:] else left
                self.time_rounds(names, number, share, "batch")

    def time_rounds(
        self, names: Sequence[str], workers: int, seconds: float, line: FinishLine
    ) -> None:
        """Time epochs of the loaders in turn while time lasts, one each at least."""
        begun = time.monotonic()
        deadline = begun + seconds
        with ExitStack() as opened:
            loaders, timed = self._open(opened, names, workers, line), 0
            # Others need about as long as these, who would need as long again.
            needed = 2 * (time.monotonic() - begun) if self._more else 0.0
            for number in range(1, _ROUNDS + 1):
                for name, loader in loaders.items():
                    if number > 1 and time.monotonic() > deadline:
                        return
                    if number == 1 and self._is_late(timed + self._more, needed):
                        self._leave_out(name, workers)
                    if (name, workers) in self.failed:
                        continue
                    with self._noting(name, workers):
                        epoch = drain(loader, number, self.setup.compute, line)
                        speeds = self._speeds.setdefault((name, workers), [])
                        speeds.append(epoch.images_per_second)
                        timed += 1

    def _open(
        self, opened: ExitStack, names: Sequence[str], workers: int, line: FinishLine
    ) -> dict[str, Loader]:
        """Open the loaders and take a first epoch of each, which is not timed.

        Those are left out for whose second epoch there would be no time any more, as
        each takes as long again.
        """
        setup, loaders = self.setup, dict[str, Loader]()
        least = min(_LEAST_BATCHES // 2 * setup.batch_size, self.images)
        images = max(round(self.images * workers / setup.cores), least)
        begun = time.monotonic()
        for name in names:
            if self._is_late(len(loaders), time.monotonic() - begun):
                self._leave_out(name, workers)
                continue
            with self._noting(name, workers):
                part = opened.enter_context(setup.shards.part(images))
                loader = make_loader(name, part, "train", setup.config(workers))
                opened.enter_context(loader)
                drain(loader, 0, setup.compute, line)
                loaders[name] = loader
        return loaders

    def _is_late(self, others: int, seconds: float = 0.0) -> bool:
        """Whether there is less time left, and another loader has been tried."""
        return bool(others) and self.setup.deadline.left <= seconds

    def _leave_out(self, name: str, workers: int) -> None:
        self.failed[name, workers] = NO_TIME

    @contextmanager
    def _noting(self, name: str, workers: int) -> Iterator[None]:
        """Note why a loader can't be measured, as the others go on.

        What was timed before with as many workers can't be relied on, and is dropped.
        """
        try:
            yield
        except (DataError, RuntimeError) as error:
            self.failed[name, workers] = str(error).partition("\n")[0]
            self._speeds.pop((name, workers), None)
