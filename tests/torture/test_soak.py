"""What a soak calls growth, short soaks, and that a leak is seen."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import soak
from bench.soak import LIMITS, SOAKS, Level, Soak, excess, growth, soak_shards
from bench.soak_plot import draw
from bench.soak_results import (
    Soaked,
    SoakResults,
    gather_results,
    read_results,
    write_results,
)
from loaders import LOADERS, available
from torture.campaign import Case
from torture.child import in_child
from torture.soak import Soaking

QUIET = Level(0, 700.0, 250.0, 2, 17, 9, 1400)
CHANGES = ("memory_mb", "children_mb", "mappings")


def levels(number: int = 60, **per_round: float) -> list[Level]:
    """A thousand rounds with a warm-up and noise, and what is lost in each."""
    rng = np.random.default_rng(number)
    made = []
    for done in np.linspace(1000 / number, 1000, number).astype(int).tolist():
        warmth = -30 * np.exp(-done / 50)
        noise = {
            "memory_mb": 700 + warmth + rng.normal(0, 1),
            "children_mb": 250 + rng.normal(0, 1),
            "mappings": 1400 + int(rng.integers(-6, 7)),
            "threads": 9 + int(rng.random() < 0.1),  # one that is about to end
        }
        lost = {name: int(done * each) for name, each in per_round.items()}
        both = {n: v + lost.get(n, 0) for n, v in {**_counts(), **noise}.items()}
        made.append(replace(QUIET, round=done, **both))
    return made


def _counts() -> dict[str, int]:
    return {"children": 2, "descriptors": 17}


def test_warm_up_and_noise_are_no_growth() -> None:
    assert excess(levels()) == []
    assert set(growth(levels())) == set(LIMITS)


@pytest.mark.parametrize(
    ("name", "each"),
    [
        ("memory_mb", 0.01),
        ("children_mb", 0.01),
        ("descriptors", 0.005),
        ("threads", 0.005),
        ("children", 0.004),
        ("mappings", 0.02),
    ],
)
def test_what_grows_is_named(name: str, each: float) -> None:
    (text,) = excess(levels(**{name: each}))
    assert text.startswith(f"{name} by ")
    assert text.endswith("over 1,000 rounds")


class Leaky:
    """Stands in for a loader that leaves something behind in each epoch."""

    def __init__(self, leak: Callable[[], object]) -> None:
        self._leak = leak

    def __len__(self) -> int:
        return 3

    def epoch(self, number: int, *, then: int | None = None) -> Iterator[int]:
        self._leak()
        yield from range(3)

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("nothing", "epochs"),
        ("memory", "epochs"),
        ("descriptor", "abandoned"),
        ("thread", "opened"),
        ("map", "opened"),
    ],
)
def test_leaks_are_seen(
    what: str, kind: soak.Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[object] = []
    ended = threading.Event()

    def leak() -> None:
        if what == "memory":
            # Not of malloc, which may have as much from what others have freed.
            kept.append(mmap.mmap(-1, 400_000))
            kept[-1].write(os.urandom(400_000))  # type: ignore[attr-defined]
        elif what == "descriptor":
            kept.append(os.open(tmp_path, os.O_RDONLY))
        elif what == "thread":
            kept.append(threading.Thread(target=ended.wait, daemon=True))
            kept[-1].start()  # type: ignore[attr-defined]
        elif what == "map":
            kept.append(mmap.mmap(-1, 4096, prot=mmap.PROT_READ))
            kept.append(mmap.mmap(-1, 4096))  # or the system would make one of them

    monkeypatch.setattr(soak, "_SAMPLES", 15)
    monkeypatch.setattr(soak, "make_loader", lambda *_: Leaky(leak))
    try:
        grown = excess(soak.soak(Soak("turbo", kind, rounds=60), tmp_path, tmp_path))
    finally:
        ended.set()
        for each in kept:
            if isinstance(each, int):
                os.close(each)
    found = {text.partition(" ")[0] for text in grown}
    names = {"memory": "memory_mb", "descriptor": "descriptors", "map": "mappings"}
    assert names.get(what, f"{what}s") in found if what != "nothing" else not found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return soak_shards(tmp_path_factory.mktemp("soak"), 16)


def test_a_short_soak_of_turbo_finds_nothing(small: Path, tmp_path: Path) -> None:
    what = Soak("turbo", "epochs", soak.FOLDER, rounds=20)
    seen = in_child(soak.soak, what, small, tmp_path / "images", seconds=120)
    assert [level.round for level in seen] == list(range(1, 21))
    assert excess(seen) == []
    assert (tmp_path / "images").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("name", available())
def test_short_soaks_find_nothing(name: str, small: Path, tmp_path: Path) -> None:
    for kind in soak.WAYS:
        what = Soak(name, kind, rounds=30, workers=0 if name == "pil" else None)
        assert not excess(in_child(soak.soak, what, small, tmp_path, seconds=200))


def test_every_loader_is_soaked_in_every_way() -> None:
    done = {(what.loader, what.kind) for what in SOAKS if what.rounds == 1000}
    assert done == {(name, kind) for name in LOADERS for kind in soak.WAYS}
    caches = {(what.loader, what.cache) for what in SOAKS if what.kind == "epochs"}
    assert caches == {
        (name, cache)
        for name, entry in LOADERS.items()
        for cache in (None, soak.MEMORY, soak.FOLDER)
        if entry.caches or cache is None
    }
    large = {
        what.loader for what in SOAKS if (what.images, what.rounds) == (28_100, 20)
    }
    assert large == set(LOADERS)
    assert len({what.name for what in SOAKS}) == len(SOAKS)


def test_growth_is_a_fault_of_the_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = Soaking(rounds=5)
    campaign.prepare(tmp_path)
    monkeypatch.setattr("torture.soak.soak_shards", lambda *_: tmp_path)
    monkeypatch.setattr("torture.soak.in_child", lambda *_, **__: levels(threads=0.1))
    number = next(n for n, what in enumerate(SOAKS) if what.loader == "turbo")
    with pytest.raises(AssertionError, match=r"turbo: .*grows, threads by"):
        campaign.run(Case(1, "soak", number, tmp_path))
    monkeypatch.setattr("torture.soak.in_child", lambda *_, **__: levels())
    assert campaign.run(Case(1, "soak", number, tmp_path)) == {"epochs": 5}


def test_results_are_read_back_and_drawn(tmp_path: Path) -> None:
    soaks = [
        Soaked(Soak("turbo", kind), levels(20, mappings=0.1)) for kind in soak.WAYS
    ]
    results = SoakResults("a machine", "2026-11-30", soaks)
    write_results(tmp_path / "soak.json", results)
    again = read_results(tmp_path / "soak.json")
    assert [each.what for each in again.soaks] == [each.what for each in soaks]
    assert [each.excess for each in again.soaks] == [each.excess for each in soaks]
    assert again.totals().epochs == again.totals().opened == 1000
    assert again.totals().images == 16_000
    draw(again, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000


def test_campaign_keeps_its_soaks_and_they_are_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, kept = Soaking(), tmp_path / "kept"
    campaign.prepare(tmp_path)
    monkeypatch.setattr("torture.soak.KEPT", kept)
    monkeypatch.setattr("torture.soak.soak_shards", lambda *_: tmp_path)
    monkeypatch.setattr("torture.soak.in_child", lambda *_, **__: levels())
    for number in (1, 0, 1):
        campaign.run(Case(1, "soak", number, tmp_path))
    assert [each.what for each in gather_results(kept).soaks] == list(SOAKS[:2])
    other = SoakResults("another machine", "2026-11-30", [Soaked(SOAKS[2], levels())])
    write_results(kept / "02.json", other)
    with pytest.raises(ValueError, match="of one day and machine"):
        gather_results(kept)
