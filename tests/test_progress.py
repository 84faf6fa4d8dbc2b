"""Progress: a bar on a terminal, lines without one, nothing where none is wanted."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import Outcome, call, make_small, words

from fastretina import cli, progress
from fastretina.progress import hidden, hushed, progress_bar, report_progress
from fastretina.recipe import STRONG
from fastretina.run import LoggedEpoch
from fastretina.train import command as train
from fastretina.train.outlook import describe_outlook


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line whenever there is something new."""
    monkeypatch.setattr(progress, "SECONDS", 0.0)


def advance(bar: Iterator[object] | object) -> None:
    with bar as shown:  # type: ignore[attr-defined]
        for _ in range(4):
            shown.update(25)


@pytest.mark.usefixtures("often")
def test_progress_without_a_terminal_is_whole_lines(
    capsys: pytest.CaptureFixture[str],
):
    advance(progress_bar("epoch 1/2 head", 100))
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("epoch 1/2 head: 100%, ")
    assert " images/s, 00:00 left" in lines[-1]
    assert not any("\r" in line for line in lines)
    assert any(line.startswith("epoch 1/2 head: 50%") for line in lines)


def test_progress_without_a_terminal_is_rare(capsys: pytest.CaptureFixture[str]):
    assert progress.SECONDS == 30
    advance(progress_bar("epoch 1/2 head", 100))
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    advance(progress_bar("epoch 1/2 head", 100))
    assert "\repoch 1/2 head:   0%|" in terminal.getvalue()
    assert "images/s" in terminal.getvalue()


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
@pytest.mark.usefixtures("often")
def test_progress_is_silent_if_quiet_or_not_the_first_rank(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
):
    terminal = stream()
    monkeypatch.setattr(sys, "stderr", terminal)
    advance(progress_bar("reading", 100, shown=False))
    with hushed(True):
        advance(progress_bar("reading", 100))
        report_progress("epoch")
        assert hidden() is True
        with hushed(False):  # within a command that was told to be quiet
            report_progress("epoch")
    assert terminal.getvalue() == ""
    assert hidden() is None
    report_progress("epoch")
    assert terminal.getvalue() == "epoch\n"


@pytest.fixture
def trained(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    make_small(monkeypatch)

    def run(*more: object) -> Outcome:
        return call(train.main, words(shards, tmp_path / "run", *more), capsys)

    return run


@pytest.mark.usefixtures("often")
def test_train_without_a_terminal_says_how_long_epoch_and_run_will_take(trained):
    lines = trained().err
    within = [line for line in lines if line.startswith("epoch 2/3 full: 30%")]
    assert within, lines
    assert " images/s, " in within[0]
    assert "waiting, run: " in within[0]
    assert within[0].endswith(" left")
    assert any(line.startswith("predicting train: ") for line in lines)
    assert any(line.startswith("predicting test: ") for line in lines)
    ends = [line for line in lines if line.startswith("epoch  ")]
    assert len(ends) == 3


@pytest.mark.usefixtures("often")
def test_train_quiet_keeps_warnings_results_and_weights(trained, tmp_path: Path):
    outcome = trained("--quiet")
    assert outcome.err == []
    assert outcome.json["epochs"] == 3
    assert outcome.out[0].startswith("test, with the weights of")
    bad = trained("--quiet")
    assert bad.code == 1
    assert "holds a run already" in bad.complaint


def test_quiet_is_taken_by_every_command(capsys: pytest.CaptureFixture[str]):
    for name in cli.COMMANDS:
        assert cli.main([name, "--quiet", "--version"]) == 0
        assert cli.main([name, "--help"]) == 0
        assert "--quiet" in capsys.readouterr().out, name


def row(phase: str, seconds: float) -> LoggedEpoch:
    return LoggedEpoch(
        epoch=1,
        phase=phase,  # type: ignore[arg-type]
        lr=0.1,
        train_loss=1.0,
        train_accuracy=0.5,
        images_per_second=1.0,
        wait_seconds=0.0,
        seconds=seconds,
    )


RECIPE = replace(STRONG, head_epochs=2, full_epochs=3)


@pytest.mark.parametrize(
    ("rows", "position", "epoch", "around", "text"),
    [
        # 1.5 epochs of phase 1 are left, and 3 of phase 2 that may take longer.
        ([], 0.5, 10.0, 0.0, "run: over 45 s left"),
        ([row("head", 9.0)], 1.5, 10.0, 2.0, "run: over 43 s left"),
        # Half of the third epoch, and two whole ones, with three evaluations.
        ([row("head", 9.0)] * 2, 2.5, 20.0, 2.0, "run: 56 s left"),
        (
            [row("head", 9.0)] * 2 + [row("full", 30.0)] * 2,
            4.5,
            20.0,
            0.0,
            "run: 10 s left",
        ),
    ],
)
def test_outlook_counts_what_is_left_of_each_phase(
    rows: list[LoggedEpoch], position: float, epoch: float, around: float, text: str
):
    assert describe_outlook(RECIPE, rows, position, epoch, around) == text


def test_outlook_of_one_phase_alone_is_sure():
    recipe = replace(STRONG, head_epochs=2, full_epochs=0)
    assert describe_outlook(recipe, [], 0.5, 10.0, 0.0) == "run: 15 s left"


def test_json_lines_of_training_are_short(trained):
    line = json.loads(trained("--quiet").out[-1])
    assert len(line) <= 24
    assert set(line.pop("changed_parameters")) == {"head", "full"}
    assert not any(isinstance(each, (dict, list)) for each in line.values())
