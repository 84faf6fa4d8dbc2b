"""Measure in a process of its own, which a GPU's driver may take down.

After an illegal access on a GPU, nothing works any more in that process; a decoder may
crash on a damaged file, or hang. What is left to measure goes on in a new process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator, Sequence, Set
from contextlib import contextmanager
from multiprocessing import get_context, set_start_method
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from bench.gpu.scope import (
    Begun,
    FailedMeasurement,
    LeftOut,
    Scope,
    Section,
    SectionEvent,
    measure,
)

_START_LIMIT = 120.0  # seconds to import torch from a cold disk, and to plan
_END_LIMIT = 20.0  # seconds to let go of everything


def in_own_process(
    sections: Sequence[Section],
    scope: Scope,
    skip: Set[str] = frozenset(),
    start_limit: float = _START_LIMIT,
) -> Iterator[SectionEvent]:
    """Take the measurements of sections in as many processes as it takes.

    That is one, and another after each failure. Those to skip by name are not taken.
    """
    known = set(skip)
    while True:
        before = len(known)
        ended = yield from _one_process(sections, scope, known, start_limit)
        if ended or len(known) == before:  # all done, or it does not even start
            return


def _one_process(
    sections: Sequence[Section], scope: Scope, known: set[str], start_limit: float
) -> Generator[SectionEvent, None, bool]:
    """Pass on a process's events, and note which measurements it has seen to.

    Returns:
        Whether it came to the end.
    """
    section, current, limit = sections[0].name, "the process", start_limit
    hangs = True
    with _process(sections, scope, known) as (process, events):
        while True:
            if not events.poll(limit):
                if hangs:
                    why = f"hangs: no end within {limit:.0f} s"
                    yield section, FailedMeasurement(current, why, [])
                else:
                    why = f"out of time: not done within {limit:.0f} s"
                    yield section, LeftOut(current, why, late=True)
                process.kill()
                return False
            try:
                message: SectionEvent | None = events.recv()
            except EOFError:
                process.join(_END_LIMIT)
                why = f"crash: {_describe_exit(process.exitcode)}"
                yield section, FailedMeasurement(current, why, [])
                return False
            if message is None:
                return True
            section, event = message
            known.add(event.what)
            current, limit, hangs = "the process", start_limit, True
            if isinstance(event, Begun):
                current, limit, hangs = event
            yield message
            if isinstance(event, FailedMeasurement):
                return False


@contextmanager
def _process(
    sections: Sequence[Section], scope: Scope, known: Set[str]
) -> Iterator[tuple[BaseProcess, Connection]]:
    context = get_context("spawn")  # a fork can't use CUDA
    events, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_child, args=(theirs, sections, scope, frozenset(known))
    )
    process.start()
    theirs.close()  # or its end would not be seen
    try:
        yield process, events
        process.join(_END_LIMIT)
    finally:
        if process.is_alive():
            process.kill()
            process.join()
        events.close()


def _child(
    events: Connection,
    sections: Sequence[Section],
    scope: Scope,
    skip: frozenset[str],
) -> None:
    os.dup2(2, 1)  # the last line of stdout is the parent's
    set_start_method(None, force=True)  # or pil's workers would be spawned, too: slow
    for name, event in measure(sections, scope, skip):
        events.send((name, event))
        if isinstance(event, FailedMeasurement):
            return
    events.send(None)


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "it does not end"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"exit code {code}"
