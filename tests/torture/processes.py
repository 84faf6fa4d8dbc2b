"""A command in a process of its own, to be killed, and what it may not leave behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest
from fork_server import server
from small_runs import PRELOADED, make_small, signal_at

from torture.campaign import Fault

ROOT = Path(__file__).parents[2]
LONG = 300  # seconds that a command may take on a busy machine
GONE = 20  # seconds within which what a killed process leaves is gone
SHARED_MEMORY = Path("/dev/shm")

server.set_forkserver_preload(
    [
        *PRELOADED,
        "loaders._cached",
        "loaders._dali",
        "loaders._folder_store",
        "loaders._pil",
        "loaders._webdataset",
        "fastretina.evaluate.command",
        "fastretina.experiments.series",
        "fastretina.report.run_page",
        "matplotlib.pyplot",
    ]
)


# From the first module that is ours on, a command heeds signals.
_WITH_A_SIGN = """
import os, sys
import fastretina.cli
name, *words = sys.argv[1:]
class Sign:
    def find_spec(self, module, path=None, target=None):
        if module == f"fastretina.{name}.command":
            sys.meta_path.remove(self)
            open(os.environ["TMPDIR"] + "/begun", "w").close()
sys.meta_path.insert(0, Sign())
sys.argv = [name, *words]
raise SystemExit(fastretina.cli.open_door(name))
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command has ended.

    Attributes:
        code: the exit code, negative after a signal.
        out: lines of stdout.
        err: lines of stderr.
    """

    code: int
    out: list[str]
    err: list[str]

    def good(self) -> Ended:
        """Itself.

        Raises:
            Fault: it has failed.
        """
        if self.code:
            raise Fault(f"the command after it ends with {self.code}: {self.err[-3:]}")
        return self


@dataclass(slots=True)
class Rest:
    """What a process may not leave behind, by what it had when it was looked at.

    Attributes:
        processes: below it.
        names: of segments and semaphores in shared memory.
    """

    processes: set[psutil.Process] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def add(self, other: Rest) -> None:
        self.processes |= other.processes
        self.names |= other.names

    def wait_until_gone(self) -> None:
        """Make sure that nothing of it lives on.

        Raises:
            Fault: an orphan is still there after some seconds, or a name.
        """
        _, alive = psutil.wait_procs(list(self.processes), timeout=GONE)
        alive = [each for each in alive if _lives(each)]
        if alive:
            told = [each.cmdline()[:6] for each in alive if each.is_running()]
            for each in alive:
                each.kill()
            raise Fault(f"orphans live on: {told}")
        until = time.monotonic() + GONE
        while left := [n for n in sorted(self.names) if (SHARED_MEMORY / n).exists()]:
            if time.monotonic() > until:
                raise Fault(f"left in shared memory: {left}")
            time.sleep(0.1)


def _held(process: psutil.Process) -> set[str]:
    """The names in shared memory that a process has mapped, and that still are there.

    To tell by these, as others' processes make and remove names all the time.
    """
    try:
        lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    found = {line.partition(f"{SHARED_MEMORY}/")[2] for line in lines}
    return {name for name in found if name and not name.endswith("(deleted)")}


class Running:
    """A command that runs in a session of its own.

    Attributes:
        pid: of its process.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[object],
        folder: Path,
        *,
        at: tuple[str, int, str] | None = None,
        real: bool = False,
        sign: bool = False,
    ) -> None:
        """Begin.

        Args:
            name: of the command.
            words: its flags.
            folder: gets what it prints; its temporary files go to ``tmp`` in there.
            at: the event at which it kills itself, as in ``small_runs.start``.
            real: ``python -m``, with its imports, and with the real networks.
            sign: the same, and wait until it heeds signals: Python itself and the first
                modules, 0.1 s, are not ours to guard.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tmp").mkdir(exist_ok=True)
        for kind in ("out", "err"):
            (folder / kind).write_bytes(b"")
        self._folder = folder
        given = [str(word) for word in words]
        self._popen: subprocess.Popen[bytes] | None = None
        if real or sign:
            how = ["-c", _WITH_A_SIGN, name] if sign else ["-m", f"fastretina.{name}"]
            with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
                self._popen = subprocess.Popen(
                    [sys.executable, *how, *given],
                    env=_environment(folder),
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                    preexec_fn=_heed_ctrl_c,
                )
            self.pid = self._popen.pid
            if sign:
                self.wait_for((folder / "tmp" / "begun").exists)
                (folder / "tmp" / "begun").unlink()
            return
        self._process = server.Process(target=_play, args=(name, given, folder, at))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._popen.poll() if self._popen else self._process.exitcode

    def has_answered(self) -> bool:
        """Whether it has printed its JSON line."""
        return b'\n{"' in b"\n" + (self._folder / "out").read_bytes()

    def rest(self) -> Rest:
        """What runs below it, and what it all holds in shared memory."""
        try:
            here = psutil.Process(self.pid)
            below = here.children(recursive=True)
        except psutil.NoSuchProcess:
            return Rest()
        return Rest(set(below), set().union(*map(_held, [here, *below])))

    def kill(self) -> Rest:
        """Kill it, and it alone; returns what it may not leave."""
        rest = self.rest()
        self.send(signal.SIGKILL)
        self.end()
        return rest

    def send(self, number: int, *, to_all: bool = False) -> None:
        """Send it a signal, or its whole session, as a terminal does."""
        try:
            if to_all:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def end(self, seconds: float = LONG) -> Ended:
        """Wait for its end.

        Raises:
            Fault: it takes longer than that; it is killed.
        """
        until = time.monotonic() + seconds
        while self.code() is None:
            if time.monotonic() > until:
                rest = self.rest()
                self.send(signal.SIGKILL, to_all=True)
                for process in rest.processes:
                    process.kill()
                raise Fault(f"hangs: still there after {seconds:g} s")
            time.sleep(0.005)
        code = self.code()
        assert code is not None
        lines = [
            (self._folder / name).read_text(errors="replace").splitlines()
            for name in ("out", "err")
        ]
        return Ended(code, *lines)

    def wait_for(self, happened: Callable[[], object], seconds: float = LONG) -> bool:
        """Wait for an event; False where the process has ended before."""
        until = time.monotonic() + seconds
        while not happened():
            if self.code() is not None or time.monotonic() > until:
                return False
            time.sleep(0.0005)
        return True


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "TMPDIR": str(folder / "tmp"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),  # not ours, and for all runs
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
    }


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _play(
    name: str, words: list[str], folder: Path, at: tuple[str, int, str] | None
) -> None:
    """Be that command's process, with the small network."""
    os.setsid()
    os.environ.update(_environment(folder))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Or what tracks this process's semaphores would go on with the tests.
    resource_tracker._resource_tracker._fd = None  # type: ignore[attr-defined]
    # Or a DataLoader's workers would be started by a server, too, which imports torch.
    multiprocessing.set_start_method(None, force=True)
    for target, kind in ((1, "out"), (2, "err")):
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        os.dup2(os.open(folder / kind, flags), target)
    patch = pytest.MonkeyPatch()
    if name == "experiments":
        from small_experiments import use_small

        use_small(patch)
    make_small(patch)
    if at is not None:
        signal_at(*at, signal.SIGKILL)
    from fastretina import cli

    sys.argv = ["fastretina", name, *words]
    sys.exit(cli.main())


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
