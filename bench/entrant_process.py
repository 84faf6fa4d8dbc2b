"""A process for entrants, which is asked to open, check and run them.

What an entrant's library does to memory, threads and settings stays there, as do its
crashes; between two questions the process is stopped.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context, set_start_method
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from bench.entrant import Entrant, Round, Runner
from bench.error_line import describe_error

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

Start = Literal["spawn", "forkserver"]
# And torch with it; torchvision, which takes as long again, is for those that train.
_PRELOADED = ["bench.peers", "fastretina.measure.steps"]
_END_LIMIT = 10.0  # seconds to end when nobody asks any more


class EntrantError(Exception):
    """An entrant's error, in one line."""


class EntrantProcess:
    """Asks an entrant's process, and waits for the answer.

    Each question raises ``EntrantError`` where an error came up there, or the process
    is gone.

    Attributes:
        pid: of the process.
    """

    def __init__(
        self, process: BaseProcess, pipe: Connection, log: Path, limit: float
    ) -> None:
        assert process.pid is not None  # it has been started
        self.pid = process.pid
        self._process, self._pipe, self._log = process, pipe, log
        self._limit = limit
        self._gone = ""

    def open(self, entrant: Entrant) -> None:
        """Open an entrant, and keep it open."""
        self._ask("open", entrant)

    def check(self, name: str) -> str:
        """How equal the images of an open entrant are to the reference."""
        answer = self._ask("check", name)
        assert isinstance(answer, str)
        return answer

    def run_round(self, name: str, number: int) -> Round:
        """A round of an open entrant."""
        answer = self._ask("run_round", name, number)
        assert isinstance(answer, Round)
        return answer

    def close(self, name: str) -> None:
        """Close an open entrant."""
        self._ask("close", name)

    def run_anew(self, entrant: Entrant, first_only: bool) -> Round:
        """A round of an entrant that is opened for it; the opening counts."""
        answer = self._ask("run_anew", entrant, first_only)
        assert isinstance(answer, Round)
        return answer

    def resume(self) -> None:
        """Let the process run again, with its children."""
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            for child in psutil.Process(self.pid).children(recursive=True):
                child.resume()
            os.kill(self.pid, signal.SIGCONT)

    def _ask(self, command: str, *arguments: object) -> object:
        if self._gone:
            raise EntrantError(self._gone)
        self.resume()
        try:
            self._pipe.send((command, *arguments))
            if not self._pipe.poll(self._limit):
                self._gone = f"no answer within {self._limit:.0f} s"
                self._process.kill()
                raise EntrantError(self._gone)
            answer, error = self._pipe.recv()
        except (EOFError, OSError):
            self._gone = f"its process has died: see {self._log}"
            raise EntrantError(self._gone) from None
        self._stop()
        if error:
            raise EntrantError(error)
        return answer

    def _stop(self) -> None:
        """Stop the process where it is, with its children.

        What goes on loading after an epoch's last batch, as DALI's own reader does,
        would have the first batches of the next round for nothing.
        """
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)  # at once: finding children takes 10 ms
            for child in psutil.Process(self.pid).children(recursive=True):
                child.suspend()


@contextmanager
def entrant_process(
    name: str, logs: Path, limit: float, start: Start = "spawn"
) -> Iterator[EntrantProcess]:
    """Start a process for entrants; it ends with the ``with``.

    Args:
        name: of its log file.
        logs: folder for what the entrants' libraries print.
        limit: seconds without an answer, after which it is killed.
        start: ``forkserver`` forks it from one that has imported torch.
    """
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{''.join(c if c.isalnum() else '-' for c in name)}.txt"
    context: SpawnContext | ForkServerContext = get_context("spawn")
    if start == "forkserver":
        context = get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, log))
    process.start()
    theirs.close()
    running = EntrantProcess(process, ours, log, limit)
    try:
        yield running
    finally:
        running.resume()
        ours.close()  # at which it ends
        process.join(_END_LIMIT)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(pipe: Connection, log: Path) -> None:
    """Answer until nobody asks any more."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    set_start_method(None, force=True)  # or a DataLoader's workers would be spawned
    host = _Host()
    while True:
        try:
            command, *arguments = pipe.recv()
        except EOFError:
            break
        try:
            pipe.send((getattr(host, command)(*arguments), ""))
        except Exception as error:
            traceback.print_exc()
            sys.stderr.flush()
            pipe.send((None, describe_error(error)))
    host.close_all()


class _Host:
    """Answers the questions of an ``EntrantProcess``, in its process."""

    def __init__(self) -> None:
        self._opened: dict[str, tuple[Runner, ExitStack]] = {}

    def open(self, entrant: Entrant) -> None:
        stack = ExitStack()
        self._opened[entrant.name] = (stack.enter_context(entrant.open()), stack)

    def check(self, name: str) -> str:
        return self._opened[name][0].check()

    def run_round(self, name: str, number: int) -> Round:
        return self._opened[name][0].run_round(number)

    def close(self, name: str) -> None:
        _, stack = self._opened.pop(name)
        stack.close()

    def run_anew(self, entrant: Entrant, first_only: bool) -> Round:
        begun = time.perf_counter()
        with entrant.open() as runner:
            opening = time.perf_counter() - begun
            timed = runner.run_round(0, first_only)
        return Round(
            timed.images, opening + timed.seconds, opening + timed.first_seconds
        )

    def close_all(self) -> None:
        for _, stack in self._opened.values():
            stack.close()
