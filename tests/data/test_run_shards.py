"""A run's shards are found from anywhere, and after both have moved."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import Outcome, call, make_small, words

from fastretina.data.run_shards import recorded_place, shards_of_run
from fastretina.evaluate import command as evaluate
from fastretina.run import Run
from fastretina.train import command as train
from loaders.errors import RunError


@pytest.fixture
def moved(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Path:
    """A folder with ``shards`` and ``runs/a``, begun in it; now we are elsewhere."""
    make_small(monkeypatch)
    home = tmp_path / "home"
    shutil.copytree(shards, home / "shards")
    monkeypatch.chdir(home)
    flags = words(Path("shards"), Path("runs/a"), "--max-steps", 2)
    call(train.main, flags, capsys).json  # noqa: B018  # asserts that it went well
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return home


def rewrite(run: Path, **changes: object) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | changes))


def evaluated(run: Path, capsys: pytest.CaptureFixture[str], *more: object) -> Outcome:
    return call(evaluate.main, [str(run), *map(str, more)], capsys)


def test_run_is_evaluated_and_resumed_from_another_directory(
    moved: Path, capsys: pytest.CaptureFixture[str]
):
    run = moved / "runs" / "a"
    assert Run(run).config().shards == str(moved / "shards")
    assert evaluated(run, capsys).json["shards"] == str(moved / "shards")
    again = call(train.main, ["--resume", str(run)], capsys)
    assert again.code == 0
    assert again.err == []


def test_same_shards_by_another_name_are_no_change(
    moved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(moved)
    rewrite(moved / "runs" / "a", shards="shards")  # as an older version wrote it
    for name in ("shards", "./shards", moved / "shards", "runs/../shards"):
        flags = ["--resume", "runs/a", "--shards", str(name)]
        outcome = call(train.main, flags, capsys)
        assert outcome.code == 0
        assert not [line for line in outcome.err if "shards was" in line]


def test_shards_that_moved_with_their_run_are_found(
    moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    moved.rename(tmp_path / "new")
    run = tmp_path / "new" / "runs" / "a"
    assert evaluated(run, capsys).json["shards"] == str(tmp_path / "new" / "shards")
    rewrite(run, shards="shards")  # an older version's
    assert evaluated(run, capsys).json["shards"] == str(tmp_path / "new" / "shards")


def test_other_shards_of_that_name_are_not_taken_for_the_runs(
    moved: Path, tmp_path: Path
):
    run = Run(moved / "runs" / "a")
    data = replace(run.config().data, fingerprint="0" * 64)
    run.write_config(replace(run.config(), shards="/gone/shards", data=data))
    with pytest.raises(RunError, match="no longer in /gone/shards"):
        shards_of_run(run, "train")
    # Where the run says it is, other data is told of as such, not as missing.
    run.write_config(replace(run.config(), shards=str(moved / "shards")))
    assert shards_of_run(run, "train") == str(moved / "shards")


def test_shards_that_are_gone_are_asked_for_by_the_flag(
    moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, away = moved / "runs" / "a", tmp_path / "away"
    (moved / "shards").rename(away)
    complaint = evaluated(run, capsys).complaint
    assert complaint == (
        f"error: the shards that {run} was tested on are no longer in "
        f"{moved / 'shards'}: pass --shards and the folder that they are in now"
    )
    resumed = call(train.main, ["--resume", str(run)], capsys)
    assert (resumed.code, len(resumed.err)) == (1, 1)
    assert "was trained on are no longer in" in resumed.complaint
    assert "pass --shards" in resumed.complaint
    assert evaluated(run, capsys, "--shards", away).code == 0
    assert call(train.main, ["--resume", str(run), "--shards", str(away)], capsys).json
    assert Run(run).config().shards == str(away)  # which is the run's from here on


def test_test_shards_have_a_flag_of_their_own(
    moved: Path, capsys: pytest.CaptureFixture[str]
):
    run = Run(moved / "runs" / "a")
    run.write_config(replace(run.config(), test_shards="/gone/test"))
    outcome = call(train.main, ["--resume", str(run.path)], capsys)
    assert "/gone/test: pass --test-shards" in outcome.complaint


def test_recorded_place_is_absolute_but_for_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert recorded_place("a/../shards") == str(tmp_path / "shards")
    assert recorded_place("https://host/shards") == "https://host/shards"
