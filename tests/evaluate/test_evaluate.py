"""``fastretina.evaluate``: a run's own numbers again, from every sample once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from small_runs import Outcome, call, make_haste, make_small, words
from torch import nn

from fastretina.evaluate import command as evaluate
from fastretina.metrics.predictions import Predictions, predict_split
from fastretina.nn.device import choose
from fastretina.nn.distributed import ALONE
from fastretina.train import command as train
from loaders import Batch, Loader, LoaderConfig, make_loader, open_split
from loaders.errors import RunError

Evaluates = Callable[..., Outcome]


@pytest.fixture(scope="module")
def runs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two finished runs, ``strong`` and ``seed``; read-only by agreement."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        for recipe in ("strong", "seed"):
            flags = ("--recipe", recipe, "--lr", 0.05, "--head-lr", 0.05)
            assert train.main(words(shards, folder / recipe, *flags)) == 0
    return folder


@pytest.fixture
def evaluates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Evaluates:
    make_small(monkeypatch)

    def run(*flags: object) -> Outcome:
        return call(evaluate.main, [str(flag) for flag in flags], capsys)

    return run


def details(outcome: Outcome) -> dict[str, Any]:
    """All scores, from the file that the JSON line names."""
    found: dict[str, Any] = json.loads(Path(outcome.json["details"]).read_text())
    return found


def reported(run: Path, name: str = "metrics.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / name).read_text())
    return found


def test_evaluate_repeats_a_resnet18s_numbers(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    make_haste(monkeypatch)
    flags = words(shards, tmp_path / "run", "--max-steps", 2, "--head-epochs", 0)
    call(train.main, flags, capsys).json  # noqa: B018  # asserts that it went well
    found = details(call(evaluate.main, [str(tmp_path / "run")], capsys))
    recorded = reported(tmp_path / "run")
    assert {k: found[f"test_{k}"] for k in recorded["test"]} == recorded["test"]
    assert found["weights_sha256"] == recorded["weights_sha256"]


@pytest.mark.parametrize("recipe", ["strong", "seed"])
@pytest.mark.parametrize("loader", ["auto", "turbo", "pil"])
def test_evaluate_repeats_the_runs_own_numbers(
    runs: Path, evaluates: Evaluates, recipe: str, loader: str
):
    outcome = evaluates(runs / recipe, "--loader", loader, "--workers", 0)
    found, recorded = details(outcome), reported(runs / recipe)
    assert {
        k: found[k] for k in outcome.json if k != "details"
    }.items() <= found.items()
    assert {k: found[f"test_{k}"] for k in recorded["test"]} == recorded["test"]
    for name in ("test_accuracy", "test_qwk", "weights_sha256", "checkpoint"):
        assert found[name] == recorded[name], name
    assert found["test_samples"] == 11
    assert found["checkpoint"] == {"strong": "best", "seed": "last"}[recipe]
    assert f"accuracy {recorded['test_accuracy']:.1%} [" in outcome.out[1]
    assert found["baselines"] == recorded["baselines"]
    assert found["leak"] == recorded["leak"] == {"eyes": 0, "total": 11, "unknown": 0}
    for name in ("calibrated", "calibration", "prior_corrected", "pairs"):
        assert found[name] == recorded[name], name


def test_evaluate_changes_nothing_in_the_run_but_its_own_file(
    runs: Path, evaluates: Evaluates, tmp_path: Path
):
    def contents() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}

    (runs / "strong" / "evaluation.json").unlink(missing_ok=True)
    before = contents()
    elsewhere = tmp_path / "all.json"
    assert evaluates(runs / "strong", "--details", elsewhere).json["details"] == str(
        elsewhere
    )
    assert contents() == before
    own = runs / "strong" / "evaluation.json"
    assert evaluates(runs / "strong").json["details"] == str(own)
    assert own.read_text() == elsewhere.read_text()
    assert contents() == before | {own: own.read_bytes()}


def test_evaluate_ends_in_a_short_line(runs: Path, evaluates: Evaluates):
    outcome = evaluates(runs / "strong")
    assert len(outcome.json) <= 20
    for value in outcome.json.values():
        assert not isinstance(value, (dict, list))


def test_evaluate_names_a_place_that_cant_be_written(
    runs: Path, evaluates: Evaluates, tmp_path: Path
):
    for flag in ("--out", "--details"):
        gone = evaluates(runs / "seed", flag, tmp_path / "gone" / "x")
        assert gone.code == 2
        assert f"{flag} must lie in a folder that exists" in gone.complaint
        folder = evaluates(runs / "seed", flag, tmp_path)
        assert folder.code == 2
        assert f"{flag} must be a file, got the folder {tmp_path}" in folder.complaint


def test_evaluate_on_train_takes_every_sample(runs: Path, evaluates: Evaluates):
    found = details(evaluates(runs / "strong", "--split", "train"))
    assert found["train_samples"] == 37  # the held-out patients too
    assert np.sum(found["train_confusion"], axis=1).tolist() == [27, 3, 3, 2, 2]
    assert "test_accuracy" not in found
    # What was fitted on some of these samples says nothing of them.
    assert (found["calibration"], found["calibrated"], found["pairs"]) == (None,) * 3


def test_evaluate_names_the_shards_in_another_way(runs: Path, evaluates: Evaluates):
    """The same data set has the same patients."""
    own = Path(reported(runs / "strong", "config.json")["shards"])
    found = details(evaluates(runs / "strong", "--shards", own / ".." / own.name))
    assert found["leak"] == {"eyes": 0, "total": 11, "unknown": 0}
    assert found["baselines"] == reported(runs / "strong")["baselines"]


def test_evaluate_calibrates_by_no_other_weights(
    runs: Path, evaluates: Evaluates, tmp_path: Path
):
    run = tmp_path / "run"
    shutil.copytree(runs / "strong", run)
    assert details(evaluates(run))["calibration"] is not None
    early = Predictions.load(run / "validation.parquet")
    other = replace(early.source, weights_sha256="f" * 64)
    replace(early, source=other).save(run / "validation.parquet")
    outcome = evaluates(run)
    assert details(outcome)["calibration"] is None
    assert "warning: nothing is calibrated, as the predictions" in outcome.err[0]


def test_evaluate_on_as_many_threads_as_the_run(
    runs: Path, evaluates: Evaluates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = json.loads((runs / "seed" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"threads": 3}))
    last = (runs / "seed" / "last.safetensors").read_bytes()
    (tmp_path / "last.safetensors").write_bytes(last)
    used: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", used.append)
    evaluates(tmp_path).json  # noqa: B018
    assert 3 in used


def test_evaluate_of_a_gpu_runs_precision_falls_back_where_it_must(
    runs: Path, evaluates: Evaluates, tmp_path: Path
):
    if torch.cuda.is_available():
        pytest.skip("fp16 can be had here")
    config = json.loads((runs / "seed" / "config.json").read_text())
    config["precision"], config["recipe"]["amp"] = "fp16", "fp16"
    for name in ("last.safetensors", "metrics.json"):
        (tmp_path / name).write_bytes((runs / "seed" / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert evaluates(tmp_path).json["test_samples"] == 11


def test_evaluate_on_shards_elsewhere(
    runs: Path, evaluates: Evaluates, make_course: Callable[..., Path], tmp_path: Path
):
    from fastretina.shard import command as shard

    course = make_course(tmp_path / "course", train=4, test=5)
    other = tmp_path / "other"
    assert shard.main([str(course), str(other), "--workers", "1"]) == 0
    found = details(evaluates(runs / "seed", "--shards", other))
    assert (found["test_samples"], found["shards"]) == (5, str(other))
    assert (found["leak"], found["baselines"]) == (None, None)  # others' numbers
    gone = evaluates(runs / "seed", "--shards", tmp_path / "gone")
    assert gone.code == 1
    assert "fastretina shard" in gone.complaint


def test_evaluate_without_a_checkpoint_is_one_line(
    runs: Path, evaluates: Evaluates, tmp_path: Path
):
    nothing = evaluates(tmp_path)
    assert nothing.code == 1
    assert "holds no run" in nothing.complaint
    config = (runs / "strong" / "config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(config)
    early = evaluates(tmp_path)
    assert early.code == 1
    assert "no checkpoint was saved yet" in early.complaint
    (tmp_path / "weights.safetensors").write_bytes(b"torn")
    torn = evaluates(tmp_path)
    assert torn.code == 1
    assert "weights.safetensors is damaged" in torn.complaint
    other = json.loads(config)
    other["recipe"]["arch"] = "resnet50"
    (tmp_path / "config.json").write_text(json.dumps(other))
    best = (runs / "strong" / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(best)
    wrong = evaluates(tmp_path)
    assert wrong.code == 1
    assert f"is of another run than {tmp_path}" in wrong.complaint


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("RUN", "--loader", "dvd"),
        ("RUN", "--split", "validation"),
        ("RUN", "--workers", "-1"),
    ],
)
def test_evaluate_with_flags_that_cant_be_meant_exits_2(
    evaluates: Evaluates, flags: tuple[str, ...]
):
    outcome = evaluates(*flags)
    assert outcome.code == 2
    assert len(outcome.err) == 1


# ---- predict_split


class Guess(nn.Module):
    """Logits from the mean of the image's red, so that each image has its own."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        red = images[:, 0].mean((1, 2))
        return torch.stack([red * grade for grade in range(5)], dim=1)


@pytest.mark.parametrize("size", [1, 3, 11, 32])
def test_predict_split_takes_every_sample_once_in_order(shards: Path, size: int):
    config = LoaderConfig(batch_size=size, workers=1)
    with open_split(shards, "test") as split:
        labels = split.labels
        with make_loader("turbo", split, "test", config) as loader:
            found = predict_split(
                Guess().eval(), split, loader, choose("cpu", "off"), ALONE
            )
    assert found.rows.tolist() == list(range(11))
    assert found.labels.tolist() == labels.tolist()
    assert found.probabilities.shape == (11, 5)
    assert found.probabilities.dtype == np.float64
    assert found.probabilities.sum(axis=1) == pytest.approx(np.ones(11))
    assert len(np.unique(found.probabilities[:, 0])) == 11
    matrix = confusion_matrix(labels, found.probabilities.argmax(1), labels=range(5))
    assert matrix.sum() == 11


def test_predict_split_of_a_network_gone_astray_is_one_line(shards: Path):
    class Astray(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 5), torch.nan)

    with (
        open_split(shards, "test") as split,
        make_loader("turbo", split, "test", LoaderConfig(workers=1)) as loader,
        pytest.raises(RunError, match="not finite"),
    ):
        predict_split(Astray().eval(), split, loader, choose("cpu", "off"), ALONE)


class Faulty:
    """A loader of five batches of the test split, one of which is not as it should."""

    def __init__(self, loader: Loader, fault: Callable[[Batch], list[Batch]]) -> None:
        self._loader, self._fault = loader, fault
        self.skipped = loader.skipped

    def epoch(self, number: int) -> Iterator[Batch]:
        for place, batch in enumerate(self._loader.epoch(number)):
            yield from self._fault(batch) if place == 2 else [batch]


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (lambda batch: [], "lost or doubled"),
        (lambda batch: [batch, batch], "lost or doubled"),
        (lambda batch: [batch._replace(index=batch.index - 2)], "came twice"),
        (lambda batch: [batch._replace(labels=batch.labels.roll(1))], "mixed up"),
        (lambda batch: [Batch(*(part[1:] for part in batch))], "lost or doubled"),
    ],
)
def test_predict_split_notices_a_loader_gone_wrong(
    fault: Callable[[Batch], list[Batch]], complaint: str, shards: Path
):
    config = LoaderConfig(batch_size=2, workers=1)
    network, compute = Guess().eval(), choose("cpu", "off")
    with (
        open_split(shards, "test") as split,
        make_loader("turbo", split, "test", config) as loader,
    ):
        split.labels[:] = np.arange(len(split.labels)) % 5  # no two alike in a batch
        predict_split(network, split, Faulty(loader, lambda b: [b]), compute, ALONE)
        with pytest.raises(AssertionError, match=complaint):
            predict_split(network, split, Faulty(loader, fault), compute, ALONE)


def test_predict_split_refuses_a_network_that_is_being_trained(shards: Path):
    with (
        open_split(shards, "test") as split,
        make_loader("turbo", split, "test", LoaderConfig(workers=1)) as loader,
        pytest.raises(AssertionError, match="eval mode"),
    ):
        predict_split(Guess().train(), split, loader, choose("cpu", "off"), ALONE)


def test_predict_split_can_be_stopped(shards: Path):
    def stop() -> None:
        raise KeyboardInterrupt

    config = LoaderConfig(batch_size=2, workers=1)
    with (
        open_split(shards, "test") as split,
        make_loader("turbo", split, "test", config) as loader,
        pytest.raises(KeyboardInterrupt),
    ):
        predict_split(Guess().eval(), split, loader, choose("cpu", "off"), ALONE, stop)


def test_evaluate_undoes_the_class_weights_as_the_run_does(
    shards: Path,
    tmp_path: Path,
    evaluates: Evaluates,
    capsys: pytest.CaptureFixture[str],
):
    flags = words(shards, tmp_path / "run", "--class-weights", "balanced")
    call(train.main, flags, capsys).json  # noqa: B018  # asserts that it went well
    outcome = evaluates(tmp_path / "run")
    recorded = reported(tmp_path / "run")["prior_corrected"]
    assert recorded is not None
    assert details(outcome)["prior_corrected"] == recorded
    assert any("with the class weights undone" in line for line in outcome.out)
