"""A run whose photographs are all of one grade has no QWK, and ends well."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import course_folder
from report_pages import Page
from small_runs import call, log, make_small, words

from fastretina.report import command as report
from fastretina.shard import command as shard
from fastretina.train import command as train
from fastretina.train.state import Best


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """20 + 6 photographs, all of grade 0."""
    course = course_folder(tmp_path / "course", train=20, test=6)
    for split, count in (("train", 20), ("test", 6)):
        (course / f"{split}_label.csv").write_text("0\n" * count)
    flags = ["--samples-per-shard", "10", "--workers", "1"]
    assert shard.main([str(course), str(tmp_path / "shards"), *flags]) == 0
    return tmp_path / "shards"


def test_run_of_one_grade_has_a_dash_for_its_qwk(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    make_small(monkeypatch)
    run = tmp_path / "run"
    flags = ["--validation", 0, "--test-each-epoch", "--ema-decay", 0]
    flags += ["--head-lr", 0.3, "--lr", 0.01, "--head-epochs", 3]
    outcome = call(train.main, words(shards, run, *flags), capsys)
    assert outcome.json["test_accuracy"] == 1
    assert outcome.json["test_qwk"] is None
    last = log(run)[-1]
    assert (last["test_accuracy"], last["test_qwk"]) == ("1.0", "")
    printed = [line for line in outcome.err if line.startswith("epoch ")]
    assert "test 100.0% QWK -" in printed[-1]
    saved = json.loads((run / "metrics.json").read_text())
    assert saved["test"]["qwk"] is None
    assert any("QWK -, macro-F1 1.000" in line for line in outcome.out)
    assert "| 100.0% | 100.0% | - |" in (run / "model_card.md").read_text()

    assert call(report.main, [str(run), "--mistakes", "0"], capsys).code == 0
    page = Page(run / "report.html")
    assert "QWK - no interval" in page.words


def test_best_epoch_is_chosen_where_some_have_no_qwk(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    make_small(monkeypatch)
    run = tmp_path / "run"
    flags = ["--validation", 0.3, "--head-lr", 0.3, "--lr", 0.01]
    assert call(train.main, words(shards, run, *flags), capsys).code == 0
    rows = log(run)
    assert "" in {row["validation_qwk"] for row in rows}
    scores = [
        (float(row["validation_qwk"] or "-inf"), float(row["validation_accuracy"]))
        for row in rows
    ]
    chosen = json.loads((run / "metrics.json").read_text())["checkpoint_epoch"]
    assert chosen == 1 + scores.index(max(scores))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0.5, 0.2), (None, 1.0)),
        ((-1.0, 0.0), (None, 1.0)),
        ((None, 0.9), (None, 0.8)),
        ((0.6, 0.2), (0.5, 0.9)),
    ],
)
def test_epoch_without_qwk_is_worse_than_any_with_one(
    first: tuple[float | None, float], second: tuple[float | None, float]
):
    better, worse = Best(2, *first), Best(1, *second)
    assert better.order_key > worse.order_key
    assert Best.from_json(json.loads(json.dumps(better.as_json()))) == better
