"""Who takes a run that has not ended is told so, once, and served."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import call, make_small, words

from fastretina.evaluate import command as evaluate
from fastretina.export import command as export
from fastretina.nn import checkpoint
from fastretina.nn.trained import load_trained
from fastretina.predict import command as predict
from fastretina.report import command as report
from fastretina.run import Run
from fastretina.train import command as train

Main = Callable[..., int]


@pytest.fixture(scope="module")
def ended(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs."""
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        assert train.main(words(shards, run)) == 0
    return run


@pytest.fixture
def unfinished(ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as it was before its end."""
    make_small(monkeypatch)
    run = tmp_path / "run"
    shutil.copytree(ended, run)
    for name in ("metrics.json", "test.parquet", "validation.parquet"):
        (run / name).unlink()
    lines = (run / "log.csv").read_text().splitlines()
    (run / "log.csv").write_text("\n".join(lines[:3]) + "\n")
    return run


@pytest.mark.parametrize("main", [evaluate.main, predict.main, export.main])
def test_run_that_has_not_ended_is_warned_of(
    main: Main,
    unfinished: Path,
    course: Path,
    capsys: pytest.CaptureFixture[str],
    ended: Path,
):
    if main is export.main:
        pytest.importorskip("onnxscript", reason="pip install 'fastretina[export]'")
    more = [str(course / "data" / "10_left.jpeg")] if main is predict.main else []
    outcome = call(main, [str(unfinished), *more], capsys)
    assert outcome.code == 0
    (warning,) = [line for line in outcome.err if "finished" in line]
    epoch = load_trained(Run(ended), device()).checkpoint_epoch
    assert warning == (
        f"warning: {unfinished} is not finished: it has trained 2 of 3 epochs; "
        f"'fastretina train --resume {unfinished}' finishes it; until then its weights "
        f"are those of epoch {epoch}"
    )
    done = call(main, [str(ended), *more], capsys)
    assert not [line for line in done.err if "finished" in line]


def device():
    import torch

    return torch.device("cpu")


def test_run_without_an_epoch_is_told_to_be_as_it_started(
    unfinished: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("log.csv", "weights.safetensors"):
        (unfinished / name).unlink()
    tensors, _ = checkpoint.load(unfinished / "last.safetensors")
    checkpoint.save(unfinished / "last.safetensors", tensors, {"best": None})
    outcome = call(evaluate.main, [str(unfinished)], capsys)
    assert "it has trained 0 of 3 epochs" in outcome.err[0]
    assert outcome.err[0].endswith("its weights are those that it started from")


def test_run_that_went_on_within_its_first_epoch_has_trained_none(
    unfinished: Path, capsys: pytest.CaptureFixture[str]
):
    """Its log, written anew from the checkpoint, holds a header alone."""
    Run(unfinished).write_log([])
    outcome = call(evaluate.main, [str(unfinished)], capsys)
    assert outcome.code == 0
    assert "it has trained 0 of 3 epochs" in outcome.err[0]
    complaint = call(report.main, [str(unfinished)], capsys).complaint
    assert "has trained 0 of 3 epochs" in complaint


def test_report_of_an_unfinished_run_says_how_far_it_is(
    unfinished: Path, capsys: pytest.CaptureFixture[str]
):
    outcome = call(report.main, [str(unfinished)], capsys)
    assert "has trained 2 of 3 epochs" in outcome.complaint
    assert "metrics.json" not in outcome.complaint


def test_run_of_an_older_version_is_judged_by_its_best(
    ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: Path
):
    """Which it kept as a whole checkpoint; resumed, it has its weights alone."""
    make_small(monkeypatch)
    run = Run(tmp_path / "run")
    shutil.copytree(ended, run.path)
    weights, state = checkpoint.load(run.weights)
    run.weights.unlink()
    old = {"best": {"epoch": state["epoch"], "score": [0.5, 0.5]}}
    both = checkpoint.prefixed("ema", weights)
    both |= {f"model.{name}": tensor + 1 for name, tensor in weights.items()}
    checkpoint.save(run.old_best, both, old)
    now, then = load_trained(run, device()), load_trained(Run(ended), device())
    assert now.weights_sha256 == then.weights_sha256
    assert (now.checkpoint, now.checkpoint_epoch) == ("best", then.checkpoint_epoch)
    assert train.main(["--resume", str(run.path)]) == 0
    assert not run.old_best.exists()
    again, kept = checkpoint.load(run.weights)
    assert kept == state
    assert all((again[name] == weights[name]).all() for name in weights)
