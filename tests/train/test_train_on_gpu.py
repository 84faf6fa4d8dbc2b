"""The trainer, as only a GPU can try it."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from on_gpu import DEVICE, MARKS, OURS
from small_runs import call, finish, log, make_small, start, words

from fastretina.run import Run
from fastretina.train import command as train
from loaders import available

pytestmark = MARKS


@pytest.fixture
def small(monkeypatch):
    make_small(monkeypatch)


def flags(shards, out, name, *more):
    given = ("--loader", name, "--device", DEVICE, "--lr", 0.01, *more)
    return words(shards, out, *given)


@pytest.mark.parametrize("name", available())
def test_trainer_trains_with_every_loader(name, shards, tmp_path, capsys, small):
    found = call(train.main, flags(shards, tmp_path / "run", name), capsys).json
    assert found["device"].startswith(DEVICE)
    assert found["loader"] == name
    assert found["steps"] == 12
    assert 0 <= found["wait_fraction"] <= 1
    losses = [float(row["train_loss"]) for row in log(tmp_path / "run")]
    assert len(losses) == 3
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("name", OURS)
def test_loaders_train_alike(name, shards, tmp_path, capsys, small):
    """Not to the last bit, as convolutions on a GPU don't repeat."""
    runs = {}
    for loader in ("turbo", name):
        run = tmp_path / loader
        call(train.main, flags(shards, run, loader, "--amp", "off"), capsys)
        runs[loader] = [float(row["train_loss"]) for row in log(run)]
    assert runs[name] == pytest.approx(runs["turbo"], rel=0.02)


def test_resnet18_takes_a_step_in_bf16(shards, tmp_path, capsys):
    given = ("--loader", "auto", "--max-steps", 2, "--head-epochs", 0)
    argv = words(shards, tmp_path / "run", "--device", DEVICE, *given)
    found = call(train.main, argv, capsys).json
    assert found["steps"] == 2
    assert found["loader"] == ("dali" if "dali" in available() else "turbo")


@pytest.mark.parametrize("name", OURS)
def test_run_that_was_stopped_resumes(name, shards, tmp_path, capsys, small):
    whole, run = tmp_path / "whole", tmp_path / "run"
    call(train.main, flags(shards, whole, name, "--amp", "off"), capsys)
    argv = flags(shards, run, name, "--amp", "off")
    at = ("fastretina.train.state:TrainState.count", 8, "after")
    output = tmp_path / "output"
    stopped = finish(start(argv, output, at, signal.SIGTERM), output)
    assert stopped.code == 130, stopped.err
    assert not (run / "metrics.json").exists()
    resumed = call(
        train.main,
        ["--resume", str(run), "--loader", name, "--device", DEVICE],
        capsys,
    )
    assert resumed.json["steps"] == 12
    assert Run(run).metrics()["epochs"] == 3
    losses = [[float(row["train_loss"]) for row in log(path)] for path in (run, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
