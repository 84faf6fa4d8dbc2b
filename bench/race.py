"""Rounds of several entrants in turn, so that a machine that drifts favours none.

Each entrant runs in a process of its own: its memory can be told from the others', its
library's threads, settings and crashes stay with it, and it is stopped between laps.

    open -> check against the reference -> laps, in turn with the others -> a lap for
    the memory -> close -> first batches -> the page cache dropped: a lap from nothing
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, set_start_method
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol

import psutil

from fastretina.measure import page_cache
from fastretina.measure.usage import PeakMemory, cpu_seconds
from loaders.cores import granted_cores

_LIMIT = 180.0  # seconds without an answer, after which an entrant is given up
_SLOW = 1.5  # seconds for a lap, from which on three rounds have to do


class Lap(NamedTuple):
    """One timed repetition.

    Attributes:
        images: that crossed the finish line.
        seconds: until the last of them had.
        first_seconds: until the first batch had.
    """

    images: int
    seconds: float
    first_seconds: float


class Runner(Protocol):
    """What an entrant does in its process."""

    def check(self) -> str:
        """Compare what it delivers with the reference; returns a verdict.

        Raises:
            AssertionError: it is wrong.
        """

    def lap(self, number: int, first_only: bool = False) -> Lap:
        """Run once; the device is waited for."""


Open = Callable[[], AbstractContextManager[Runner]]


class Entrant(NamedTuple):
    """One that takes part.

    Attributes:
        name: for people.
        open: picklable; begins with what importing does not do.
        kind: ``ours``, ``report``, ``peer`` or ``ceiling``.
        process: entrants of the same one share a process.
        about: whatever else stands beside its figures.
    """

    name: str
    open: Open
    kind: str = "ours"
    process: str | None = None
    about: dict[str, Any] = {}  # noqa: RUF012  # never written to


@dataclass(slots=True)
class EntrantResult:
    """What an entrant took.

    Attributes:
        entrant: whose it is.
        error: why it has no figures, or only some.
        verdict: how its pixels compare with the reference.
        laps: warm, in turn with the others.
        ceilings: images/s of the ceiling, just before each lap.
        first: seconds from opening to the first batch, warm.
        cold: a lap from opening on, with nothing in the page cache.
        cpu_seconds: of the process tree, over all laps.
        peak_bytes: of the process tree, in a lap that is not timed.
    """

    entrant: Entrant
    error: str = ""
    verdict: str = ""
    laps: list[Lap] = field(default_factory=list)
    ceilings: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    cold: Lap | None = None
    cpu_seconds: float = 0.0
    peak_bytes: int | None = None

    @property
    def speeds(self) -> list[float]:
        """Images/s of each lap."""
        return [lap.images / lap.seconds for lap in self.laps]

    @property
    def shares(self) -> list[float]:
        """Of the ceiling, lap by lap."""
        return [s / c for s, c in zip(self.speeds, self.ceilings, strict=False)]

    def facts(self) -> dict[str, Any]:
        """What goes into the JSON beside the times."""
        images = sum(lap.images for lap in self.laps)
        facts: dict[str, Any] = {
            "kind": self.entrant.kind,
            **self.entrant.about,
            "pixels": self.verdict,
            "images_per_round": self.laps[0].images,
            "images_per_second": round(median(self.speeds), 2),
            "slowest": round(min(self.speeds), 2),
            "fastest": round(max(self.speeds), 2),
            "rounds": len(self.laps),
            "first_batch_seconds": round(median(self.first), 4) if self.first else None,
            "cpu_ms_per_image": round(self.cpu_seconds / images * 1e3, 3),
            "peak_bytes": self.peak_bytes,
        }
        if self.ceilings:
            facts["ceiling_images_per_second"] = round(median(self.ceilings), 2)
            facts["share_of_ceiling"] = round(median(self.shares), 4)
            facts["shares"] = [round(share, 4) for share in self.shares]
        if self.cold is not None:
            speed = self.cold.images / self.cold.seconds
            facts["cold_images_per_second"] = round(speed, 2)
            facts["cold_first_batch_seconds"] = round(self.cold.first_seconds, 4)
        return facts


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How a race is run.

    Attributes:
        rounds: timed laps of each entrant.
        ceiling: images/s that this entrant can't beat; measured before each lap.
        ceiling_of: or, the entrant whose lap of the same round is the ceiling.
        files: what to drop from the page cache; none for no cold lap.
        firsts: how often the way to the first batch is timed.
        memory: whether to watch the memory.
        logs: folder for what the entrants' libraries print.
        tell: called with what is going on.
    """

    rounds: int
    logs: Path
    ceiling: Callable[[Entrant], float] | None = None
    ceiling_of: str | None = None
    files: Sequence[Path] = ()
    firsts: int = 3
    memory: bool = True
    tell: Callable[[str], None] = lambda _: None


def race(entrants: Sequence[Entrant], rules: Rules) -> list[EntrantResult]:
    """Run all entrants; one that fails is told of in its outcome, the others go on."""
    outcomes = [EntrantResult(entrant) for entrant in entrants]
    with ExitStack() as stack:
        processes: dict[str, _Process] = {}
        for outcome in outcomes:
            name = outcome.entrant.process or outcome.entrant.name
            if name not in processes:
                processes[name] = stack.enter_context(_process(name, rules.logs))
        places = [
            (outcome, processes[outcome.entrant.process or outcome.entrant.name])
            for outcome in outcomes
        ]
        _open_all(places, rules)
        _rounds(places, rules)
        for outcome, process in places:
            if rules.memory and not outcome.error:
                with _noting(outcome), PeakMemory(process.pid) as peak:
                    process.ask("lap", outcome.entrant.name, 1_000)
                outcome.peak_bytes = peak.bytes
        for outcome, process in places:  # a map keeps a file's pages in the cache
            if not outcome.error:
                with _noting(outcome):
                    process.ask("close", outcome.entrant.name)
        for outcome, process in places:
            _from_nothing(outcome, process, rules)
    return outcomes


def _open_all(places: Sequence[tuple[EntrantResult, _Process]], rules: Rules) -> None:
    """Open and check, a process per core at a time: nothing of it is timed."""

    def open_those(process: _Process) -> None:
        for outcome in (one for one, whose in places if whose is process):
            rules.tell(f"{outcome.entrant.name}: opening, checking")
            with _noting(outcome):
                process.ask("open", outcome.entrant)
                outcome.verdict = process.ask("check", outcome.entrant.name)

    with ThreadPoolExecutor(granted_cores()) as pool:
        list(pool.map(open_those, dict.fromkeys(process for _, process in places)))


def _rounds(places: Sequence[tuple[EntrantResult, _Process]], rules: Rules) -> None:
    for number in range(1, rules.rounds + 1):
        rules.tell(f"round {number} of {rules.rounds}")
        turn = number % max(len(places), 1)
        for outcome, process in [*places[turn:], *places[:turn]]:
            slow = outcome.laps and outcome.laps[0].seconds > _SLOW
            if outcome.error or (slow and number > 3):
                continue
            with _noting(outcome):
                if rules.ceiling is not None:
                    outcome.ceilings.append(rules.ceiling(outcome.entrant))
                before = cpu_seconds(process.pid)
                lap = process.ask("lap", outcome.entrant.name, number)
                outcome.cpu_seconds += cpu_seconds(process.pid) - before
                outcome.laps.append(lap)
    if rules.ceiling_of is not None:
        (speeds,) = (
            one.speeds for one, _ in places if one.entrant.name == rules.ceiling_of
        )
        for outcome, _ in places:
            outcome.ceilings = speeds[: len(outcome.laps)]


def _from_nothing(outcome: EntrantResult, process: _Process, rules: Rules) -> None:
    """The way to the first batch, and a cold lap; the entrant is closed before."""
    for _ in range(rules.firsts):
        if not outcome.error:
            with _noting(outcome):
                lap = process.ask("fresh", outcome.entrant, True)
                outcome.first.append(lap.first_seconds)
    if rules.files and not outcome.error and page_cache.drop(rules.files):
        rules.tell(f"{outcome.entrant.name}: cold")
        with _noting(outcome):
            outcome.cold = process.ask("fresh", outcome.entrant, False)


@contextmanager
def _noting(outcome: EntrantResult) -> Iterator[None]:
    try:
        yield
    except _Failed as error:
        outcome.error = outcome.error or str(error)


class _Failed(Exception):
    """An entrant's error, in one line."""


class _Process:
    """Asks an entrant's process, and waits for the answer."""

    def __init__(self, process: BaseProcess, pipe: Connection, log: Path) -> None:
        assert process.pid is not None  # it has been started
        self.pid = process.pid
        self._process, self._pipe, self._log = process, pipe, log
        self._gone = ""

    def ask(self, *question: Any) -> Any:
        """The answer.

        Raises:
            _Failed: an error came up there, or the process is gone.
        """
        if self._gone:
            raise _Failed(self._gone)
        self.go_on()
        try:
            self._pipe.send(question)
            if not self._pipe.poll(_LIMIT):
                self._gone = f"no answer within {_LIMIT:.0f} s"
                self._process.kill()
                raise _Failed(self._gone)
            answer, error = self._pipe.recv()
        except (EOFError, OSError):
            self._gone = f"its process has died: see {self._log}"
            raise _Failed(self._gone) from None
        self._hold()
        if error:
            raise _Failed(error)
        return answer

    def _hold(self) -> None:
        """Stop the process where it is, with its children.

        What goes on loading after an epoch's last batch, as DALI's own reader does,
        would have the first batches of the next lap for nothing.
        """
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)  # at once: finding children takes 10 ms
            for child in psutil.Process(self.pid).children(recursive=True):
                child.suspend()

    def go_on(self) -> None:
        """Let it run again."""
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            for child in psutil.Process(self.pid).children(recursive=True):
                child.resume()
            os.kill(self.pid, signal.SIGCONT)


@contextmanager
def _process(name: str, logs: Path) -> Iterator[_Process]:
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{''.join(c if c.isalnum() else '-' for c in name)}.txt"
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, log))
    process.start()
    theirs.close()
    running = _Process(process, ours, log)
    try:
        yield running
    finally:
        running.go_on()
        ours.close()  # at which it ends
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(pipe: Connection, log: Path) -> None:
    """Answer until nobody asks any more."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    set_start_method(None, force=True)  # or a DataLoader's workers would be spawned
    opened: dict[str, tuple[Runner, ExitStack]] = {}
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            break
        try:
            answer = (_answer(opened, *question), "")
        except Exception as error:
            traceback.print_exc()
            sys.stderr.flush()
            said = str(error).strip().partition("\n")[0]
            answer = (None, f"{type(error).__name__}: {said}"[:300])
        pipe.send(answer)
    for _, stack in opened.values():
        stack.close()


def _answer(
    opened: dict[str, tuple[Runner, ExitStack]], command: str, what: Any, *words: Any
) -> Any:
    if command == "open":
        stack = ExitStack()
        opened[what.name] = (stack.enter_context(what.open()), stack)
        return None
    if command == "fresh":
        return _fresh(what, *words)
    runner, stack = opened[what]
    if command == "close":
        stack.close()
        del opened[what]
        return None
    return runner.check() if command == "check" else runner.lap(*words)


def _fresh(entrant: Entrant, first_only: bool) -> Lap:
    from time import perf_counter

    begun = perf_counter()
    with entrant.open() as runner:
        opening = perf_counter() - begun
        lap = runner.lap(0, first_only)
    return Lap(lap.images, opening + lap.seconds, opening + lap.first_seconds)
