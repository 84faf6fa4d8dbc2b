"""What a campaign is: cases of one kind of fault, each decided by seed and number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from zlib import crc32

import numpy as np

Counts = Mapping[str, int]


class Fault(AssertionError):
    """What may not happen has happened; the text says what, in one line."""


@dataclass(frozen=True, slots=True)
class Case:
    """One attempt.

    Attributes:
        seed: of the whole run.
        campaign: the campaign's name.
        number: of the case within it, from 0.
        folder: an empty folder of its own, which is removed afterwards.
    """

    seed: int
    campaign: str
    number: int
    folder: Path

    def rng(self) -> np.random.Generator:
        """Draws that depend on the seed, the campaign and the number alone."""
        return np.random.default_rng(
            [self.seed, crc32(self.campaign.encode()), self.number]
        )


class Campaign(Protocol):
    """Cases of one kind.

    Attributes:
        name: as in ``ONLY=name`` and in the JSON line.
        share: of the run's minutes, beside the other campaigns' shares.
        least: cases that the long form runs even where its minutes are over.
        in_tests: cases that ``make test`` runs, in a few seconds altogether.
    """

    name: str
    share: float
    least: int
    in_tests: int

    def prepare(self, folder: Path) -> None:
        """Make what all cases share, in a folder that stays until ``close``."""

    def run(self, case: Case) -> Counts:
        """Run one case.

        Returns:
            What to add up over all cases, e.g. ``{"kills": 3}``.

        Raises:
            Fault: what may not happen has happened.
            Skip: the case can't be had on this machine.
        """

    def close(self) -> None:
        """Let go of whatever ``prepare`` has made."""


class Skip(Exception):
    """A case that this machine can't run; the text is the reason."""
