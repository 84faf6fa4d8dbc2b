"""Kept features train the head as passes through the backbone do, but only once."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from small_runs import Outcome, call, finish, log, make_small, metrics, start, words
from test_ranks import complaints
from test_ranks import train as train_on_ranks
from torch import nn

from fastretina.nn.checkpoint import load
from fastretina.nn.features import codes_of
from fastretina.train import command as train
from fastretina.train.loop import TrainingLoop
from loaders import ShardSplit
from loaders.order import flips

Trains = Callable[..., Outcome]
KEEP = "--cache-features"
STEP = "fastretina.train.loop:TrainingLoop._step"
# 37 photographs in batches of 8: five steps an epoch, the last of five.
FLIPS: list[object] = ["--recipe", "seed", "--head-batchnorm", "eval", "--amp", "off"]
HEAD: list[object] = [*FLIPS, "--head-epochs", 4, "--full-epochs", 0, "--head-lr", 0.05]


@pytest.fixture
def trains(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Trains:
    """Train a small network in this process: name of the run, then flags."""
    make_small(monkeypatch)

    def run(name: str, *more: object, data: Path = shards) -> Outcome:
        return call(train.main, words(data, tmp_path / name, *more), capsys)

    return run


def assert_same(kept: Path, plain: Path, off: float = 1e-5) -> None:
    """The same weights to rounding, and the same sums, counts and scores."""
    ours, theirs = (load_file(run / "weights.safetensors") for run in (kept, plain))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=off, atol=off, msg=name)
    for mine, other in zip(log(kept), log(plain), strict=True):
        for column, text in other.items():
            if column == "phase":
                assert mine[column] == text
            elif text:
                close = pytest.approx(float(text), rel=10 * off, abs=10 * off)
                assert float(mine[column]) == close, column
    for name in ("steps", "changed_parameters", "skipped", "decoded_again"):
        assert metrics(kept)[name] == metrics(plain)[name]


LOSSES: dict[str, list[object]] = {
    "weighed": ["--class-weights", "balanced", "--label-smoothing", 0.1, "--hflip", 1],
    "adamw": ["--optimizer", "adamw", "--schedule", "cosine", "--distance-cost", 0.1],
    "cached images": ["--cache", "memory", "--batch-size", 12, "--validation", 0.2],
}


@pytest.mark.parametrize("name", list(LOSSES))
def test_head_on_kept_features_ends_with_the_weights_of_passes(
    name: str, trains: Trains, tmp_path: Path
):
    assert trains("plain", *HEAD, *LOSSES[name]).code == 0
    assert trains("kept", *HEAD, *LOSSES[name], KEEP).code == 0
    assert_same(tmp_path / "kept", tmp_path / "plain")
    assert json.loads((tmp_path / "kept" / "config.json").read_text())["cache_features"]


def test_full_follows_a_head_on_kept_features(trains: Trains, tmp_path: Path):
    more = ["--head-epochs", 3, "--full-epochs", 2, "--ema-decay", 0.9]
    for name, flags in (("plain", []), ("kept", [KEEP])):
        assert trains(name, *FLIPS, *more, *flags).code == 0
    assert_same(tmp_path / "kept", tmp_path / "plain", 1e-4)


def test_bf16_features_are_kept_as_they_are_computed(
    trains: Trains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("fastretina.nn.device._has_bf16", lambda _: True)  # emulated
    for name, flags in (("plain", []), ("kept", [KEEP])):
        assert trains(name, *HEAD, "--amp", "bf16", *flags).code == 0
    assert_same(tmp_path / "kept", tmp_path / "plain", 2e-3)


class Work:
    """Counts what each epoch trains on: images read, and passed through conv1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: Counter[int] = Counter()
        self.passed: Counter[int] = Counter()
        self.sizes: list[int] = []
        self._epoch: int | None = None
        run_epoch, reading = TrainingLoop.run_epoch, ShardSplit.reading
        forward = nn.Conv2d.forward

        def in_epoch(loop: TrainingLoop, *given: Any) -> None:
            self._epoch = loop.state.progress.epoch
            run_epoch(loop, *given)
            self._epoch = None

        def counted(split: ShardSplit, rows: Any, **more: Any) -> Any:
            if split.name == "train" and self._epoch is not None:
                self.read[self._epoch] += len(rows)
            return reading(split, rows, **more)

        def passed(layer: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
            if self._epoch is not None and layer.in_channels == 3:
                self.passed[self._epoch] += len(images)
                self.sizes.append(len(images))
            return forward(layer, images)

        monkeypatch.setattr(TrainingLoop, "run_epoch", in_epoch)
        monkeypatch.setattr(ShardSplit, "reading", counted)
        monkeypatch.setattr(nn.Conv2d, "forward", passed)


def test_features_are_computed_once_and_images_read_once(
    trains: Trains, monkeypatch: pytest.MonkeyPatch
):
    """Of 37 images in four epochs each flip that comes up, and none other."""
    work = Work(monkeypatch)
    rows = np.arange(37)
    shown = [codes_of(rows, flips(0, epoch, rows, (0.4, 0.5))) for epoch in range(4)]
    # The first epoch's own, and what comes up later.
    pairs = len(set(np.concatenate(shown).tolist()))
    assert trains("kept", *HEAD, KEEP).code == 0
    assert work.read == {0: 37}
    assert work.passed == {0: pairs}
    assert 37 < pairs < 4 * 37
    full = [size for size in work.sizes if size == 8]
    assert len(work.sizes) - len(full) <= 2  # the epoch's last batch, and what is left


def test_the_next_phase_is_prefetched_while_the_head_needs_no_image(
    trains: Trains, monkeypatch: pytest.MonkeyPatch
):
    work = Work(monkeypatch)
    assert trains("kept", *FLIPS, "--head-epochs", 3, KEEP).code == 0
    assert work.passed[1] == work.passed[2] == 0
    assert work.passed[3] == work.passed[4] == 37
    assert sum(work.read.values()) == 3 * 37  # one head epoch, and two full ones


def with_rubbish(shards: Path, folder: Path, row: int) -> Path:
    """The shards with zeros in place of an image's first bytes."""
    shutil.copytree(shards, folder)
    found = pq.read_table(folder / "train.parquet").slice(row, 1).to_pylist()[0]
    with (folder / f"train-{found['shard']:06d}.tar").open("r+b") as tar:
        tar.seek(found["offset"])
        tar.write(bytes(200))
    return folder


def test_bad_image_counts_as_skipped_in_each_epoch(
    trains: Trains, shards: Path, tmp_path: Path
):
    damaged = with_rubbish(shards, tmp_path / "damaged", 19)
    for name, flags in (("plain", []), ("kept", [KEEP])):
        flags = [*HEAD, "--on-corrupt", "skip", *flags]
        outcome = trains(name, *flags, data=damaged)
        assert outcome.code == 0
        assert sum(line.startswith("skipped: ") for line in outcome.err) == 1
    assert [row["skipped"] for row in log(tmp_path / "kept")] == ["1"] * 4
    assert_same(tmp_path / "kept", tmp_path / "plain")


@pytest.mark.parametrize("step", [3, 10, 13])
def test_resume_within_the_head_makes_features_anew(
    step: int,
    trains: Trains,
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """Stopped in the epoch that computes them, at its end, or in one that asks."""
    assert trains("plain", *HEAD).code == 0
    run, said = tmp_path / "run", tmp_path / "said"
    argv = words(shards, run, *HEAD, KEEP)
    outcome = finish(start(argv, said, (STEP, step, "after"), signal.SIGTERM), said)
    assert outcome.code == 130, outcome.err
    work = Work(monkeypatch)
    assert call(train.main, ["--resume", str(run)], capsys).code == 0
    assert_same(run, tmp_path / "plain")
    # Begun within an epoch: the rest of it, and the next one whole.
    batch = step % 5
    assert sum(work.read.values()) == 37 - 8 * batch + (37 if batch else 0)


def test_resume_may_begin_or_end_keeping(
    trains: Trains, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert trains("plain", *HEAD).code == 0
    for name, first, then in (
        ("on", [], [KEEP]),
        ("off", [KEEP], [f"--no-{KEEP[2:]}"]),
    ):
        run, said = tmp_path / name, tmp_path / f"said-{name}"
        argv = words(shards, run, *HEAD, *first)
        outcome = finish(start(argv, said, (STEP, 7, "after"), signal.SIGTERM), said)
        assert outcome.code == 130, outcome.err
        resumed = call(train.main, ["--resume", str(run), *then], capsys)
        assert resumed.code == 0
        assert any(line.startswith("note: cache-features was") for line in resumed.err)
        assert_same(run, tmp_path / "plain")


def test_steps_that_are_limited_compute_no_more_than_they_need(
    trains: Trains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, flags in (("plain", []), ("kept", [KEEP])):
        assert trains(name, *HEAD, "--max-steps", 7, *flags).code == 0
    assert_same(tmp_path / "kept", tmp_path / "plain")
    work = Work(monkeypatch)
    assert trains("short", *HEAD, "--max-steps", 4, KEEP).code == 0
    assert work.passed == {0: 32}  # no epoch follows that could ask for more


def test_ranks_share_the_features_that_each_has_computed(
    shards: Path, tmp_path: Path, trains: Trains
):
    """37 samples in batches of 12, and a bad one: every rank meets all in the end."""
    damaged = with_rubbish(shards, tmp_path / "damaged", 19)
    flags = [*HEAD, "--batch-size", 12, "--on-corrupt", "skip", "--device", "cpu"]
    assert trains("plain", *flags, data=damaged).code == 0
    run = tmp_path / "kept"
    argv = words(damaged, run, *flags, KEEP)
    outcomes = train_on_ranks(argv, tmp_path / "of3", 3)
    assert [outcome.code for outcome in outcomes] == [0] * 3, outcomes
    assert sum(line.startswith("skipped: ") for line in complaints(outcomes)) == 1
    assert_same(run, tmp_path / "plain", 1e-4)


REFUSED: dict[str, list[object]] = {
    "--head-batchnorm must be eval": ["--head-batchnorm", "train"],
    "--head-epochs must be at least 1": ["--head-epochs", 0, "--full-epochs", 1],
    "--balance must be 0": ["--balance", 0.5],
    "pass --rotate 0": ["--rotate", 1],
    "pass --scale 1": ["--scale", 1.01],
    "pass --translate 0": ["--translate", 0.01],
    "pass --brightness 0": ["--brightness", 0.01],
    "pass --contrast 0": ["--contrast", 0.01],
    "pass --saturation 0": ["--saturation", 0.01],
    "than webdataset": ["--loader", "webdataset", "--no-fallback"],
    "pass --rotate 0 --scale 1 --translate 0": [
        "--translate=0.1",
        "--scale=1.1",
        "--rotate=5",
    ],
}


@pytest.mark.parametrize("said", list(REFUSED))
def test_features_are_not_kept_where_they_change(said: str, trains: Trains):
    outcome = trains("run", *HEAD, KEEP, *REFUSED[said])
    assert outcome.code == 2
    assert said in outcome.complaint
    assert "--cache-features" in outcome.complaint


def test_checkpoint_of_a_head_on_features_holds_no_features(
    trains: Trains, tmp_path: Path
):
    assert trains("plain", *HEAD).code == trains("kept", *HEAD, KEEP).code == 0
    ours, theirs = (
        load(tmp_path / n / "last.safetensors")[0] for n in ("kept", "plain")
    )
    assert {n: v.shape for n, v in ours.items()} == {
        n: v.shape for n, v in theirs.items()
    }
