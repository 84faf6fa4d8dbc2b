"""What a process grows by over a thousand epochs: memory, descriptors, threads, maps.

A soak runs in a process of its own, which looks at itself between rounds;
``bench.soak_run`` runs them all.
"""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import simplejpeg
from scipy.stats import theilslopes

from bench.course_folder import LabelledJpeg, write_course_folder
from fastretina.shard import command as shard
from loaders import LOADERS, Loader, LoaderConfig, make_loader
from loaders.shards import MANIFEST

Way = Literal["epochs", "abandoned", "opened"]
WAYS: tuple[Way, ...] = ("epochs", "abandoned", "opened")
WHAT: dict[Way, str] = {
    "epochs": "epochs",
    "abandoned": "epochs left midway",
    "opened": "loaders opened and closed",
}
LARGE = 28_100  # images: the course's train split
MEMORY, FOLDER = (
    "memory",
    "DIR",
)  # the latter stands for a folder of images that are kept, as in --cache DIR

WARM = 0.25  # share of the rounds that do not count: malloc's arenas fill
_SAMPLES = 60  # levels of a soak
_SIDE = 64  # pixels
_DRAWN = 256  # different images, which repeat
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Level:
    """What a process holds between two rounds.

    Attributes:
        round: rounds done.
        memory_mb: its memory, resident or swapped out, less that of files, MB: pages of
            libraries come and go as the system has room.
        children_mb: the same of its worker processes, shared pages shared out (PSS).
        children: number of these.
        descriptors: number of its open files, sockets and so on.
        threads: number of its threads.
        mappings: lines of its ``/proc/self/maps``.
    """

    round: int
    memory_mb: float
    children_mb: float
    children: int
    descriptors: int
    threads: int
    mappings: int


# What a soak may grow by, over all of its rounds; see ``growth``.
LIMITS = {
    "memory_mb": 4.0,
    "children_mb": 4.0,
    "children": 0.0,
    "descriptors": 0.0,
    "threads": 0.0,
    "mappings": 8.0,
}


@dataclass(frozen=True, slots=True)
class Soak:
    """What is soaked.

    Attributes:
        loader: one of ``loaders.LOADERS``.
        kind: whether its epochs are taken to their ends by one loader, left at a batch
            that is drawn, or taken by loaders that are opened and closed around each.
        cache: as in ``LoaderConfig``; ``FOLDER`` for any folder.
        rounds: epochs, or loaders.
        images: in the data set.
        workers: as in ``LoaderConfig``.
        batch_size: as in ``LoaderConfig``.
    """

    loader: str
    kind: Way
    cache: str | None = None
    rounds: int = 1000
    images: int = 16
    workers: int | None = None
    batch_size: int = 4

    @property
    def name(self) -> str:
        """For a table and a plot."""
        workers = "" if self.workers is None else f", workers {self.workers}"
        kept = "" if self.cache is None else f", cache {self.cache}"
        what = f"{self.rounds:,} {WHAT[self.kind]} of {self.images:,} images"
        return f"{self.loader}{workers}{kept}: {what}"


def _all_soaks() -> tuple[Soak, ...]:
    """Every loader in every way, every cache under every loader that has one.

    Pillow decodes in the process itself, and in two workers besides: these take 50 to
    100 ms to begin, so where every round begins them, a tenth of the rounds.
    """
    soaks = [
        Soak(loader, "epochs", rounds=20, images=LARGE, batch_size=32)
        for loader in LOADERS
    ]
    soaks += [
        Soak("turbo", "epochs", cache, rounds=20, images=LARGE, batch_size=32)
        for cache in (MEMORY, FOLDER)
    ]
    for loader, entry in LOADERS.items():
        for cache in (None, MEMORY, FOLDER) if entry.caches else (None,):
            alike = cache is not None and loader not in ("turbo", "dali")
            for kind in WAYS[:1] if alike else WAYS:
                workers = 0 if loader == "pil" else None
                soaks.append(Soak(loader, kind, cache, workers=workers))
    soaks.append(Soak("pil", "epochs", workers=2))
    soaks += [Soak("pil", kind, rounds=100, workers=2) for kind in WAYS[1:]]
    return tuple(soaks)


def look(done: int) -> Level:
    """This process as it is between two rounds."""
    gc.collect()
    me = psutil.Process()
    children = me.children(recursive=True)
    with open("/proc/self/maps", "rb") as file:
        mappings = sum(1 for _ in file)
    return Level(
        round=done,
        memory_mb=_listed("self/status", "RssAnon", "RssShmem", "VmSwap"),
        children_mb=sum(
            _listed(f"{child.pid}/smaps_rollup", "Pss_Anon", "Pss_Shmem", "SwapPss")
            for child in children
        ),
        children=len(children),
        descriptors=me.num_fds(),
        threads=me.num_threads(),
        mappings=mappings,
    )


def _listed(name: str, *wanted: str) -> float:
    """The sum of some lines of a file of /proc, MB."""
    with open(f"/proc/{name}") as file:
        found = dict(line.split(":", 1) for line in file if ":" in line)
    return sum(int(found[name].split()[0]) for name in wanted) * 1024 / _MB


def soak(what: Soak, shards: Path, kept: Path) -> list[Level]:
    """Run a soak in this process, which should do nothing else.

    Args:
        what: the soak.
        shards: folder of the data set.
        kept: folder for images, where it keeps them in one.
    """
    config = LoaderConfig(
        batch_size=what.batch_size,
        shuffle=True,
        hflip=0.5,
        vflip=0.5,
        workers=what.workers,
        cache=kept if what.cache == FOLDER else what.cache,
    )

    def open_loader() -> Loader:
        return make_loader(what.loader, shards, "train", config)

    every = max(what.rounds // _SAMPLES, 1)
    gc.collect()
    gc.freeze()  # or each look would search all that is imported
    levels = []
    for done in _ROUNDS[what.kind](open_loader, what.rounds):
        if done % every == 0:
            levels.append(look(done))
    return levels


def _epochs(open_loader: Callable[[], Loader], rounds: int) -> Iterator[int]:
    with closing(open_loader()) as loader:
        for number in range(rounds):
            _take(loader.epoch(number, then=number + 1), loader)
            yield number + 1


def _abandoned(open_loader: Callable[[], Loader], rounds: int) -> Iterator[int]:
    rng = np.random.default_rng(rounds)
    with closing(open_loader()) as loader:
        for number in range(rounds):
            epoch = loader.epoch(number, then=number + 1)
            for _ in range(rng.integers(1, max(len(loader), 2))):
                next(epoch)
            del epoch
            yield number + 1


def _opened(open_loader: Callable[[], Loader], rounds: int) -> Iterator[int]:
    for number in range(rounds):
        with closing(open_loader()) as loader:
            _take(loader.epoch(number), loader)
        del loader
        yield number + 1


def _take(epoch: Iterator[object], loader: Loader) -> None:
    taken = sum(1 for _ in epoch)
    assert taken == len(loader), f"{taken} batches of {len(loader)}"


_ROUNDS: dict[Way, Callable[[Callable[[], Loader], int], Iterator[int]]] = {
    "epochs": _epochs,
    "abandoned": _abandoned,
    "opened": _opened,
}


def growth(levels: list[Level]) -> dict[str, float]:
    """What a soak has grown by over its rounds, those of the warm-up left out.

    Of memory and mappings, the Theil-Sen slope times the rounds, as no few samples sway
    that; of what is counted, the median of the last third beyond the most of the first,
    as a thread that is about to end may be seen at any look.
    """
    warm = levels[int(WARM * len(levels)) :]
    rounds = np.array([level.round for level in warm], np.float64)
    third = max(len(warm) // 3, 1)
    grown = {}
    for name in LIMITS:
        values = np.array([getattr(level, name) for level in warm], np.float64)
        if name in ("memory_mb", "children_mb", "mappings"):
            slope = theilslopes(values, rounds).slope
            grown[name] = float(slope * (rounds[-1] - rounds[0]))
        else:
            beyond = np.median(values[-third:]) - values[:third].max()
            grown[name] = max(float(beyond), 0.0)
    return grown


def excess(levels: list[Level]) -> list[str]:
    """What has grown beyond noise, a phrase each."""
    grown = growth(levels)
    return [
        f"{name} by {grown[name]:.3g} over {levels[-1].round:,} rounds"
        for name, most in LIMITS.items()
        if grown[name] > most
    ]


def soak_shards(cache: Path, images: int) -> Path:
    """Shards of so many small photographs, made once; returns their folder."""
    folder = cache / f"soak-{images}"
    if (folder / MANIFEST).exists():
        return folder
    rng = np.random.default_rng(images)
    drawn = []
    for _ in range(min(images, _DRAWN)):
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        image = coarse.repeat(_SIDE // 8, axis=0).repeat(_SIDE // 8, axis=1)
        drawn.append(simplejpeg.encode_jpeg(image, quality=90, colorsubsampling="420"))
    photographs = cache / f"soak-{images}-photographs"
    splits = {"train": range(images), "test": range(images, images + 1)}
    write_course_folder(
        photographs,
        {
            name: (
                LabelledJpeg(f"{n}_left", drawn[n % len(drawn)], n % 5) for n in numbers
            )
            for name, numbers in splits.items()
        },
    )
    with redirect_stdout(sys.stderr):
        shard.write(
            shard.Options(
                data=photographs,
                shards=folder,
                samples_per_shard=min(512, -(-images // 2)),
                overwrite=True,
            )
        )
    shutil.rmtree(photographs)
    return folder


SOAKS = _all_soaks()
