"""The time that is left of ``--seconds``, and how it is said that there was none."""

from __future__ import annotations

import time
from typing import NamedTuple

NO_TIME = "no time was left; more --seconds measure it"


class Deadline(NamedTuple):
    """The end of some work.

    Attributes:
        at: when that is, on the clock of ``time.monotonic``, s.
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The end of so many seconds from now on."""
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds until then; 0 where it has passed."""
        return max(self.at - time.monotonic(), 0.0)
