"""Ctrl-C and SIGTERM that are never lost; and stopping between two steps.

Both end a command in the same way: what can be is saved, one line says so, and the exit
code is 130.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MOMENT = 0.05  # seconds
_STDERR = 2
_IMPORT = 2.5  # seconds that an import is waited for


class Interrupted(Exception):
    """Raised at the next safe place after a signal has asked to stop."""


class InsistentInterrupt(KeyboardInterrupt):
    """A signal that comes again where it is swallowed, as in a destructor or an import.

    Python exits by the signal itself, not with 130, once a plain ``KeyboardInterrupt``
    has come up through ``exec``, as dataclasses use it; not so with this one.
    """

    def __init__(self, heeding: Heeding) -> None:
        super().__init__()
        self._heeding = heeding

    def __del__(self) -> None:
        self._heeding.insist()


class Heeding:
    """Whether a signal must still end what runs.

    Attributes:
        done: it has, or all is done.
    """

    def __init__(self, *, owns_process: bool = False) -> None:
        """Begin with nothing to heed.

        Args:
            owns_process: whether the process is the command's alone, to be ended.
        """
        self.done = False
        self._owns_process = owns_process
        self._waits = False
        self._waits_since = math.inf  # on the monotonic clock
        self._process = os.getpid()
        self._number: int = signal.SIGINT

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler: interrupt, but not while that is being told of.

        Nor while a module is imported, which the interrupt waits for: torch, raised in
        where its C++ calls Python, ends by ``std::terminate``. Where that takes longer,
        as on a slow disk, the process ends without a clean-up, as by ``kill -9``, after
        which every command goes on.
        """
        self._number = number
        self._waits = _is_importing(frame)
        if self._waits:
            self._waits_since = min(self._waits_since, time.monotonic())
            waited = time.monotonic() - self._waits_since
            if waited > _IMPORT and self._owns_process and not self.done:
                os.write(_STDERR, b"interrupted\n")
                os._exit(130)
            self.insist()
        elif not self.done:
            raise InsistentInterrupt(self)

    def check(self) -> None:
        """Interrupt now, if one has waited for an import that is over."""
        if self._waits and not self.done:
            raise InsistentInterrupt(self)

    def insist(self) -> None:
        """Interrupt again, a moment later, if that is still to be done.

        Not at once: that would be swallowed in the same place. And not in a child.
        """
        if not self.done and self._process == os.getpid():
            timer = threading.Timer(_MOMENT, self._send)
            timer.daemon = True
            timer.start()

    def _send(self) -> None:
        if not self.done:
            os.kill(self._process, self._number)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module's own code runs somewhere below what was interrupted."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def interrupts_heeded(*, to_the_end: bool = False) -> Iterator[Heeding]:
    """Within the block, a signal raises an ``InsistentInterrupt`` until it is heeded.

    Within another such block it is that one's. In a thread, or where a signal is
    ignored or handled otherwise, it stays as it is; SIGTERM does among ranks, too, as
    torchrun ends by it those that wait for one that has failed, which tells why.

    Args:
        to_the_end: the process ends after the block: signals are ignored then, as all
            is said, and they could but leave a traceback.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for handler in before.values():
        outer = getattr(handler, "__self__", None)
        if isinstance(outer, Heeding):
            yield outer
            return
    heeding, hook = Heeding(owns_process=to_the_end), sys.unraisablehook
    heeded = [number for number in SIGNALS if _ends_all(number, before[number])]
    if threading.current_thread() is not threading.main_thread():
        heeded = []
    if heeded:
        sys.unraisablehook = lambda ignored: _pass_on(ignored, hook)
    for number in heeded:
        signal.signal(number, heeding.interrupt)
    try:
        yield heeding
    finally:
        heeding.done = True
        for number in heeded:
            signal.signal(number, signal.SIG_IGN if to_the_end else before[number])
        if heeded:
            sys.unraisablehook = hook


def _ends_all(number: int, handler: object) -> bool:
    """Whether a signal is handled in Python's own way, and ours to heed."""
    if number == signal.SIGINT:
        return handler == signal.default_int_handler
    return handler == signal.SIG_DFL and os.environ.get("WORLD_SIZE", "1") == "1"


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Put signals off to the end of the block; processes started in it get none at all.

    They inherit the mask, which nothing but this thread heeds here: hence the handler.
    """
    from multiprocessing import resource_tracker  # which most commands don't need

    resource_tracker.ensure_running()  # or its start, in the block, would lift the mask
    held: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    in_main = threading.current_thread() is threading.main_thread()
    before = {}
    if in_main:
        before = {n: signal.signal(n, lambda n, _: held.append(n)) for n in SIGNALS}
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _pass_on(
    ignored: sys.UnraisableHookArgs, hook: Callable[[sys.UnraisableHookArgs], Any]
) -> None:
    """Say nothing of an interrupt in a destructor, as it comes again."""
    if not isinstance(ignored.exc_value, InsistentInterrupt):
        hook(ignored)


class Stopper:
    """Within its ``with`` block, the first signal is only noted.

    A second one interrupts at once, for those who will not wait for the step to end.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopper:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        """Whether a signal has come in."""
        return self._asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            before = self._before[signal.SIGINT]
            if callable(before):
                before(number, frame)  # which is insistent, within a command
            raise KeyboardInterrupt
        self._asked = True
