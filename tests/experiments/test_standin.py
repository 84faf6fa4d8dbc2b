"""Stand-in weights: made by a command, and taken by the experiments."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_experiments import LONG, small_child, use_small
from small_runs import call

from fastretina.experiments import command as experiments
from fastretina.experiments import worker
from fastretina.experiments.flags import Options
from fastretina.nn.model import build_model, weights_sha256
from fastretina.train.state import TrainState

SMALL = ["--arch", "resnet18", "--images", 24, "--image-size", 64, "--threads", 1]


def test_standin_makes_weights_that_the_table_starts_from(
    tmp_path: Path,
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    use_small(monkeypatch)
    out = tmp_path / "standin"
    words = ["standin", "--out", out, *SMALL, "--epochs", 1]
    first = call(experiments.main, words, capsys)
    path = out / "resnet18.safetensors"
    assert first.json["files"] == {"resnet18": str(path)}
    weights = load_file(path)
    assert first.json["weights_sha256"] == {"resnet18": weights_sha256(weights)}
    assert not [name for name in weights if name.startswith("fc.")]
    network = build_model("resnet18", str(path), seed=1).state_dict()
    for name, tensor in weights.items():
        assert (network[name] == tensor).all(), name
    untrained = build_model("resnet18", "none", seed=0).state_dict()
    assert (weights["conv1.weight"] != untrained["conv1.weight"]).any()

    (out / "resnet50.safetensors").write_bytes(b"")
    options = Options(name="table", shards=str(shards), pretrained=out, out=tmp_path)
    cells = experiments.make_plan(options, [], 64).cells
    assert cells[0].recipe.weights == str(path)
    assert cells[0].title == "ResNet18, weights of standin"

    before = path.read_bytes()
    again = call(experiments.main, words, capsys)
    assert again.json == first.json
    assert "training" not in "\n".join(again.err)  # it is there already
    assert path.read_bytes() == before
    other = call(experiments.main, [*words, "--seed", 8], capsys)
    assert other.code == 1
    assert "holds an experiment with other settings" in other.complaint


def stopping_child(pid: int, number: int, *parts: Any) -> None:
    """A run's process which, once, saves a checkpoint and sends this signal.

    Where it is not killed by that itself, it waits to be asked to stop.
    """
    save = TrainState.save

    def save_and_stop(state: TrainState) -> None:
        patch.undo()  # this time only
        save(state)
        state.wait_saved()
        before, came = signal.getsignal(signal.SIGTERM), threading.Event()
        assert callable(before), "a run notes SIGTERM"
        signal.signal(signal.SIGTERM, lambda *_: came.set())
        os.kill(pid or os.getpid(), number)
        assert came.wait(LONG), "nobody has asked it to stop"
        before(signal.SIGTERM, None)

    patch = pytest.MonkeyPatch()
    patch.setattr(TrainState, "save", save_and_stop)
    small_child(*parts)


@pytest.mark.parametrize("killed", [False, True], ids=["Ctrl-C", "kill -9"])
def test_stopped_standin_goes_on_to_the_same_weights(
    killed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Ctrl-C in the command's own process, or the end of the run's process."""
    use_small(monkeypatch)
    out, whole = tmp_path / "out", tmp_path / "whole"
    words = ["standin", *SMALL, "--epochs", 2, "--out"]
    with monkeypatch.context() as patch:
        stop = (0, signal.SIGKILL) if killed else (os.getpid(), signal.SIGINT)
        patch.setattr(worker, "_child", partial(stopping_child, *stop))
        stopped = call(experiments.main, [*words, out], capsys)
    if killed:
        assert stopped.code == 1
        assert "resnet18 could not be trained: its process was killed" in (
            stopped.complaint
        )
    else:
        assert stopped.code == 130
        line = "interrupted: the same command goes on where it was"
        assert stopped.err[-1] == line
    run, drawn = out / "work" / "resnet18", out / "work" / "shards" / "manifest.json"
    assert (run / "last.safetensors").exists()
    assert not (run / "metrics.json").exists()
    assert not (out / "resnet18.safetensors").exists()

    before = drawn.stat().st_mtime_ns
    went_on = call(experiments.main, [*words, out], capsys).json
    assert drawn.stat().st_mtime_ns == before
    (whole / "work").mkdir(parents=True)  # the same photographs, drawn once
    (out / "work" / "shards").rename(whole / "work" / "shards")
    at_once = call(experiments.main, [*words, whole], capsys).json
    assert went_on["weights_sha256"] == at_once["weights_sha256"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be 0 to 2**32 - 1, got -1"),
        (["--seed", str(2**32)], "--seed must be 0 to 2**32 - 1, got 4294967296"),
        (["--image-size", "32"], "--image-size must be 64 to 512, got 32"),
        (["--arch", "vgg"], "vgg"),
    ],
)
def test_standin_refuses_flags_that_cant_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], line: str
):
    words = ["standin", "--out", str(tmp_path / "out"), *flags]
    outcome = call(experiments.main, words, capsys)
    assert outcome.code == 2
    assert line in outcome.complaint
    assert not (tmp_path / "out").exists()


def test_standin_teaches_its_use(capsys: pytest.CaptureFixture[str]):
    outcome = call(experiments.main, ["standin", "--help"], capsys)
    assert outcome.code == 0
    text = " ".join("\n".join(outcome.out).split())
    assert "Example: fastretina experiments standin --out standin" in text
    assert "table --pretrained standin" in text
