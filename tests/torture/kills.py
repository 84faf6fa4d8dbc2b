"""``kill -9`` at random moments: then the same command ends with the same bytes."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loaders import available
from torture.campaign import Case, Counts, Fault, Skip
from torture.processes import Rest, Running
from torture.victims import (
    Data,
    Outcome,
    Victim,
    make_data,
    training,
    victims,
)

_MOST = 4  # kills in a row


@dataclass(frozen=True, slots=True)
class Whole:
    """An undisturbed run of a victim.

    Attributes:
        outcome: what it has left.
        seconds: that it has taken.
    """

    outcome: Outcome
    seconds: float


class Kills:
    """Every kind of command in turn, killed up to four times in a row."""

    name = "kills"
    share = 20.0
    least = 130  # 200 kills, as some come too late
    in_tests = 2

    def prepare(self, folder: Path) -> None:
        """Make photographs and shards; whole runs are made when they are needed."""
        self._folder = folder
        self._wholes: dict[str, Whole] = {}
        course, many, tars = make_data(folder)
        run = folder / "finished"
        self._data = Data(course, folder / "shards", many, tars, run / "run")
        self._victims = victims(self._data)

    def run(self, case: Case) -> Counts:
        """Kill one kind of command, go on, and compare."""
        kinds = list(self._victims)
        kind = kinds[case.number % len(kinds)]
        victim = self._victims[kind]
        loader = kind.removeprefix("train ")
        if loader in ("dali", "dali-reader") and loader not in available():
            raise Skip(f"{loader} is not installed")
        if victim.ready:
            self._make_run()
        whole = self._whole(kind, victim)
        rng = case.rng()
        if victim.ready:
            victim.ready(case.folder)
        kill = _kill_two if victim.twice else _kill
        kills = 0
        for turn in range(int(rng.integers(1, _MOST + 1))):
            said = case.folder / f"said-{turn}"
            killed = kill(victim, case.folder, said, whole, rng)
            kills += killed
            if not killed:  # it is done
                break
        _go_on(victim, case.folder)
        _compare(kind, victim.outcome(case.folder), whole.outcome)
        _refuse_rest(case.folder, kind)
        return {"kills": kills, f"kills of {kind}": kills}

    def close(self) -> None:
        """Nothing is held."""

    def _make_run(self) -> None:
        """Train the small network, once: what some commands work on."""
        if not self._data.run.exists():
            folder = self._data.run.parent
            words = training(self._data).words(folder)
            Running("train", words, folder / "said").end().good()

    def _whole(self, kind: str, victim: Victim) -> Whole:
        """An undisturbed run, made once."""
        if kind not in self._wholes:
            folder = self._folder / kind.replace(" ", "-")
            folder.mkdir()
            if victim.ready:
                victim.ready(folder)
            begun = time.monotonic()
            words = victim.words(folder)
            said = folder / "said"
            Running(victim.name, words, said, real=victim.real).end().good()
            seconds = time.monotonic() - begun
            self._wholes[kind] = Whole(victim.outcome(folder), seconds)
            shutil.rmtree(folder)
        return self._wholes[kind]


def _begin(victim: Victim, folder: Path, said: Path) -> Running:
    return Running(victim.name, victim.go_on(folder), said, real=victim.real)


def _kill(
    victim: Victim,
    folder: Path,
    said: Path,
    whole: Whole,
    rng: np.random.Generator,
) -> int:
    """Begin or go on, and kill it; returns how often, as it may end before."""
    moment = rng.uniform(0, 1.1 * whole.seconds)
    aim = rng.choice(3) if victim.events else 2 * rng.choice(2)
    if aim == 1:
        at = victim.events[rng.integers(len(victim.events))]
        process = Running(victim.name, victim.go_on(folder), said, at=at)
    else:
        process = _begin(victim, folder, said)
    rest = Rest()
    if aim == 1:
        rest = _watch(process)
    elif aim == 2 and victim.signs:
        sign = victim.signs[rng.integers(len(victim.signs))]
        before = set(folder.glob(sign))
        process.wait_for(lambda: set(folder.glob(sign)) - before)
        time.sleep(rng.choice([0.0, 0.0, 0.002, 0.02]))
    else:
        until = time.monotonic() + moment
        process.wait_for(lambda: time.monotonic() > until)
    rest.add(process.kill())
    rest.wait_until_gone()
    return int(_was_killed(process, victim))


def _watch(process: Running) -> Rest:
    """Wait for its end; returns what has run below it."""
    rest = Rest()
    while process.code() is None:
        rest.add(process.rest())
        time.sleep(0.02)
    return rest


def _was_killed(process: Running, victim: Victim) -> bool:
    """Whether it came to that.

    Raises:
        Fault: it has failed by itself.
    """
    ended = process.end()
    if ended.code not in (0, -9):
        raise Fault(f"{victim.name} ends with {ended.code}: {ended.err[-3:]}")
    return ended.code == -9


def _kill_two(
    victim: Victim,
    folder: Path,
    said: Path,
    whole: Whole,
    rng: np.random.Generator,
) -> int:
    """Two at once, of which one is killed, or both; one that isn't ends well.

    Two in one folder, of which one is refused; or two runs in one cache.
    """
    alone = victim.name == "shard"
    other = folder if alone else folder / "other"
    if not alone:
        other.mkdir(exist_ok=True)
        cache = folder / "cache"
        cache.mkdir(exist_ok=True)
        if not (other / "cache").exists():
            (other / "cache").symlink_to(cache)
    first = _begin(victim, folder, said)
    time.sleep(rng.uniform(0, 0.2))
    second = _begin(victim, other, said.with_name(f"{said.name}-second"))
    until = time.monotonic() + rng.uniform(0, 1.1 * whole.seconds)
    first.wait_for(lambda: time.monotonic() > until)
    both = rng.random() < 0.5
    rest = first.kill()
    if both:
        rest.add(second.kill())
    kills = int(_refused_or_killed(first, victim, alone=alone))
    ended = _refused_or_killed(second, victim, alone=alone)
    rest.wait_until_gone()
    if not alone and not both:
        _compare("the other run", victim.outcome(other), whole.outcome)
        shutil.rmtree(other)
    return kills + int(ended)


def _refused_or_killed(process: Running, victim: Victim, *, alone: bool) -> bool:
    ended = process.end()
    told = ended.err[-1] if ended.err else ""
    if alone and ended.code == 1 and "another process is writing" in told:
        return False
    return _was_killed(process, victim)


def _go_on(victim: Victim, folder: Path) -> None:
    """The same command, to its end."""
    _begin(victim, folder, folder / "said-last").end().good()
    other = folder / "other"
    if other.is_dir():
        _begin(victim, other, folder / "said-other").end().good()


def _compare(kind: str, found: Outcome, whole: Outcome) -> None:
    """Make sure that nothing differs.

    Raises:
        Fault: something does.
    """
    names = sorted(k for k in {*found, *whole} if found.get(k) != whole.get(k))
    if names:
        shown = [
            f"{n}: {str(found.get(n))[:200]} not {str(whole.get(n))[:200]}"
            for n in names[:2]
        ]
        raise Fault(f"{kind}: {len(names)} things differ, as {shown}")


def _refuse_rest(folder: Path, kind: str) -> None:
    """Make sure that no temporary file is left.

    Raises:
        Fault: one is.
    """
    found = folder.glob("said*/tmp/**/*")
    if left := [str(path.relative_to(folder)) for path in found]:
        raise Fault(f"{kind} leaves temporary files: {left[:5]}")
