"""Call a function in a process of its own, which may crash, hang or eat its memory."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from fork_server import server

from torture.campaign import Fault

T = TypeVar("T")


def in_child(function: Callable[..., T], *args: Any, seconds: float = 30) -> T:
    """What the function returns; it and its arguments are pickled.

    Raises:
        Fault: the process was ended by a signal, or took longer than that.
        Exception: what the function has raised, as a ``RuntimeError`` with its
            traceback where that can't be pickled.
    """
    ours, theirs = server.Pipe(duplex=False)
    process = server.Process(target=_answer, args=(theirs, function, args))
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise Fault(f"hangs: no answer within {seconds:g} s")
        try:
            good, answer = ours.recv()
        except EOFError:
            process.join(seconds)
            raise Fault(f"the process died: {_name(process.exitcode)}") from None
    finally:
        ours.close()
        process.kill()
        process.join()
        process.close()
    if good:
        result: T = answer
        return result
    raise answer


def _name(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _answer(pipe: Connection, function: Callable[..., Any], args: Any) -> None:
    try:
        answer = (True, function(*args))
    except Exception as error:
        answer = (False, error)
    try:
        pipe.send(answer)
    except Exception:  # of another kind for each thing that can't be pickled
        pipe.send((False, RuntimeError(traceback.format_exc())))
