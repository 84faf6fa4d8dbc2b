"""A time within which something must end, in this process."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from torture.campaign import Fault


@contextlib.contextmanager
def in_time(seconds: int) -> Iterator[None]:
    """Raise ``Fault`` in the main thread where the block takes longer."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Fault(f"hangs: no end within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
