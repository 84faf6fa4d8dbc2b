"""Losses of power: what a real run writes is noted, and cut off at every call.

Each run is recorded once, call by call. A case takes some of the states that its disk
may hold after a loss of power, writes each down, and reads it as a user would.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torture.campaign import Case, Counts, Fault, Skip
from torture.disk import Choice, Content, Recording, put_down, versions
from torture.power_results import (
    Evaluating,
    Examining,
    Exporting,
    Predicting,
    Reporting,
)
from torture.power_runs import (
    Caching,
    Drawing,
    FirstSplitting,
    Moving,
    Resharding,
    Sharding,
    Splitting,
    WatchedRun,
    environment,
)
from torture.power_training import (
    Ending,
    Experimenting,
    Resuming,
    Training,
    VariantMaking,
)
from torture.system_calls import record, require_strace

_STATES = 8  # of a case
# The first ones are those of the short form, which takes the cheapest.
RUNS: tuple[Callable[[], WatchedRun], ...] = (
    Sharding,
    Splitting,
    Caching,
    Training,
    Resharding,
    FirstSplitting,
    Drawing,
    Reporting,
    Evaluating,
    Exporting,
    Predicting,
    Resuming,
    Ending,
    VariantMaking,
    Experimenting,
    Examining,
    Moving,
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run, and what may be found of it.

    Attributes:
        run: the run.
        recording: what it did.
        choices: all states that are tried.
        whole: what it ends with.
        versions: path to all contents that it has named so, and what was there before.
        shared: the folder of what it reads.
    """

    run: WatchedRun
    recording: Recording
    choices: list[Choice]
    whole: Content
    versions: dict[str, set[bytes | None]]
    shared: Path


class Power:
    """The old or the new after a loss of power at any system call."""

    name = "power"
    share = 8.0
    least = 510  # 4,080 states, of 17 runs
    in_tests = 2

    def prepare(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._recorded: dict[int, Recorded] = {}
        self._skip = ""
        try:
            require_strace()
        except Skip as reason:
            self._skip = str(reason)

    def run(self, case: Case) -> Counts:
        if self._skip:
            raise Skip(self._skip)
        kind, batch = case.number % len(RUNS), case.number // len(RUNS)
        if kind not in self._recorded:
            self._recorded[kind] = self._record(kind)
        recorded = self._recorded[kind]
        order = np.random.default_rng([case.seed, kind]).permutation(
            len(recorded.choices)
        )
        first = batch * _STATES
        if first >= len(order):
            raise Skip(f"all states of {recorded.run.name} are tried")
        chosen = order[first : first + _STATES].tolist()
        counts: Counter[str] = Counter()
        for place, number in enumerate(chosen):
            choice = recorded.choices[number]
            folder = case.folder / str(place)
            again = (batch * _STATES + place) % recorded.run.seldom == 0
            try:
                check(recorded, choice, folder, again)
            except Exception as error:
                about = recorded.recording.describe_choice(choice)
                kept = f"{recorded.run.name}, power lost {about}"
                raise Fault(f"{kept}: {type(error).__name__}: {error}") from error
            shutil.rmtree(folder)
            counts[f"states of {recorded.run.name}"] += 1
            counts["run again"] += again
        return counts

    def _record(self, kind: int) -> Recorded:
        run = RUNS[kind]()
        shared = self._folder / str(kind)
        disk = shared / "disk"
        disk.mkdir(parents=True, exist_ok=True)  # a run that is skipped comes again
        words = run.prepare(shared, disk)
        recording = record(words, disk, shared / "trace", environment())
        return Recorded(
            run,
            recording,
            recording.choices(),
            recording.whole(),
            versions(recording),
            shared,
        )

    def close(self) -> None:
        pass


def check(recorded: Recorded, choice: Choice, folder: Path, again: bool) -> None:
    """Write a state down, and make sure that it is one of those that may be.

    Raises:
        Fault: it isn't.
    """
    content, run = recorded.recording.state(choice), recorded.run
    ended = choice.moment == len(recorded.recording.operations)
    for path, data in content.items():
        if not _is_final(path) or run.in_place.fullmatch(path):
            continue
        if data not in recorded.versions[path]:
            raise Fault(
                f"{path} is neither the old nor the new, {len(data or b'')} bytes"
            )
    for path, data in recorded.whole.items() if ended else ():
        if (
            _is_final(path)
            and not run.in_place.fullmatch(path)
            and content.get(path) != data
        ):
            raise Fault(f"the command has ended, and {path} is not what it has written")
    disk = folder / "disk"
    disk.mkdir(parents=True)
    put_down(content, disk)
    run.check(disk, content, recorded.whole)
    if again:
        scratch = folder / "scratch"
        scratch.mkdir()
        shutil.rmtree(disk)  # checking may have changed it
        disk.mkdir()
        put_down(content, disk)
        run.again(recorded.shared, disk, scratch, recorded.whole)


def _is_final(path: str) -> bool:
    """Whether a path's names are all final ones."""
    return not any(
        name.startswith(".") and name.endswith(".part") for name in path.split("/")
    )
