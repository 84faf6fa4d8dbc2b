"""Entrants that go wrong, for tests of the race; its processes import them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench.data import Data
from bench.delivery import Delivered, Delivery
from bench.race import Lap


class Steady:
    """Takes the seconds it is told, and notes when it ran."""

    def __init__(self, name: str, notes: Path, seconds: float = 0.01) -> None:
        self.name, self.notes, self.seconds = name, notes, seconds

    def check(self) -> str:
        return "exact"

    def lap(self, number: int, first_only: bool = False) -> Lap:
        with self.notes.open("a") as file:
            file.write(f"{self.name} {number}\n")
        time.sleep(self.seconds)
        return Lap(10, self.seconds, self.seconds / 2)


@contextmanager
def steady(name: str, notes: Path, seconds: float = 0.01) -> Iterator[Steady]:
    yield Steady(name, notes, seconds)


@contextmanager
def burning() -> Iterator[Burning]:
    yield Burning()


class Burning(Steady):
    """Uses 0.2 s of processor time in each lap, and 60 MB."""

    def __init__(self) -> None:
        pass

    def lap(self, number: int, first_only: bool = False) -> Lap:
        end = time.process_time() + 0.2
        held = bytearray(b"x") * 60_000_000
        while time.process_time() < end:
            pass
        del held
        return Lap(100, 0.2, 0.2)


class Ahead(Burning):
    """Goes on working behind its back, as a loader does that prefetches."""

    def __init__(self) -> None:
        self.done = 0
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            time.sleep(0.001)
            self.done += 1

    def lap(self, number: int, first_only: bool = False) -> Lap:
        before, self.done = self.done, 0
        time.sleep(0.01)
        return Lap(before + 1, 1.0, 1.0)


@contextmanager
def ahead() -> Iterator[Ahead]:
    yield Ahead()


class Dying(Burning):
    """Its process ends in the second lap."""

    def lap(self, number: int, first_only: bool = False) -> Lap:
        if number == 2:
            os._exit(3)
        return Lap(1, 1.0, 1.0)


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


@contextmanager
def delivering(data: Data, fault: str) -> Iterator[Delivery]:
    """The images of a data set by Pillow, with one fault."""
    from bench.data import number_of
    from loaders._pil import decode

    def epoch(number: int) -> Iterator[Delivered]:
        for place, file in enumerate(data.files):
            image = decode(
                file.read_bytes(), (place % 2 == 0, place % 3 == 0), (64, 64)
            )
            numbers = [number_of(file.name)]
            images = np.array(image)[None]
            if place == 3:
                if fault == "lost":
                    continue
                if fault == "twice":
                    images, numbers = np.concatenate([images] * 2), numbers * 2
                if fault == "channels":
                    images = images[..., ::-1].copy()
                if fault == "float":
                    images = images.astype(np.float32)
                if fault == "rounded":
                    images = np.where(images < 255, images + 1, images)
            if fault == "another" and place in (3, 4):
                numbers = [number_of(data.files[7 - place].name)]
            yield Delivered(images, numbers)

    yield Delivery(epoch, "batch", data)
