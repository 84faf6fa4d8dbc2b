"""One that takes part in a race: how it is opened and run, and what it took."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, NamedTuple, Protocol

from bench.rows import EntrantRow, Setup

EntrantKind = Literal["ours", "report", "peer", "ceiling"]


class Round(NamedTuple):
    """One timed repetition.

    Attributes:
        images: number of images that crossed the finish line.
        seconds: time until the last of them had, s.
        first_seconds: time until the first batch had, s.
        pause_seconds: time that a consumer waited between two epochs, s; ``None`` where
            that is not what is measured.
        wait_seconds: what it waited for a batch within an epoch, or longer, a quarter
            of the times, s.
    """

    images: int
    seconds: float
    first_seconds: float
    pause_seconds: float | None = None
    wait_seconds: float | None = None


class Runner(Protocol):
    """What an entrant does in its process."""

    def check(self) -> str:
        """Compare what it delivers with the reference; returns how equal that is.

        Raises:
            AssertionError: it is wrong.
        """

    def run_round(self, number: int, first_only: bool = False) -> Round:
        """Run once, or only to the first batch; the device is waited for."""


Open = Callable[[], AbstractContextManager[Runner]]
NO_SETUP: Setup = {}


class Entrant(NamedTuple):
    """One that takes part.

    Attributes:
        name: the entrant's name in the tables.
        open: opens it; can be pickled.
        kind: whose loader it is.
        process: name of a process that entrants share; ``None`` for one of its own.
        setup: how it was set up, which stands beside its figures.
    """

    name: str
    open: Open
    kind: EntrantKind = "ours"
    process: str | None = None
    setup: Setup = NO_SETUP

    @property
    def process_name(self) -> str:
        """Name of the process that it runs in, by default its own."""
        return self.process or self.name


@dataclass(slots=True)
class EntrantResult:
    """What an entrant took.

    Attributes:
        entrant: the one that took it.
        error: why there are no figures, or only some; empty where all went well.
        pixels: how the images compare with the reference, in words.
        rounds: the warm rounds, taken in turn with the others.
        ceilings: speed of the ceiling just before each round, images/s.
        first_seconds: time from opening to the first batch, warm, s; one each opening.
        cold: a round from opening on, with nothing in the page cache.
        cpu_seconds: processor time of the process tree over all rounds, s.
        peak_bytes: most memory of the process tree in a round that is not timed.
    """

    entrant: Entrant
    error: str = ""
    pixels: str = ""
    rounds: list[Round] = field(default_factory=list)
    ceilings: list[float] = field(default_factory=list)
    first_seconds: list[float] = field(default_factory=list)
    cold: Round | None = None
    cpu_seconds: float = 0.0
    peak_bytes: int | None = None

    @property
    def speeds(self) -> list[float]:
        """Images/s of each round."""
        return [timed.images / timed.seconds for timed in self.rounds]

    @property
    def shares(self) -> list[float]:
        """Shares of the ceiling, round by round."""
        return [s / c for s, c in zip(self.speeds, self.ceilings, strict=False)]

    def row(self, line: str) -> EntrantRow:
        """What goes into the JSON beside the times, of a race to that finish line."""
        images = sum(timed.images for timed in self.rounds)
        firsts = self.first_seconds
        row: EntrantRow = {
            "line": line,
            "entrant": self.entrant.name,
            "kind": self.entrant.kind,
            **self.entrant.setup,  # type: ignore[typeddict-item]  # has no other keys
            "pixels": self.pixels,
            "images_per_round": self.rounds[0].images,
            "images_per_second": round(median(self.speeds), 2),
            "slowest": round(min(self.speeds), 2),
            "fastest": round(max(self.speeds), 2),
            "rounds": len(self.rounds),
            "first_batch_seconds": round(median(firsts), 4) if firsts else None,
            "cpu_ms_per_image": round(self.cpu_seconds / images * 1e3, 3),
            "peak_bytes": self.peak_bytes,
        }
        if self.ceilings:
            row["ceiling_images_per_second"] = round(median(self.ceilings), 2)
            row["share_of_ceiling"] = round(median(self.shares), 4)
            row["shares"] = [round(share, 4) for share in self.shares]
        pauses = [p for timed in self.rounds if (p := timed.pause_seconds) is not None]
        if pauses:
            row["pause_ms"] = round(median(pauses) * 1e3, 2)
            row["longest_pause_ms"] = round(max(pauses) * 1e3, 2)
        waits = [w for timed in self.rounds if (w := timed.wait_seconds) is not None]
        if waits:
            row["wait_ms"] = round(median(waits) * 1e3, 2)
        if self.cold is not None:
            speed = self.cold.images / self.cold.seconds
            row["cold_images_per_second"] = round(speed, 2)
            row["cold_first_batch_seconds"] = round(self.cold.first_seconds, 4)
        return row
