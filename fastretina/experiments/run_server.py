"""Imported before all else by the server that forks runs: it ends with its parent.

It would notice the end of the process that has begun it only after all of its imports,
which take seconds. What it forks is not bound by this; see ``worker``.
"""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal to get at the parent's end


def end_with_parent() -> None:
    """Have this process killed at the end of the one that began it, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


end_with_parent()
