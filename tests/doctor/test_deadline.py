"""``--seconds`` is kept to, on a clock that only what is measured moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_up_measurements import measured
from small_runs import call

from fastretina.doctor import command as doctor
from fastretina.doctor import loader_rates, notes, storage
from fastretina.doctor.deadline import NO_TIME, Deadline
from fastretina.doctor.loader_rates import measure_loading
from fastretina.doctor.measurements import TrainingRates
from fastretina.doctor.setup import LoadingSetup, TrainingSetup
from fastretina.doctor.training_rates import measure_training
from fastretina.measure import rounds as measure_rounds
from fastretina.nn.device import Compute
from loaders import LOADERS, Batch, LoaderConfig

TIMED = (
    "doctor.deadline",
    "doctor.loader_rates",
    "doctor.step_batch",
    "doctor.storage",
    "doctor.training_rates",
    "measure.ceilings",
    "measure.rounds",
)


class Clock:
    """A time that passes only where somebody spends it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    time = SimpleNamespace(monotonic=clock, perf_counter=clock)
    for module in TIMED:
        monkeypatch.setattr(f"fastretina.{module}.time", time)
    return clock


def batch_of(images: int) -> Batch:
    rows = torch.arange(images)
    return Batch(torch.zeros(images, 2, 2, 3, dtype=torch.uint8), rows % 5, rows)


class SlowLoader:
    """Takes some seconds to open, and for each image."""

    def __init__(self, clock: Clock, each: float, images: int, size: int) -> None:
        self._clock, self._each = clock, each
        self._sizes = [min(size, images - n) for n in range(0, images, size)]

    def __enter__(self) -> SlowLoader:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def epoch(self, number: int) -> Iterator[Batch]:
        for size in self._sizes:
            self._clock.spend(size * self._each)
            yield batch_of(size)


# ------------------------------------------------------------------------- training

Trains = Callable[[float, float], TrainingRates]


@pytest.fixture
def trains(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Trains:
    """Measure training for some seconds, where an image takes so long to train on."""

    def run(seconds: float, each: float) -> TrainingRates:
        def make(case: Any, compute: object) -> Callable[[int, Batch], None]:
            cost = each if case.phase == "full" else each / 3

            def step(number: int, batch: Batch) -> None:
                clock.spend(cost * len(batch.labels))

            return step

        @contextmanager
        def opened(size: int) -> Iterator[SlowLoader]:
            clock.spend(0.3)
            yield SlowLoader(clock, 0.001, 1000, size)

        monkeypatch.setattr("fastretina.doctor.step_batch.make_step", make)
        compute = Compute(torch.device("cpu"), None)
        setup = TrainingSetup("resnet18", (8, 8), compute, 32, seconds, lambda _: None)
        loader: Any = SimpleNamespace(open=opened)
        return measure_training(setup, loader)

    return run


@pytest.mark.parametrize("seconds", [2, 4, 12, 24])
@pytest.mark.parametrize("each", [0.0005, 0.01, 0.09, 0.7, 6])
def test_training_keeps_to_its_time_but_for_single_steps(
    trains: Trains, clock: Clock, seconds: float, each: float
) -> None:
    begun = clock.now
    trains(seconds, each)
    # Two steps of one image of the whole network and one of the head alone are the
    # least, and how long an image takes is known after the first.
    assert clock.now - begun <= max(1.1 * seconds, 0.3 * seconds + 2.4 * each) + 0.4


@pytest.mark.parametrize("each", [0.0005, 0.01, 0.09])
def test_end_to_end_is_measured_where_time_allows(trains: Trains, each: float) -> None:
    rates = trains(24, each)
    assert set(rates.end_to_end) == {"head", "full"}
    assert rates.batch == (32 if each < 0.04 else 16)
    assert rates.step["full"].rounds >= 3
    assert rates.step["full"].images_per_second == pytest.approx(1 / each)


def test_what_training_has_no_time_for_is_left_out_and_named(trains: Trains) -> None:
    rates = trains(4, 6)
    assert rates.batch == 1
    assert rates.end_to_end == {}
    assert rates.step["full"].images_per_second == pytest.approx(1 / 6)
    one = measured()
    one = replace(one, training=replace(one.training, end_to_end={}))
    assert one.not_measured == {
        "end to end, head": NO_TIME,
        "end to end, full": NO_TIME,
    }
    assert notes.absent_loader_notes(one)[1] == (
        "Not measured: end to end, full (no time was left; more --seconds measure it)."
    )
    assert one.summary()["not_measured"] == one.not_measured


# -------------------------------------------------------------------------- loading

# Seconds to open, and seconds an image; pil is slow and DALI takes time to be built.
LOADERS_COST = {
    "pil": (0.2, 4.0),
    "turbo": (0.01, 1.1),
    "dali": (0.8, 1.3),
    "dali-reader": (0.8, 1.3),
    "webdataset": (0.1, 1.2),
}
Loads = Callable[[float, float], Any]


@pytest.fixture
def loads(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Loads:
    """Measure loading for some seconds, where an image takes so long to decode."""

    def run(seconds: float, each: float) -> Any:
        class Part:
            rows = np.arange(1000)

            def __init__(self, images: int) -> None:
                self.images = min(images, 1000)

            def read(self, row: int) -> bytes:
                return b"jpeg"

        @contextmanager
        def part(images: int = 1000) -> Iterator[Part]:
            yield Part(images)

        def make(name: str, part: Part, split: str, config: LoaderConfig) -> SlowLoader:
            opening, times = LOADERS_COST[name]
            clock.spend(opening)
            cost = times * each / (config.workers or 1)
            return SlowLoader(clock, cost, part.images, config.batch_size)

        def decode(jpegs: Sequence[bytes], threads: int) -> float:
            clock.spend(len(jpegs) * each / threads)
            return threads / each

        monkeypatch.setattr(loader_rates, "make_loader", make)
        monkeypatch.setattr(loader_rates, "missing", lambda name: None)
        monkeypatch.setattr(loader_rates, "decode_only", decode)
        monkeypatch.setattr(loader_rates.page_cache, "drop", lambda files: False)
        monkeypatch.setattr(measure_rounds, "Normaliser", lambda: lambda images: None)
        shards: Any = SimpleNamespace(
            part=part, rows=np.arange(1000), files=lambda n: [], image_size=None
        )
        images = min(max(int(0.04 * seconds / each), 16), 512)
        setup = LoadingSetup(
            shards=shards,
            jpegs=[b"jpeg"] * images,
            compute=Compute(torch.device("cpu"), None),
            batch_size=32,
            cores=2,
            seconds=seconds,
            deadline=Deadline.after(seconds),
            progress=lambda what: None,
        )
        return measure_loading(setup)

    return run


@pytest.mark.parametrize("seconds", [4, 13, 27])
@pytest.mark.parametrize("each", [0.0004, 0.004, 0.04])
def test_loading_keeps_to_its_time_but_for_single_epochs(
    loads: Loads, clock: Clock, seconds: float, each: float
) -> None:
    begun = clock.now
    rates = loads(seconds, each)
    # The least are an epoch of pil, and two of the first other one and of the best one,
    # each of two batches: 64 images.
    least = 64 * each * (2 + 2 * 0.55 + 2 * 0.55)
    assert clock.now - begun <= max(1.2 * seconds, 0.5 * seconds + least) + 1.0
    assert rates.ready is not None
    measured = {one.loader for one in rates.batch}
    left_out = {one.loader for one in rates.not_measured}
    assert measured | left_out == set(LOADERS)
    assert {one.reason for one in rates.not_measured} <= {NO_TIME}


def test_every_loader_is_measured_where_there_is_time(loads: Loads) -> None:
    rates = loads(27, 0.0004)
    assert {one.loader for one in rates.batch} == set(LOADERS)
    assert not rates.not_measured


def test_loader_without_time_is_named(loads: Loads) -> None:
    """The slowest goes first, and takes no more than leaves time for another one."""
    rates = loads(4, 0.04)
    assert [one.loader for one in rates.batch] == ["turbo"]
    assert [(one.loader, one.reason) for one in rates.not_measured] == [
        (name, NO_TIME) for name in ("pil", "dali", "dali-reader", "webdataset")
    ]


@pytest.mark.parametrize(
    ("seconds", "each", "images"), [(1.6, 0.005, 32), (1.6, 0.05, 4), (0.01, 0.5, 1)]
)
def test_as_many_images_are_encoded_anew_as_there_is_time_for(
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    each: float,
    images: int,
) -> None:
    def decode(jpegs: Sequence[bytes], threads: int) -> float:
        clock.spend(len(jpegs) * each / threads)
        return threads / each

    monkeypatch.setattr(storage, "decode_only", decode)
    assert storage._how_many(b"jpeg", 2, seconds) == images


# ------------------------------------------------------------------------ the command


@pytest.mark.parametrize(
    ("asked", "took", "noted"),
    [(60, 61, False), (60, 67.9, False), (60, 68.1, True), (10, 13.1, True)],
)
def test_time_beyond_what_was_asked_for_is_explained(
    asked: float, took: float, noted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor._note_if_late(took, asked)
    line = f"note: it took {took:.0f} s, not {asked}: the least of each stage takes "
    err = capsys.readouterr().err
    assert err.startswith(line) if noted else not err


def test_time_of_the_imports_is_not_measured_on_top(
    monkeypatch: pytest.MonkeyPatch, tmp_path, capsys, clock: Clock
) -> None:
    """What inspecting the installation takes, imports included, is gone."""
    asked: list[float] = []

    def inspect(busy: object) -> list[Any]:
        clock.spend(6)
        return [SimpleNamespace(name="a", state="ok", line="b")]

    def examine(examination: Any) -> object:
        asked.append(examination.deadline.left)
        raise KeyboardInterrupt

    ok = SimpleNamespace(name="load", state="ok", line="")
    monkeypatch.setattr("fastretina.doctor.installation.inspect", inspect)
    monkeypatch.setattr("fastretina.doctor.installation.look_if_busy", lambda: ok)
    monkeypatch.setattr("fastretina.doctor.examination.examine", examine)
    monkeypatch.chdir(tmp_path)
    call(doctor.main, ["--seconds", "30", "--device", "cpu"], capsys)
    assert asked == [pytest.approx(30 - 6 - 2)]


def test_chart_is_asked_for_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path, capsys
) -> None:
    def examine(examination: object) -> object:
        raise AssertionError("not to be measured")

    monkeypatch.setattr("fastretina.doctor.examination.examine", examine)
    (tmp_path / "d.png").mkdir()
    outcome = call(doctor.main, ["--out", str(tmp_path / "d.png")], capsys)
    assert (outcome.code, outcome.out) == (1, [])
    assert outcome.err == [
        f"error: --out {tmp_path}/d.png can't be written (Is a directory): name "
        "another file"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["d.png"]
