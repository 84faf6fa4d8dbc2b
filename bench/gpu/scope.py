"""What the sections of ``scripts/gpu_check.py`` share: sizes, data, time, results.

A section plans measurements, the most important first, and has a share of the time.
Each is taken on its own: one that fails, or that no time is left for, keeps none
of the others from being taken.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from bench.error_line import describe_error
from bench.gpu.section_rows import FailedLoaderRow, SectionRow

_LEAST_LIMIT = 60.0  # seconds: the first use of a GPU may take half of it
_PATIENCE = 4.0  # times the expected seconds
_GRACE = 20.0  # seconds after the deadline, for what has begun before it
_TRACE_LINES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        photographs: number of photographs drawn where no data is given.
        pixels: side of these photographs and of synthetic batches, pixels.
        compared: number of photographs held against Pillow.
        batch: images in a batch, for the loaders and for ResNet18.
        rounds: number of timed epochs of each loader.
        most_steps: the most training steps in an epoch.
        warmup_steps: number of steps taken before steps are timed.
        timed_steps: number of steps whose median is taken.
        amp: precision of the training runs, as ``--amp`` has it.
    """

    photographs: int
    pixels: int
    compared: int
    batch: int
    rounds: int
    most_steps: int
    warmup_steps: int
    timed_steps: int
    amp: str


FULL = Sizes(
    photographs=1000,
    pixels=512,
    compared=512,
    batch=64,
    rounds=3,
    most_steps=100_000,
    warmup_steps=8,
    timed_steps=20,
    amp="auto",
)
QUICK = Sizes(  # float32, as bf16 is slow on most CPUs
    photographs=40,
    pixels=64,
    compared=16,
    batch=8,
    rounds=3,
    most_steps=3,
    warmup_steps=1,
    timed_steps=3,
    amp="off",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """Where and on what is measured; goes to the sections' processes.

    Attributes:
        out: folder of the results.
        shards: shards of the photographs.
        long: shards of the photographs over and over, an epoch of ``steps`` batches.
        odd: shards of JPEGs of rare kinds, one of each.
        device: ``cpu``, ``cuda:0``, ...
        steps: number of batches in an epoch of the loaders, and of training steps in
            each phase.
        sizes: how much is measured.
        deadline: time on the monotonic clock, which all processes share, s.
        shares: of the time that is left when a section begins, the share that is its
            own, by its name; a section without one has all of it.
    """

    out: Path
    shards: Path
    long: Path
    odd: Path
    device: str
    steps: int
    sizes: Sizes
    deadline: float
    shares: Mapping[str, float] = field(default_factory=dict)

    def of_section(self, name: str) -> Scope:
        """The scope of a section that begins now, with a deadline of its own."""
        over = (1 - self.shares.get(name, 1.0)) * max(self.seconds_left(), 0)
        return replace(self, deadline=self.deadline - over, shares={})

    @property
    def cuda(self) -> bool:
        """Whether the device is a CUDA GPU."""
        return self.device.partition(":")[0] == "cuda"

    @property
    def lacks_cuda(self) -> str:
        """Why what needs CUDA can't be measured; empty where it can."""
        return "" if self.cuda else f"needs CUDA, and the device is {self.device}"

    def seconds_left(self) -> float:
        """Seconds until the deadline; below 0 after it."""
        return self.deadline - time.monotonic()


class Measurement(NamedTuple):
    """Something to be measured.

    Attributes:
        name: what the reports call it.
        seconds: time that it is expected to take, s; with less left it is not begun.
        take: measures, and returns the rows.
        lacks: why it can't be measured here; empty where it can.
        least_limit: the least time after which it may be taken to hang, s.
    """

    name: str
    seconds: float
    take: Callable[[], Sequence[SectionRow]]
    lacks: str = ""
    least_limit: float = _LEAST_LIMIT

    @property
    def limit(self) -> float:
        """Seconds after which it is taken to hang."""
        return max(self.least_limit, _PATIENCE * self.seconds)


class Section(NamedTuple):
    """Measurements with one table.

    Attributes:
        name: what ``--only`` and the reports call it.
        plan: lists its measurements.
        seconds: its share of the time that is given for all sections, s.
    """

    name: str
    plan: Callable[[Scope], list[Measurement]]
    seconds: float = 1.0


class FailedMeasurement(NamedTuple):
    """A measurement that failed, with the last lines of its traceback."""

    what: str
    error: str
    trace: list[str]


class LeftOut(NamedTuple):
    """A measurement that was not taken, or not to its end, and why.

    Attributes:
        what: the measurement's name.
        why: the reason, in words.
        late: whether it was for want of time, so that it may be taken later.
    """

    what: str
    why: str
    late: bool = False


@dataclass
class SectionResults:
    """What has come of a section so far.

    Attributes:
        rows: what was measured.
        failures: what failed.
        left_out: what was not taken.
        seconds: time that it took, s.
        done: names of the measurements that need not be taken again.
        planned: whether all its measurements have been gone through.
    """

    rows: list[SectionRow] = field(default_factory=list)
    failures: list[FailedMeasurement] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    seconds: float = 0.0
    done: set[str] = field(default_factory=set)
    planned: bool = False
    _by_name: dict[str, Sequence[SectionRow]] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether nothing of it is left to be taken."""
        return self.planned and not any(left.late for left in self.left_out)

    def add(self, event: Event) -> None:
        """Add an event: its rows, its failure or what it leaves out.

        What was left out, or measured in part, gives way to what comes of it later.
        """
        self.left_out = [one for one in self.left_out if one.what != event.what]
        if isinstance(event, Begun):
            return
        self.done.add(event.what)
        if isinstance(event, Measured):
            before = {id(row) for row in self._by_name.get(event.what, ())}
            self.rows = [row for row in self.rows if id(row) not in before]
            self.rows += event.rows
            self._by_name[event.what] = event.rows
            self.failures += [
                FailedMeasurement(event.what, row.error, [])
                for row in event.rows
                if isinstance(row, FailedLoaderRow)
            ]
        elif isinstance(event, FailedMeasurement):
            self.failures.append(event)
        elif isinstance(event, LeftOut):
            self.left_out.append(event)
            if event.late:
                self.done.discard(event.what)


class OutOfTime(Exception):
    """A measurement's time is over; what it has so far goes with it.

    Attributes:
        rows: what was measured.
        why: what is missing, in words.
    """

    def __init__(self, rows: Sequence[SectionRow], why: str) -> None:
        super().__init__(why)
        self.rows, self.why = rows, why


class Begun(NamedTuple):
    """A measurement begins.

    Attributes:
        what: the measurement's name.
        limit: seconds within which it ends.
        hangs: whether it hangs if it does not; otherwise no more time was left.
    """

    what: str
    limit: float
    hangs: bool = True


class Measured(NamedTuple):
    """A measurement has been taken."""

    what: str
    rows: Sequence[SectionRow]


Event = Begun | Measured | FailedMeasurement | LeftOut


SectionEvent = tuple[str, Event]  # a section's name, and what happens there


def measure(
    sections: Iterable[Section], scope: Scope, skip: Set[str] = frozenset()
) -> Iterator[SectionEvent]:
    """Take the measurements of sections one by one, but those to skip by name."""
    for section in sections:
        if section.name in skip:
            continue
        own = scope.of_section(section.name)
        try:
            plan = section.plan(own)
        except Exception as error:
            yield section.name, failure_of(section.name, error)
            continue
        for measurement in plan:
            if measurement.name not in skip:
                for event in _take(measurement, own):
                    yield section.name, event


def _take(one: Measurement, scope: Scope) -> Iterator[Event]:
    """Take a measurement, or say why it is left out."""
    left = scope.seconds_left()
    if one.lacks:
        yield LeftOut(one.name, one.lacks)
    elif left < one.seconds:
        why = f"out of time: takes {one.seconds:.0f} s, {max(left, 0):.0f} s left"
        yield LeftOut(one.name, why, late=True)
    else:
        limit = max(left, 0) + _GRACE
        yield Begun(one.name, min(one.limit, limit), hangs=one.limit <= limit)
        try:
            rows = one.take()
        except OutOfTime as late:
            yield Measured(one.name, late.rows)
            yield LeftOut(one.name, f"out of time: {late.why}", late=True)
        except Exception as error:
            yield failure_of(one.name, error)
        else:
            yield Measured(one.name, rows)


def failure_of(what: str, error: BaseException) -> FailedMeasurement:
    """The failure that an exception stands for."""
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    return FailedMeasurement(what, describe_error(error), lines[-_TRACE_LINES:])
