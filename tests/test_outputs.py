"""Whether an output can be written is asked before the work, and before torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import contents
from reported_runs import made_up_run

from fastretina.outputs import ask_for_file, ask_for_folder
from loaders.errors import DataError

ROOT = Path(__file__).parents[1]
# All commands in one process, each with its words; a line of JSON tells of each.
COMMANDS = """
import contextlib, io, json, sys
from fastretina import cli
for words in json.load(sys.stdin):
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        code = cli.main(words)
    print(json.dumps([code, err.getvalue(), "torch" in sys.modules]))
"""


def test_output_that_cant_be_written_is_named_before_the_work(
    shards: Path, course: Path, tmp_path: Path
) -> None:
    run = made_up_run(tmp_path / "run")
    before = contents(tmp_path)
    file = tmp_path / "run" / "config.json"  # where a folder should be
    out, photographs = str(file / "out"), str(course / "data")
    calls = [
        ["train", "--shards", shards, "--out", run],
        ["train", "--shards", shards, "--out", out],
        ["train", "--shards", shards, "--out", file],
        ["experiments", "table", "--shards", shards, "--out", out],
        ["experiments", "standin", "--out", out],
        ["shard", course, out],
        ["demo", out],
        ["audit", course, "--fix", out],
        ["predict", run, photographs, "--overlays", out],
        # As root writes anywhere, and a folder has to be there: a folder in the place.
        ["predict", run, photographs, "--out", "/proc/out.csv"],
        ["evaluate", run, "--out", "/proc/out.parquet"],
        ["evaluate", run, "--details", "/proc/out.json"],
        ["report", run, "--out", "/proc/out.html"],
        ["export", run, "--out", "/proc/out.onnx"],
        ["audit", course, "--out", "/proc/out.json"],
        ["doctor", "--shards", shards, "--out", "/proc/out.png"],
    ]
    given = [[str(word) for word in words] for words in calls]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input=json.dumps(given),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(given), done.stderr
    for words, (code, err, with_torch) in zip(given, lines, strict=True):
        assert (code, with_torch) == (1, False), (words, err)
        assert err.startswith("error: "), err
        assert err.count("\n") == 1, err
        assert words[-1] in err or str(file) in err, err
        assert ".part" not in err
    assert contents(tmp_path) == before


def test_asking_leaves_nothing_behind(tmp_path: Path) -> None:
    ask_for_file(tmp_path / "chart.png")
    ask_for_folder(tmp_path)
    ask_for_folder(tmp_path / "a" / "b")
    (tmp_path / "fastretina").mkdir()
    ask_for_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["fastretina"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match=r"--out .*/a/b can't be written \(Permission"):
        ask_for_folder(tmp_path / "a" / "b")
    with pytest.raises(DataError, match="Permission denied"):
        ask_for_file(tmp_path / "a")


def test_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"--fix {tmp_path} can't be written"):
        ask_for_file(tmp_path, "--fix")


def test_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"\(.*/file: Not a directory\)"):
        ask_for_folder(tmp_path / "file" / "a" / "b")
