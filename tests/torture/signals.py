"""SIGINT and SIGTERM at random moments: any command ends at once, and says so."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from PIL import Image

from torture.campaign import Case, Counts, Fault
from torture.processes import Ended, Running
from torture.victims import (
    Data,
    Outcome,
    Victim,
    Words,
    drawing,
    make_data,
    sharding,
    training,
)

# Seconds from the signal to the end. On a busy machine the clock on the wall says
# little: there it is the processor's seconds that count, and a later end.
PROMPT, AT_LAST = 5.0, 25.0
_BUSY = 0.5  # share of the time in which somebody waits for a processor
_OTHERS = {".ses"}  # what onnxruntime leaves among temporary files, undisturbed, too
_QUICK = ("shard", "audit", "demo")  # without torch, and on no run
_PRESSURE = Path("/proc/pressure/cpu")


@dataclass(frozen=True, slots=True)
class _Command:
    """A command to be interrupted.

    Attributes:
        name: as it is typed.
        words: its flags, for a folder to work in.
        again: whether the same command goes on, and what it must come to.
    """

    name: str
    words: Callable[[Path], Words]
    again: Victim | None = None


def _commands(data: Data) -> list[_Command]:
    def victim(made: Victim) -> _Command:
        return _Command(made.name, made.words, made)

    def strong(folder: Path) -> Words:
        flags: Words = ["--weights", "none", "--budget", "tiny", "--image-size", 64]
        return ["strong", "--shards", data.shards, "--out", folder / "out", *flags]

    def doctor(folder: Path) -> Words:
        return ["--shards", data.shards, "--seconds", 8, "--out", folder / "d.png"]

    def parity(folder: Path) -> Words:
        where: Words = ["--data", data.photographs, "--shards", data.shards]
        return [*where, "--loader", "turbo", "--run", folder / "run"]

    def predict(folder: Path) -> Words:
        images = data.photographs / "data"
        out: Words = ["--out", folder / "p.csv", "--overlays", folder / "overlays"]
        return [folder / "run", images, *out]

    def audit(folder: Path) -> Words:
        return [data.many, "--out", folder / "a.json", "--fix", folder / "fixed"]

    def on_run(folder: Path) -> Words:
        return [folder / "run"]

    return [  # the quick ones first
        victim(sharding(data.many, 1)),
        _Command("audit", audit),
        victim(drawing()),
        victim(training(data, "--loader", "turbo", real=True)),
        _Command("evaluate", on_run),
        _Command("predict", predict),
        _Command("report", on_run),
        _Command("export", on_run),
        _Command("experiments", strong),
        _Command("parity", parity),
        _Command("doctor", doctor),
        victim(sharding(data.many, 8)),
        victim(training(data, "--loader", "pil", real=True)),
        victim(sharding(data.tars, 2)),
    ]


class Signals:
    """Every command in turn, with its imports, from the first to the last moment."""

    name = "signals"
    share = 8.0
    least = 60
    in_tests = 2

    def prepare(self, folder: Path) -> None:
        """Make photographs and shards; whole runs are made when they are needed."""
        self._folder = folder
        self._seconds = 0.0  # that a training run takes, and other commands about
        self._wholes: dict[str, Outcome] = {}
        course, many, tars = make_data(folder)
        run = folder / "finished" / "run"
        self._data = Data(course, folder / "shards", many, tars, run)
        self._commands = _commands(self._data)

    def run(self, case: Case) -> Counts:
        """Interrupt one command at one moment."""
        command = self._commands[case.number % len(self._commands)]
        if command.name not in _QUICK:
            self._make_run()
        self._make_whole(command)
        rng = case.rng()
        if command.again is None and command.name not in _QUICK:
            shutil.copytree(self._data.run, case.folder / "run")
        words = command.words(case.folder)
        process = Running(command.name, words, case.folder / "said", sign=True)
        long = command.name == "experiments"  # of which the beginning matters here
        if rng.random() < 0.25 and not long:  # when all is said
            process.wait_for(process.has_answered)
            time.sleep(rng.uniform(0, 1))
        else:
            until = time.monotonic() + rng.uniform(0, self._length(command))
            process.wait_for(lambda: time.monotonic() > until)
        number = (signal.SIGINT, signal.SIGTERM)[int(rng.integers(2))]
        to_all = number == signal.SIGINT or rng.random() < 0.5
        rest = process.rest()
        slow = _end(process, number, to_all=bool(to_all))
        what = f"{command.name} after {number.name}"
        ended = process.end()
        _check_words(what, ended)
        rest.wait_until_gone()
        _refuse_rest(what, case.folder)
        if command.again is not None:
            again = command.again.go_on(case.folder)
            last = case.folder / "said-last"
            Running(command.name, again, last, real=True).end().good()
            if command.again.outcome(case.folder) != self._wholes[_key(command)]:
                raise Fault(f"{what}: the same command comes to something else")
        told = "interrupted" if ended.code else "done before"
        return {number.name: 1, told: 1, "slow": slow}

    def close(self) -> None:
        """Nothing is held."""

    def _make_run(self) -> None:
        """Train the real network, once: what the others work on, and how fast it is."""
        if self._data.run.exists():
            return
        whole, parent = training(self._data, real=True), self._data.run.parent
        begun = time.monotonic()
        words = whole.words(parent)
        Running("train", words, parent / "said", real=True).end().good()
        self._seconds = time.monotonic() - begun
        self._wholes["train"] = whole.outcome(parent)

    def _make_whole(self, command: _Command) -> None:
        """Run a command that goes on undisturbed, once, for what it comes to."""
        key = _key(command)
        if command.again is None or key in self._wholes:
            return
        folder = self._folder / f"whole-{len(self._wholes)}"
        folder.mkdir()
        words = command.words(folder)
        Running(command.name, words, folder / "said", real=True).end().good()
        self._wholes[key] = command.again.outcome(folder)
        shutil.rmtree(folder)

    def _length(self, command: _Command) -> float:
        """Seconds in which it is interrupted."""
        return 2.0 if command.name in _QUICK else self._seconds


def _key(command: _Command) -> str:
    """Commands of one key come to the same."""
    words = [str(word) for word in command.words(Path("out"))]
    return "train" if command.name == "train" else " ".join([command.name, *words])


def _end(process: Running, number: signal.Signals, *, to_all: bool) -> int:
    """Send the signal and wait for the end; 1 where that takes over five seconds.

    Raises:
        Fault: it does on a machine that has nothing else to do, or its processor's
            seconds do, or it takes very long.
    """
    stalled, spent = _stalled(), _processor_seconds(process.pid)
    begun = time.monotonic()
    process.send(number, to_all=to_all)
    used = spent
    while process.code() is None and time.monotonic() < begun + AT_LAST:
        used = max(used, _processor_seconds(process.pid))
        time.sleep(0.02)
    seconds = time.monotonic() - begun
    used -= spent
    share = (_stalled() - stalled) / max(seconds, 1e-9)
    if process.code() is None or used > PROMPT:
        raise Fault(f"{number.name}: not ended after {seconds:.1f} s, {used:.1f} busy")
    if seconds > PROMPT and share < _BUSY:
        raise Fault(f"{number.name}: takes {seconds:.1f} s on a quiet machine")
    return int(seconds > PROMPT)


def _stalled() -> float:
    """Seconds since the start in which somebody waited for a processor."""
    if not _PRESSURE.exists():
        return 0.0
    return int(_PRESSURE.read_text().partition("total=")[2].split()[0]) / 1e6


def _processor_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _check_words(what: str, ended: Ended) -> None:
    """Make sure that a command has ended with 130 and one line, or is done.

    Raises:
        Fault: it has not.
    """
    text = "\n".join(ended.err[-12:])
    if ended.code not in (0, 130):
        raise Fault(f"{what} ends with {ended.code}: {text}")
    if any("Traceback" in line for line in [*ended.err, *ended.out]):
        raise Fault(f"{what} shows a traceback: {text}")
    lines = [line for line in ended.err if line.startswith(("interrupted", "error"))]
    if ended.code == 130 and (len(lines) != 1 or ended.err[-1] != lines[0]):
        raise Fault(f"{what} does not end with one line: {text}")
    if ended.code == 0 and (lines or not ended.out[-1].startswith("{")):
        raise Fault(f"{what} ends with 0 and without its result: {text}")


def _refuse_rest(what: str, folder: Path) -> None:
    """Make sure that nothing is left half-written, or behind.

    Raises:
        Fault: something is.
    """
    found = [path for path in folder.glob("said/tmp/*") if path.name not in _OTHERS]
    left = [str(path.relative_to(folder)) for path in found]
    left += [str(p.relative_to(folder)) for p in folder.rglob(".*.part")]
    if left:
        raise Fault(f"{what} leaves {left[:5]}")
    for path in folder.rglob("*"):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".png":
                Image.open(path).verify()
            elif path.suffix == ".html" and not _has_end(path):
                raise ValueError("it has no end")
        except (OSError, ValueError, SyntaxError) as error:
            raise Fault(f"{what} leaves a torn {path.name}: {error}") from error


def _has_end(page: Path) -> bool:
    return page.read_text().rstrip().endswith("</html>")
