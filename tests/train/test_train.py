"""The trainer: what it prints, what it leaves behind, and that it repeats itself."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from reported_runs import log_rows
from safetensors import safe_open
from safetensors.torch import load_file
from small_runs import (
    Outcome,
    call,
    log,
    make_haste,
    make_small,
    metrics,
    small_network,
    words,
)

from fastretina.data.splits import open_data
from fastretina.evaluate import command as evaluate
from fastretina.measure.device_idle import DeviceIdle
from fastretina.nn import checkpoint
from fastretina.nn.model import weights_sha256
from fastretina.nn.trained import load_trained
from fastretina.recipe import STRONG
from fastretina.report import command as report
from fastretina.run import COLUMNS, Run
from fastretina.train import command as train
from fastretina.train.loop import TrainingLoop
from loaders import LOADERS, available

Trains = Callable[..., Outcome]
COMMON_ORDER = [name for name in available() if not LOADERS[name].own_order]


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


@pytest.fixture(scope="module")
def resnet(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of torchvision's own ResNet18: one head epoch, one full."""
    run = tmp_path_factory.mktemp("runs") / "resnet"
    flags = words(shards, run, "--full-epochs", 1, "--batch-size", 16)
    assert train.main(flags) == 0
    return run


# ---- what a run leaves


def test_train_resnet18_writes_the_whole_run_folder(resnet: Path):
    assert {path.name for path in resnet.iterdir()} == {
        "config.json",
        "log.csv",
        "tensorboard",
        "last.safetensors",
        "weights.safetensors",
        "metrics.json",
        "test.parquet",
        "validation.parquet",
        "model_card.md",
        "curves.png",
        "confusion.png",
    }
    tensors, _ = checkpoint.load(resnet / "last.safetensors")
    sizes: dict[str, int] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind != "optimizer":
            is_parameter = not rest.endswith(("mean", "var", "num_batches_tracked"))
            sizes[kind] = sizes.get(kind, 0) + is_parameter * value.numel()
    assert sizes == {"model": 11_179_077, "ema": 11_179_077}


class Instant:
    """A mark that a device without a queue passes at once."""

    def record(self) -> None:
        self.at = time.perf_counter()

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Instant) -> float:
        return (end.at - self.at) * 1000


def test_train_says_what_a_gpu_idles_beside_what_the_host_waits(
    trains: Trains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Here on a clock of the host's, on which the two are nearly the same."""
    plain = trains("plain")
    assert plain.json["device_idle_fraction"] is None
    monkeypatch.setattr(
        "fastretina.train.loop.device_idle", lambda _: DeviceIdle(Instant)
    )
    found = trains("run")
    assert found.json["weights_sha256"] == plain.json["weights_sha256"]
    assert 0 < found.json["device_idle_fraction"] <= 1
    rows = Run(tmp_path / "run").log()
    idle = sum(row.idle_seconds or 0.0 for row in rows)
    assert found.json["device_idle_fraction"] * found.json["seconds"] == pytest.approx(
        idle, abs=0.01
    )
    assert all(row.idle_seconds >= row.wait_seconds > 0 for row in rows)
    assert all("% idle" in line for line in found.err if line.startswith("epoch"))


def test_train_prints_json_last(trains: Trains, tmp_path: Path):
    outcome = trains("run")
    found = outcome.json
    assert found.keys() >= {
        "run",
        "loader",
        "device",
        "epochs",
        "steps",
        "test_accuracy",
        "test_qwk",
        "images_per_second",
        "wait_fraction",
        "weights_sha256",
    }
    assert found["run"] == str(tmp_path / "run")
    assert found["loader"] == "turbo"
    assert found["device"] == "cpu"
    with open_data(Path(found_shards(tmp_path / "run")), STRONG) as data:
        per_epoch = math.ceil(len(data.train) / 8)
    assert (found["epochs"], found["steps"]) == (3, 3 * per_epoch)
    assert 0 <= found["test_accuracy"] <= 1
    assert 0 <= found["wait_fraction"] <= 1
    assert found["images_per_second"] > 0
    head, full = (found["changed_parameters"][phase] for phase in ("head", "full"))
    network = small_network(5)
    assert head == sum(each.numel() for each in network.fc.parameters()) == 85
    assert 1000 < full <= sum(each.numel() for each in network.parameters())
    weights, _ = checkpoint.load(tmp_path / "run" / "weights.safetensors")
    assert found["weights_sha256"] == weights_sha256(weights)
    assert outcome.out[1].startswith("11 samples; in brackets 95 % intervals")
    assert [line.split()[0] for line in outcome.err] == ["epoch"] * 3


@pytest.mark.parametrize(
    ("flags", "phases"),
    [
        (("--head-epochs", 0, "--warmup-epochs", 0), ["full"]),
        (("--full-epochs", 0), ["head"]),
        (("--max-steps", 1), ["head"]),
        (("--max-steps", 6), ["head", "full"]),
    ],
)
def test_changes_are_those_of_the_phases_that_were_trained(
    flags: tuple[object, ...], phases: list[str], trains: Trains
):
    changed = trains("run", *flags).json["changed_parameters"]
    assert list(changed) == phases
    assert all(changed.values())


def test_phase_whose_backbone_is_passed_by_ends_the_run_in_one_line(
    trains: Trains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As torch 2.11 had it: what was compiled for phase head was used in full."""

    def stale(network: torch.nn.Module, **_words: object) -> Any:
        *backbone, head = network.children()
        return lambda images: head(torch.nn.Sequential(*backbone)(images).detach())

    monkeypatch.setattr("torch.compile", stale)
    outcome = trains("run", "--compile")
    assert outcome.code == 1
    assert outcome.complaint.endswith(
        "after the first step of phase full, 6 of the 8 tensors that it trains have no "
        "gradient, the first conv1.weight: pass --compile off"
    )
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["compile"] is True


def found_shards(run: Path) -> str:
    shards: str = json.loads((run / "config.json").read_text())["shards"]
    return shards


def test_train_writes_config_log_and_metrics(trains: Trains, tmp_path: Path):
    run = tmp_path / "run"
    printed = trains("run", "--recipe", "seed").json
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"]["recipe"] == "seed"
    assert config["recipe"]["full_epochs"] == 2
    assert config["weights"] == "none"
    assert config["threads"] == torch.get_num_threads()
    assert config["versions"]["torch"] == torch.__version__.partition("+")[0]
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["phase"] for row in rows] == ["head", "full", "full"]
    assert {row["lr"] for row in rows} == {"0.001"}
    assert {row["validation_qwk"] for row in rows} == {""}
    assert float(rows[-1]["test_qwk"]) == printed["test_qwk"]
    assert float(rows[-1]["test_accuracy"]) == printed["test_accuracy"]
    for row in rows:
        share = float(row["train_accuracy"]) * 37
        assert share == pytest.approx(round(share)), "of all 37 images"
        rate = 37 / float(row["seconds"])
        assert float(row["images_per_second"]) == pytest.approx(rate)
    kept = json.loads((run / "metrics.json").read_text())
    assert kept.items() >= printed.items()
    assert kept["test"]["samples"] == 11
    assert np.sum(kept["test"]["confusion"]) == 11


def test_train_writes_events_that_tensorboard_reads(trains: Trains, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trains("run").json  # noqa: B018  # asserts that it went well
    rows = log(tmp_path / "run")
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted((tmp_path / "run" / "tensorboard").iterdir()):
        events = EventAccumulator(str(file))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            points = [(event.step, event.value) for event in events.Scalars(tag)]
            found.setdefault(tag, []).extend(points)
    losses = [value for _, value in sorted(found["train/loss"])]
    assert losses == pytest.approx([float(row["train_loss"]) for row in rows])
    assert [step for step, _ in sorted(found["validation/qwk"])] == [4, 8, 12]
    assert {"lr", "train/accuracy", "images/per_second", "wait/seconds"} <= set(found)


def test_events_of_an_epoch_again_replace_the_old_ones_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found: list[list[str]] = []
    monkeypatch.setattr(
        "fastretina.run.sync_folder",
        lambda folder: found.append([path.name for path in folder.iterdir()]),
    )
    run = Run(tmp_path)
    for second in (1.0, 2.0):
        monkeypatch.setattr("time.time", lambda second=second: second)
        run.write_events(log_rows()[0], 1)
    name = f"events.out.tfevents.2.{os.getpid()}.epoch-001"
    assert found == [[name]]
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == [name]


def test_events_half_written_by_a_killed_process_are_removed(tmp_path: Path):
    part = tmp_path / "tensorboard" / ".events.fastretina-4194303-0123abcd.part"
    part.parent.mkdir()
    part.touch()
    Run(tmp_path).remove_partial_files()
    assert not part.exists()


def test_events_that_cannot_be_written_are_one_line(
    trains: Trains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """TensorBoard's own writer prints a traceback from its thread."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    record = "tensorboard.summary.writer.record_writer.RecordWriter.write"
    monkeypatch.setattr(record, full)
    outcome = trains("run")
    assert outcome.code == 1
    assert outcome.complaint.endswith(".epoch-001: No space left on device")
    assert not any("Traceback" in line for line in outcome.err)
    assert list((tmp_path / "run" / "tensorboard").iterdir()) == []


@pytest.mark.parametrize("recipe", ["strong", "seed"])
def test_train_keeps_optimizer_state(trains: Trains, tmp_path: Path, recipe: str):
    trains("run", "--recipe", recipe).json  # noqa: B018
    with safe_open(tmp_path / "run" / "last.safetensors", "pt") as file:
        names = {name.rpartition(".")[2] for name in file.keys() if "optim" in name}  # noqa: SIM118
        assert ("ema.fc.weight" in file.keys()) == (recipe == "strong")  # noqa: SIM118
    expected = {
        "strong": {"step", "exp_avg", "exp_avg_sq"},
        "seed": {"momentum_buffer"},
    }
    assert names == expected[recipe]


def test_train_draws_figures(resnet: Path):
    for name in ("curves.png", "confusion.png"):
        with Image.open(resnet / name) as picture:
            picture.load()
            assert min(picture.size) > 400
            assert len(np.unique(np.asarray(picture))) > 10


# ---- the same again


@pytest.mark.parametrize("recipe", ["strong", "seed"])
def test_train_repeats_itself_under_any_loader(
    trains: Trains, tmp_path: Path, recipe: str
):
    flags = ("--recipe", recipe, "--balance", "0.5")
    turbo = trains("turbo", "--loader", "turbo", *flags)
    others = {"again": ("turbo", 1)} | {name: (name, 0) for name in COMMON_ORDER}
    for name, (loader, workers) in others.items():
        other = trains(f"{name}-2", "--loader", loader, "--workers", workers, *flags)
        run = tmp_path / f"{name}-2"
        assert other.json["loader"] == loader
        assert other.json["weights_sha256"] == turbo.json["weights_sha256"]
        assert log(run) == log(tmp_path / "turbo")
        assert metrics(run) == metrics(tmp_path / "turbo")
        last = [
            checkpoint.load(path / "last.safetensors")[0]
            for path in (run, tmp_path / "turbo")
        ]
        assert weights_sha256(last[0]) == weights_sha256(last[1])  # optimizer and all


@pytest.mark.slow
def test_train_resnet18_ends_in_the_same_weights_under_any_loader(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """torchvision's own network, in both phases, with the recipe as people run it."""
    make_haste(monkeypatch)
    found = {}
    for name in COMMON_ORDER:
        flags = ("--loader", name, "--max-steps", 7, "--head-epochs", 1)
        outcome = call(train.main, words(shards, tmp_path / name, *flags), capsys)
        found[name] = outcome.json["weights_sha256"]
    assert {"pil", "turbo"} <= set(found)
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize(
    "flags",
    [
        ("--seed", 1),
        ("--lr", 0.01),
        ("--head-lr", 0.01),
        ("--weight-decay", 0.5),
        ("--class-weights", "balanced"),
        ("--class-weights", "sqrt"),
        ("--balance", 1.0),
        ("--balance", 1.0, "--balance-decay", 0.5),
        ("--class-weights", "balanced", "--weighted-phases", "full"),
        ("--train-samples", 20),
        ("--label-smoothing", 0.1),
        ("--distance-cost", 0.1),
        ("--hflip", 1.0),
        ("--brightness", 0.2),
        ("--rotate", 20),
        ("--optimizer", "adamw"),
        ("--schedule", "cosine"),
        ("--ema-decay", 0.9),
        ("--image-size", 96),
        ("--head-batchnorm", "eval"),
        ("--amp", "off"),
    ],
    ids=lambda flags: "".join(map(str, flags)),
)
def test_train_obeys_every_flag_that_decides_the_weights(
    trains: Trains, baseline: str, flags: tuple[object, ...]
):
    if flags[0] == "--amp" and '"fp32"' in baseline:
        pytest.skip("no bf16 on this CPU")
    found = trains("other", "--recipe", "seed", "--lr", 0.05, *flags).json
    assert found["weights_sha256"] not in baseline


@pytest.fixture(scope="module")
def baseline(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The JSON of the run that the test above changes a flag of."""
    run = tmp_path_factory.mktemp("runs") / "baseline"
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        flags = words(shards, run, "--recipe", "seed", "--lr", 0.05)
        assert train.main(flags) == 0
    return (run / "metrics.json").read_text()


def test_weights_that_count_in_phase_2_alone_leave_phase_1_as_it_is(
    trains: Trains, tmp_path: Path
):
    losses = {}
    for phases in ("none", "full", "both"):
        flags = ["--recipe", "seed"]
        if phases != "none":
            flags += ["--class-weights", "balanced", "--weighted-phases", phases]
        trains(phases, *flags)
        losses[phases] = [row["train_loss"] for row in log(tmp_path / phases)]
    assert losses["full"][0] == losses["none"][0] != losses["both"][0]
    assert losses["full"][1] != losses["none"][1]


def test_some_samples_are_whole_patients_and_the_same_for_every_seed(shards: Path):
    chosen = []
    for seed in (0, 1):
        recipe = replace(
            STRONG, seed=seed, train_samples=20, test_samples=6, validation=0.0
        )
        with open_data(shards, recipe) as data:
            assert 10 <= len(data.train) <= 30
            assert 2 <= len(data.test) <= 10
            patients = np.array(data.train.column("patient"))
            left_out = np.setdiff1d(np.arange(len(patients)), data.train.rows)
            assert not set(patients[data.train.rows]) & set(patients[left_out])
            chosen.append((data.train.rows.tolist(), data.test.rows.tolist()))
    assert chosen[0] == chosen[1]
    everything = replace(STRONG, train_samples=1000, test_samples=1000, validation=0.0)
    with open_data(shards, everything) as data:
        assert (len(data.train), len(data.test)) == (37, 11)


def test_test_shards_are_tested_on_and_kept_by_the_run(
    trains: Trains,
    tmp_path: Path,
    make_course: Callable[..., Path],
    run_shard: Callable[..., tuple[int, list[str], list[str]]],
    capsys: pytest.CaptureFixture[str],
):
    other = tmp_path / "other"
    course = make_course(tmp_path / "course", train=8, test=17)
    assert run_shard(course, other)[0] == 0
    first = trains("run", "--test-shards", other).json
    run = tmp_path / "run"
    kept = json.loads((run / "metrics.json").read_text())
    assert kept["test"]["samples"] == 17
    # The numbers of its patients are those of other people in train.
    assert (kept["leak"], kept["baselines"]) == (None, None)
    short = call(evaluate.main, [str(run)], capsys).json
    assert short["shards"] == str(other)
    again = json.loads(Path(short["details"]).read_text())
    assert again["test_accuracy"] == first["test_accuracy"]
    assert again["baselines"] == kept["baselines"]
    resumed = call(train.main, ["--resume", str(run)], capsys)
    assert resumed.json["test_accuracy"] == first["test_accuracy"]
    refused = call(train.main, ["--resume", str(run), "--test-shards", "x"], capsys)
    assert "no data set in x" in refused.complaint


def test_test_shards_of_the_same_photographs_have_the_same_patients(
    trains: Trains,
    tmp_path: Path,
    course: Path,
    run_shard: Callable[..., tuple[int, list[str], list[str]]],
):
    """Preprocessed otherwise, their fingerprint is another one."""
    other = tmp_path / "other"
    assert run_shard(course, other, "--preprocess", "clahe")[0] == 0
    trains("run", "--test-shards", other).json  # noqa: B018  # it went well
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert kept["leak"] == {"eyes": 0, "total": 11, "unknown": 0}
    assert kept["baselines"]["majority"]["accuracy"] > 0.5


def test_card_of_a_run_is_the_one_that_a_report_writes(
    trains: Trains, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """One is made of what is at hand, the other of what the folder holds."""
    trains("run").json  # noqa: B018  # it went well
    run = tmp_path / "run"
    card = (run / "model_card.md").read_bytes()
    assert call(report.main, [str(run), "--mistakes", "0"], capsys).code == 0
    assert (run / "model_card.md").read_bytes() == card


# ---- which epoch is reported


def scripted(
    monkeypatch: pytest.MonkeyPatch, validation: list[float], test: list[float]
) -> None:
    """Let the evaluations of validation and test come out with these QWKs."""
    from fastretina.metrics.scores import Scores, score

    left = {"validation": iter(validation), "test": iter(test)}

    def fake(labels: np.ndarray, chances: np.ndarray) -> Scores:
        split = "test" if len(labels) == 11 else "validation"
        return replace(score(labels, chances), qwk=next(left[split]))

    monkeypatch.setattr("fastretina.train.loop.score", fake)


@pytest.mark.parametrize(
    ("validation", "chosen"),
    [
        ([0.1, 0.5, 0.3], 2),
        ([0.5, 0.1, 0.3], 1),
        ([0.1, 0.2, 0.3], 3),
        ([0.2, 0.2, 0.2], None),
    ],
)
@pytest.mark.parametrize("test", [[0.9, 0.1, 0.2], [0.0, 0.1, 0.8]])
def test_train_strong_reports_the_epoch_that_validation_chooses(
    trains: Trains,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    validation: list[float],
    test: list[float],
    chosen: int | None,
):
    scripted(monkeypatch, validation, test)
    found = trains("run", "--test-each-epoch").json
    rows = log(tmp_path / "run")
    assert [float(row["test_qwk"]) for row in rows] == test
    assert [float(row["validation_qwk"]) for row in rows] == validation
    if chosen is None:  # equal QWKs: the accuracy decides, then the earlier
        accuracies = [float(row["validation_accuracy"]) for row in rows]
        chosen = 1 + accuracies.index(max(accuracies))
    assert found["checkpoint"] == "best"
    assert found["checkpoint_epoch"] == chosen
    weights, state = checkpoint.load(tmp_path / "run" / "weights.safetensors")
    assert state == {"checkpoint": "best", "epoch": chosen}
    assert found["weights_sha256"] == weights_sha256(weights)


def test_train_strong_validates_on_patients_that_it_does_not_train_on(shards: Path):
    with open_data(shards, STRONG) as data:
        assert data.validation is not None
        patients = data.train.column("patient")
        trained = {patients[row] for row in data.train.rows}
        held = {patients[row] for row in data.validation.rows}
        assert trained
        assert held
        assert not trained & held
        assert len(data.train) + len(data.validation) == 37
        assert not set(data.train.rows) & set(data.validation.rows)
        assert len(data.test) == 11


def test_train_seed_reports_the_last_epoch(trains: Trains, tmp_path: Path):
    found = trains("run", "--recipe", "seed").json
    assert found["checkpoint"] == "last"
    assert found["checkpoint_epoch"] == 3
    weights, state = checkpoint.load(tmp_path / "run" / "weights.safetensors")
    assert state == {"checkpoint": "last", "epoch": 3}
    assert found["weights_sha256"] == weights_sha256(weights)
    kept, _ = checkpoint.load(tmp_path / "run" / "last.safetensors")
    assert found["weights_sha256"] == weights_sha256(checkpoint.part(kept, "model"))


# ---- the loop


def test_train_counts_accuracy_and_loss_in_the_epoch(
    trains: Trains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from fastretina.nn.step import Loss
    from fastretina.train.state import TrainState

    seen: list[list[tuple[float, int, int]]] = [[]]
    forward, end_epoch = Loss.forward, TrainState.end_epoch

    def watch(self: Any, logits: Any, labels: Any) -> Any:
        loss = forward(self, logits, labels)
        hits = int((logits.argmax(1) == labels).sum())
        seen[-1].append((float(loss.detach()), hits, len(labels)))
        return loss

    def next_epoch(self: Any, row: Any) -> None:
        seen.append([])
        end_epoch(self, row)

    monkeypatch.setattr(Loss, "forward", watch)
    monkeypatch.setattr(TrainState, "end_epoch", next_epoch)
    trains("run", "--recipe", "seed").json  # noqa: B018
    assert len(seen) == 4
    for steps, row in zip(seen, log(tmp_path / "run"), strict=False):
        assert sum(size for _, _, size in steps) == 37
        hits = sum(hits for _, hits, _ in steps)
        assert float(row["train_accuracy"]) == hits / 37
        mean = sum(loss * size for loss, _, size in steps) / 37
        assert float(row["train_loss"]) == pytest.approx(mean, rel=1e-6)


def test_train_sees_every_image_once_per_epoch(
    trains: Trains, monkeypatch: pytest.MonkeyPatch
):
    rows: list[list[int]] = []
    step = TrainingLoop._step

    def watch(self: Any, batch: Any, steps_per_epoch: int) -> None:
        if self.state.progress.batch == 0:
            rows.append([])
        rows[-1].extend(batch.index.tolist())
        step(self, batch, steps_per_epoch)

    monkeypatch.setattr(TrainingLoop, "_step", watch)
    trains("run", "--recipe", "seed").json  # noqa: B018
    assert [sorted(epoch) for epoch in rows] == [list(range(37))] * 3
    assert rows[0] != rows[1] != rows[2]


def test_train_draws_augmentation_and_rate_anew_at_each_step(
    trains: Trains, monkeypatch: pytest.MonkeyPatch
):
    from fastretina.nn.augment import Augment
    from fastretina.nn.step import learning_rate

    places: list[tuple[int, int]] = []
    rates: list[tuple[float, float]] = []
    augment, step = Augment.__call__, TrainingLoop._step

    def watch(self: Any, images: Any, rows: Any, *place: int) -> Any:
        places.append(place[:2])
        return augment(self, images, rows, *place)

    def after(self: Any, batch: Any, steps_per_epoch: int) -> None:
        progress = self.state.progress
        epoch = progress.epoch + progress.batch / steps_per_epoch
        step(self, batch, steps_per_epoch)
        used = self.state.learner.optimizer.param_groups[0]["lr"]
        rates.append((used, learning_rate(self.recipe, epoch)))

    monkeypatch.setattr(Augment, "__call__", watch)
    monkeypatch.setattr(TrainingLoop, "_step", after)
    trains("run").json  # noqa: B018
    assert places == [(number // 4, number) for number in range(12)]
    assert all(used == expected for used, expected in rates)
    assert len({used for used, _ in rates}) == 12


def test_train_head_phase_leaves_the_backbone_as_it_came(
    trains: Trains, tmp_path: Path
):
    flags = ("--full-epochs", 0, "--head-epochs", 2)
    initial = start_weights()
    for batchnorm, moves in (("eval", False), ("train", True)):
        name = f"run-{batchnorm}"
        found = trains(name, *flags, "--head-batchnorm", batchnorm).json
        assert found["epochs"] == 2
        kept, _ = checkpoint.load(tmp_path / name / "last.safetensors")
        now = checkpoint.part(kept, "model")
        assert not torch.equal(now["fc.weight"], initial["fc.weight"])
        for weight in ("conv1.weight", "conv2.weight", "bn1.weight", "bn2.bias"):
            assert torch.equal(now[weight], initial[weight]), weight
        for statistic in ("bn1.running_mean", "bn2.running_var"):
            assert torch.equal(now[statistic], initial[statistic]) != moves, statistic
        assert not checkpoint.part(kept, "ema")


def test_train_full_phase_alone_moves_all_of_it(trains: Trains, tmp_path: Path):
    trains("run", "--full-epochs", 1, "--head-epochs", 0).json  # noqa: B018
    kept, _ = checkpoint.load(tmp_path / "run" / "last.safetensors")
    now = checkpoint.part(kept, "model")
    for name, value in start_weights().items():
        assert not torch.equal(now[name], value), name
    assert [row["phase"] for row in log(tmp_path / "run")] == ["full"]


def start_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return small_network(5).state_dict()


def test_train_begins_phase_2_with_a_new_optimizer(
    trains: Trains, monkeypatch: pytest.MonkeyPatch
):
    made: list[tuple[str, Any]] = []
    from fastretina.nn import step as stepping

    make = stepping.make_optimizer

    def watch(recipe: Any, phase: str, *rest: Any) -> Any:
        made.append((phase, make(recipe, phase, *rest)))
        return made[-1][1]

    monkeypatch.setattr(stepping, "make_optimizer", watch)
    trains("run", "--recipe", "seed", "--head-epochs", 2).json  # noqa: B018
    assert [phase for phase, _ in made] == ["head", "full"]
    numbers = [
        sum(p.numel() for p in optimizer.param_groups[0]["params"])
        for _, optimizer in made
    ]
    network = small_network(5)
    assert numbers == [85, sum(p.numel() for p in network.parameters())]


@pytest.mark.parametrize("steps", [2, 5, 7, 10])
def test_train_stops_after_max_steps(trains: Trains, tmp_path: Path, steps: int):
    found = trains("run", "--recipe", "seed", "--max-steps", steps).json
    assert found["steps"] == steps
    rows = log(tmp_path / "run")  # an epoch has 5 steps
    assert len(rows) == found["epochs"] == math.ceil(steps / 5)
    assert rows[-1]["test_accuracy"] != ""


def test_train_more_max_steps_than_there_are_changes_nothing(
    trains: Trains, tmp_path: Path
):
    found = trains("run", "--max-steps", 1000).json
    assert found["epochs"] == 3


def test_train_warns_of_a_constant_predictor(
    trains: Trains, monkeypatch: pytest.MonkeyPatch
):
    step = TrainingLoop._step

    def collapse(self: Any, *rest: Any, **named: Any) -> None:
        step(self, *rest, **named)
        with torch.no_grad():
            self.state.network.fc.bias.copy_(torch.tensor([99.0, 0, 0, 0, 0]))

    monkeypatch.setattr(TrainingLoop, "_step", collapse)
    outcome = trains("run", "--recipe", "seed")
    warnings = [line for line in outcome.out if line.startswith("warning: constant")]
    assert len(warnings) == 1
    assert "grade 0" in warnings[0]
    assert "accuracy of 72.7% is that grade's share (72.7%)" in warnings[0]
    assert outcome.json["test_qwk"] == 0


def test_train_learns_something_that_can_be_learned(
    trains: Trains,
    tmp_path: Path,
    make_bright: Callable[[], Path],
):
    outcome = trains(
        "run",
        *("--recipe", "seed", "--full-epochs", 15, "--lr", 0.05, "--seed", 1),
        data=make_bright(),
    )
    assert outcome.json["test_qwk"] > 0.6
    assert not any("constant predictor" in line for line in outcome.out)
    losses = [float(row["train_loss"]) for row in log(tmp_path / "run")]
    assert losses[-1] < 0.7 * losses[0]


@pytest.fixture
def make_bright(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Shards of photographs whose brightness is their grade."""
    import simplejpeg

    from fastretina.shard import command as shard

    def make() -> Path:
        for split, count in (("train", 60), ("test", 20)):
            names = []
            for number in range(count):
                name = f"{split}{number}_left"
                level = number % 5 * 50 + 20
                image = np.full((64, 64, 3), level, np.uint8)
                image[:8, :8] = number
                path = tmp_path / "bright" / "data" / f"{name}.jpeg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(simplejpeg.encode_jpeg(image))
                names.append((name, str(number % 5)))
            for place, what in enumerate(("img", "label")):
                lines = "".join(f"{row[place]}\n" for row in names)
                (tmp_path / "bright" / f"{split}_{what}.csv").write_text(lines)
        out = tmp_path / "bright-shards"
        assert shard.main([str(tmp_path / "bright"), str(out), "--workers", "1"]) == 0
        return out

    return make


# ---- expected failures


def test_train_without_shards_names_the_two_commands(trains: Trains, tmp_path: Path):
    outcome = trains("run", data=tmp_path / "none")
    assert outcome.code == 1
    assert "fastretina shard data/" in outcome.complaint
    assert "fastretina demo data/" in outcome.complaint
    assert len(outcome.err) == 1
    assert not (tmp_path / "run").exists()


def test_train_does_not_touch_a_run_that_is_there(trains: Trains, tmp_path: Path):
    trains("run").json  # noqa: B018
    before = {p: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()}
    outcome = trains("run", "--seed", 3)
    assert outcome.code == 1
    assert f"--resume {tmp_path / 'run'}" in outcome.complaint
    assert before == {p: p.read_bytes() for p in before}


def test_train_into_a_file_is_one_line(trains: Trains, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    outcome = trains("file")
    assert outcome.code == 1
    assert str(tmp_path / "file") in outcome.complaint
    assert (tmp_path / "file").read_text() == "mine"


def test_train_names_runs_by_number(
    trains: Trains,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    flags = [w for w in words(shards, Path("x"), "--max-steps", 1) if w != "x"]
    flags.remove("--out")
    for number in (1, 2):
        found = call(train.main, flags, capsys).json
        assert found["run"] == f"runs/resnet18-strong-{number}"


@pytest.mark.parametrize("flags", [(), ("--max-steps", 1)])
def test_train_that_goes_astray_is_one_line(trains: Trains, flags: tuple[object, ...]):
    # After one step the loss is still finite, but not what the network says.
    rates = ("--head-epochs", 0, "--lr", 1e30, "--optimizer", "sgd")
    outcome = trains("run", *rates, "--ema-decay", 0, *flags)
    assert outcome.code == 1
    assert "lower --lr" in outcome.complaint
    assert not any("Traceback" in line for line in outcome.err)


@pytest.mark.parametrize("split", ["train", "test"])
def test_train_on_images_of_different_sizes_fails_before_it_begins(
    trains: Trains,
    make_course: Callable[..., Path],
    tmp_path: Path,
    split: str,
):
    from conftest import photograph

    from fastretina.shard import command as shard

    course = make_course(tmp_path / "course")
    names = (course / f"{split}_img.csv").read_text().split()
    (course / "data" / f"{names[0]}.jpeg").write_bytes(photograph(1, 96))
    shards = tmp_path / "mixed"
    assert shard.main([str(course), str(shards), "--workers", "1"]) == 0
    outcome = trains("run", data=shards)
    assert outcome.code == 1
    assert "--image-size" in outcome.complaint
    assert not (tmp_path / "run").exists()
    assert trains("run", "--image-size", 64, "--max-steps", 1, data=shards).code == 0


def test_train_without_a_gpu_says_so(trains: Trains, tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    for device in ("cuda", "cuda:1"):
        outcome = trains("run", "--device", device)
        assert outcome.code == 1
        assert f"--device {device} is not here" in outcome.complaint
    for device in ("tpu", "meta", "cuda:x"):
        outcome = trains("run", "--device", device)
        assert outcome.code == 1
        assert "--device must be auto, cpu, cuda, cuda:N or mps" in outcome.complaint
    assert "must be used on a GPU" in trains("run", "--amp", "fp16").complaint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--lr", "-1"), "--lr must be above 0"),
        (("--lr", "fast"), "--lr"),
        (("--batch-size", "0"), "--batch-size must be at least 1"),
        (("--image-size", "1"), "--image-size must lie in 64 to 8,192"),
        (("--loader", "dvd"), "--loader"),
        (("--recipe", "weak"), "--recipe"),
        (("--arch", "vgg"), "--arch"),
        (("--workers", "-1"), "--workers must be at least 0"),
        (("--prefetch", "0"), "--prefetch must be at least 1"),
        (("--threads", "0"), "--threads must lie in 1 to 1,024, got 0"),
        (("--threads", "1000000"), "--threads must lie in 1 to 1,024, got 1,000,000"),
        (("--checkpoint-every", "-1"), "--checkpoint-every must be at least 0"),
        (("--checkpoint-every", "nan"), "--checkpoint-every must be at least 0"),
        (("--no-such-flag",), "--no-such-flag"),
        (("--warmup-epochs", "500"), "--warmup-epochs must be at most 2, the --full"),
        (("--seed", str(2**70)), "--seed"),
    ],
)
def test_train_with_flags_that_cant_be_meant_exits_2(
    trains: Trains, tmp_path: Path, flags: tuple[str, ...], message: str
):
    outcome = trains("run", *flags)
    assert outcome.code == 2
    assert message in outcome.complaint
    assert len(outcome.err) == 1
    assert not (tmp_path / "run").exists()


def test_train_with_auto_weights_offline_warns_and_goes_on(
    trains: Trains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def offline(*_args: object, **_named: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("fastretina.nn.model.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    outcome = trains("auto", "--weights", "auto")
    (warning,) = [line for line in outcome.err if line.startswith("warning: ")]
    assert "random weights" in warning
    assert "no route to host" in warning
    assert outcome.json["weights"] == "none"
    none = trains("none").json["weights_sha256"]
    assert outcome.json["weights_sha256"] == none
    asked = trains("asked", "--weights", "imagenet")
    assert asked.code == 1
    assert "no route to host" in asked.complaint
    assert not (tmp_path / "asked").exists()


def test_train_from_a_runs_own_weights(trains: Trains, tmp_path: Path):
    trains("first").json  # noqa: B018
    path = tmp_path / "first" / "weights.safetensors"
    found = trains("second", "--weights", path, "--lr", 1e-9, "--head-lr", 1e-9)
    assert found.json["weights"] == str(path)
    source, _ = checkpoint.load(path)
    now, _ = checkpoint.load(tmp_path / "second" / "last.safetensors")
    torch.testing.assert_close(
        checkpoint.part(now, "model")["conv1.weight"], source["conv1.weight"]
    )


def test_weights_alone_are_torchvisions_own(resnet: Path):
    """By their names, without torch's help or ours, and nothing beside them."""
    path = resnet / "weights.safetensors"
    state = load_file(path)
    network = torchvision.models.resnet18(num_classes=5)
    network.load_state_dict(state, strict=True)
    network = network.to(memory_format=torch.channels_last)  # whose sums round alike
    images = torch.rand(3, 3, 64, 64)
    trained = load_trained(Run(resnet), torch.device("cpu"))
    with torch.inference_mode():
        assert torch.equal(network.eval()(images), trained.network(images))
    parameters = sum(each.numel() for each in network.parameters())
    assert path.stat().st_size < 1.05 * 4 * parameters


def test_weights_alone_are_timms_too(resnet: Path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet18", num_classes=5)
    network.load_state_dict(load_file(resnet / "weights.safetensors"), strict=True)
    images = torch.rand(3, 3, 64, 64)
    trained = load_trained(Run(resnet), torch.device("cpu"))
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(images), trained.network(images))


def test_weights_alone_say_how_to_use_them(resnet: Path):
    with safe_open(resnet / "weights.safetensors", "pt") as file:
        about = file.metadata()
    assert about["arch"] == "resnet18"
    assert json.loads(about["image_shape"]) == [64, 64]
    assert json.loads(about["mean"]) == [0.485, 0.456, 0.406]
    assert json.loads(about["std"]) == [0.229, 0.224, 0.225]
    assert json.loads(about["grades"])[4] == "Proliferative"
    assert json.loads(about["preprocessing"]) == []
    assert about["run"] == "resnet"
    found = json.loads((resnet / "metrics.json").read_text())
    assert about["epoch"] == str(found["checkpoint_epoch"])
    assert about["weights_sha256"] == found["weights_sha256"]


def test_train_threads_are_recorded(trains: Trains, tmp_path: Path):
    trains("run", "--threads", 1, "--max-steps", 1).json  # noqa: B018
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["threads"] == 1
