"""Rounds of several entrants in turn, so that a machine that drifts favours none.

Each entrant runs in a process of its own: its memory can be told from the others', its
library's threads, settings and crashes stay with it, and it is stopped between rounds.

    open -> check against the reference -> rounds, in turn with the others -> a round
    for the memory -> close -> first batches -> the page cache dropped: a round from
    nothing
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.entrant import Entrant, EntrantResult
from bench.entrant_process import EntrantError, EntrantProcess, Start, entrant_process
from fastretina.measure import page_cache
from fastretina.measure.usage import PeakMemory, cpu_seconds
from loaders.cores import granted_cores

_SLOW = 1.5  # seconds for a round, from which on three rounds have to do
_MEMORY_ROUND = 1_000  # number of the round in which the memory is watched


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How a race is run.

    Attributes:
        num_rounds: timed rounds of each entrant.
        logs: folder for what the entrants' libraries print.
        ceiling: images/s that this entrant can't beat; measured before each round.
        ceiling_of: or, the entrant whose speed in the same round is the ceiling.
        files: lists what to drop from the page cache, when that is there; ``None`` for
            no cold round.
        num_openings: how often the way to the first batch is timed.
        memory: whether to watch the memory.
        answer_limit: seconds without an answer, after which an entrant is given up.
        start: how processes start. ``forkserver`` saves each the import of torch, of
            which they share the memory then: not where it is measured.
        report_progress: called with what is going on.
    """

    num_rounds: int
    logs: Path
    ceiling: Callable[[Entrant], float] | None = None
    ceiling_of: str | None = None
    files: Callable[[], Sequence[Path]] | None = None
    num_openings: int = 3
    memory: bool = True
    answer_limit: float = 180.0
    start: Start = "spawn"
    report_progress: Callable[[str], None] = lambda _: None


RunRace = Callable[[Sequence[Entrant], Rules], dict[str, EntrantResult]]
Places = Sequence[tuple[EntrantResult, EntrantProcess]]


def race(entrants: Sequence[Entrant], rules: Rules) -> list[EntrantResult]:
    """Run all entrants; one that fails has the reason in its result, others go on."""
    results = [EntrantResult(entrant) for entrant in entrants]
    names = dict.fromkeys(entrant.process_name for entrant in entrants)
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(
                entrant_process(name, rules.logs, rules.answer_limit, rules.start)
            )
            for name in names
        }
        places = [
            (result, processes[result.entrant.process_name]) for result in results
        ]
        _open_all(places, rules)
        _run_rounds(places, rules)
        if rules.memory:
            _watch_memory(places)
        for result, process in places:  # a map keeps a file's pages in the cache
            if not result.error:
                with _record_error(result):
                    process.close(result.entrant.name)
        for result, process in places:
            _time_opening(result, process, rules)
    return results


def _open_all(places: Places, rules: Rules) -> None:
    """Open and check, a process per core at a time: nothing of it is timed."""

    def open_those(process: EntrantProcess) -> None:
        for result in (result for result, whose in places if whose is process):
            rules.report_progress(f"{result.entrant.name}: opening, checking")
            with _record_error(result):
                process.open(result.entrant)
                result.pixels = process.check(result.entrant.name)

    with ThreadPoolExecutor(granted_cores()) as pool:
        list(pool.map(open_those, dict.fromkeys(process for _, process in places)))


def _run_rounds(places: Places, rules: Rules) -> None:
    """The timed rounds; in each, all take their turn, and the first to go changes."""
    for number in range(1, rules.num_rounds + 1):
        rules.report_progress(f"round {number} of {rules.num_rounds}")
        first = number % max(len(places), 1)
        for result, process in [*places[first:], *places[:first]]:
            slow = result.rounds and result.rounds[0].seconds > _SLOW
            if not (result.error or (slow and number > 3)):
                with _record_error(result):
                    _time_round(result, process, number, rules)
    if rules.ceiling_of is not None:
        (speeds,) = (
            result.speeds
            for result, _ in places
            if result.entrant.name == rules.ceiling_of
        )
        for result, _ in places:
            result.ceilings = speeds[: len(result.rounds)]


def _time_round(
    result: EntrantResult, process: EntrantProcess, number: int, rules: Rules
) -> None:
    if rules.ceiling is not None:
        result.ceilings.append(rules.ceiling(result.entrant))
    before = cpu_seconds(process.pid)
    timed = process.run_round(result.entrant.name, number)
    result.cpu_seconds += cpu_seconds(process.pid) - before
    result.rounds.append(timed)


def _watch_memory(places: Places) -> None:
    """A round of each that is not timed, as looking takes time."""
    for result, process in places:
        if not result.error:
            with _record_error(result), PeakMemory(process.pid) as peak:
                process.run_round(result.entrant.name, _MEMORY_ROUND)
            result.peak_bytes = peak.bytes


def _time_opening(result: EntrantResult, process: EntrantProcess, rules: Rules) -> None:
    """The way to the first batch, and a cold round; the entrant is closed before."""
    for _ in range(rules.num_openings):
        if not result.error:
            with _record_error(result):
                timed = process.run_anew(result.entrant, first_only=True)
                result.first_seconds.append(timed.first_seconds)
    if rules.files is None or result.error:
        return
    if page_cache.drop(rules.files()):
        rules.report_progress(f"{result.entrant.name}: cold")
        with _record_error(result):
            result.cold = process.run_anew(result.entrant, first_only=False)


@contextmanager
def _record_error(result: EntrantResult) -> Iterator[None]:
    """Note an entrant's first error in its result, as the others go on."""
    try:
        yield
    except EntrantError as error:
        result.error = result.error or str(error)
