"""A server that forks processes which end with the tests, even if those are killed."""

from __future__ import annotations

import os
import signal
from functools import cache
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

from fastretina.interrupts import SIGNALS
from fastretina.processes import end_with


class _Process(ForkServerProcess):
    """A process that ends with this one, even if that is killed.

    It would else go on, perhaps waiting for a rank that is gone; and as long as it
    lives, the server that has forked it does, with all that it has imported.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._parent_lives = _pipe()[0]

    def run(self) -> None:
        # An experiment in this process may have begun the server, with signals held.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        end_with(self._parent_lives)
        super().run()


class _Server(ForkServerContext):
    Process = _Process  # type: ignore[assignment]


@cache
def _pipe() -> tuple[connection.Connection, connection.Connection]:
    """The end that processes watch, and ours, which closes when this one ends."""
    return server.Pipe(duplex=False)


def stop_server() -> None:
    """End what the server has forked, and the server; the next use starts another."""
    if _pipe.cache_info().currsize:
        for end in _pipe():
            end.close()
        _pipe.cache_clear()
    running = forkserver._forkserver
    if running._forkserver_pid is not None:
        os.kill(running._forkserver_pid, signal.SIGKILL)
        running._stop()


server = _Server()
