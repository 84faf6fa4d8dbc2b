"""Entrants for tests of the race; its processes import this, which imports no torch."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.entrant import Round


class Steady:
    """Takes the seconds it is told, and notes when it ran."""

    def __init__(self, name: str, notes: Path, seconds: float = 0.01) -> None:
        self.name, self.notes, self.seconds = name, notes, seconds

    def check(self) -> str:
        return "exact"

    def run_round(self, number: int, first_only: bool = False) -> Round:
        with self.notes.open("a") as file:
            file.write(f"{self.name} {number}\n")
        time.sleep(self.seconds)
        return Round(10, self.seconds, self.seconds / 2)


@contextmanager
def steady(name: str, notes: Path, seconds: float = 0.01) -> Iterator[Steady]:
    yield Steady(name, notes, seconds)


OPENING = 0.3  # seconds


@contextmanager
def slow_to_open() -> Iterator[Opened]:
    time.sleep(OPENING)
    yield Opened()


@contextmanager
def writing(file: Path) -> Iterator[Opened]:
    """Makes a format of its own when it is opened."""
    file.write_text("pixels")
    yield Opened()


class Opened:
    """Has its first batch at once."""

    def check(self) -> str:
        return "exact"

    def run_round(self, number: int, first_only: bool = False) -> Round:
        return Round(10, 0.002, 0.001)


@contextmanager
def burning() -> Iterator[Burning]:
    yield Burning()


class Burning(Steady):
    """Uses 0.2 s of processor time in each round, and 60 MB."""

    def __init__(self) -> None:
        pass

    def run_round(self, number: int, first_only: bool = False) -> Round:
        end = time.process_time() + 0.2
        held = bytearray(b"x") * 60_000_000
        while time.process_time() < end:
            pass
        del held
        return Round(100, 0.2, 0.2)


class Ahead(Burning):
    """Goes on working behind its back, as a loader does that prefetches."""

    def __init__(self) -> None:
        self.done = 0
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            time.sleep(0.001)
            self.done += 1

    def run_round(self, number: int, first_only: bool = False) -> Round:
        before, self.done = self.done, 0
        time.sleep(0.01)
        return Round(before + 1, 1.0, 1.0)


@contextmanager
def ahead() -> Iterator[Ahead]:
    yield Ahead()


class Dying(Burning):
    """Its process ends in the second round."""

    def run_round(self, number: int, first_only: bool = False) -> Round:
        if number == 2:
            os._exit(3)
        return Round(1, 1.0, 1.0)


@contextmanager
def dying() -> Iterator[Dying]:
    yield Dying()


@contextmanager
def not_there() -> Iterator[Burning]:
    import a_peer_that_nobody_has_installed  # noqa: F401

    yield Burning()


@contextmanager
def hanging() -> Iterator[Burning]:
    time.sleep(600)
    yield Burning()
