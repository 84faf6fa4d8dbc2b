"""A stranger's slips: one line that names the mistake, in words that he knows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_runs import call, make_small, words

from fastretina import cli
from fastretina.train import command as train
from loaders.contents import describe_mistake, look_into

INTERNAL = ("Traceback", "manifest.json", "config.json", "metrics.json", "parquet")


@pytest.fixture(scope="module")
def home(shards: Path, course: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``photos``, ``shards`` and ``runs/a``, with an empty folder and a text."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(course / "data", folder / "photos")
    shutil.copytree(shards, folder / "shards")
    (folder / "empty").mkdir()
    (folder / "README.md").write_text("# Notes\n")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        flags = words(folder / "shards", folder / "runs" / "a", "--max-steps", 1)
        assert train.main(flags) == 0
    return folder


NO_RUN = "not a run: "
NO_SHARDS = "not shards: "
CALLS = [
    ("train --shards photos", "photos holds photographs, " + NO_SHARDS),
    ("train --shards photos", "'fastretina shard photos shards'"),
    ("train --shards runs/a", "runs/a holds a run, " + NO_SHARDS),
    ("train --shards photos/10_left.jpeg", "is a photograph, " + NO_SHARDS),
    ("train --shards shards/train-000000.tar", "name that folder, shards"),
    ("train --shards README.md", "README.md is a file, " + NO_SHARDS),
    ("train --test-shards photos", "photos holds photographs, " + NO_SHARDS),
    ("train --resume shards", "shards holds shards, " + NO_RUN),
    ("train --resume photos", "photos holds photographs, " + NO_RUN),
    ("train --resume runs", "runs holds several runs, " + NO_RUN),
    ("train --resume runs/a/log.csv", "is a file of a run, " + NO_RUN),
    ("train --resume gone", "gone does not exist: "),
    ("train --resume empty", "empty holds no run: "),
    ("train --weights none --out README.md", "--out must be a folder for the run"),
    ("train --weights README.md", "README.md is a text, and holds no weights"),
    ("train --weights runs/a", "name runs/a/weights.safetensors"),
    ("train --weights gone", "weights must be none, imagenet or a file, got gone"),
    ("evaluate shards", "'fastretina train --shards shards' makes one"),
    ("evaluate photos/10_left.jpeg", "is a photograph, " + NO_RUN),
    ("evaluate runs/a/weights.safetensors", "name its folder, runs/a"),
    ("evaluate runs/a --shards photos", "photos holds photographs, " + NO_SHARDS),
    ("predict photos/10_left.jpeg runs/a", "is a photograph, " + NO_RUN),
    ("predict photos runs/a", "photos holds photographs, " + NO_RUN),
    ("predict runs/a photos --out empty", "--out must be a file, got the folder"),
    ("report photos", "photos holds photographs, not a run or an experiment"),
    ("report shards", "shards holds shards, not a run or an experiment"),
    ("report runs/a --shards photos", "photos holds photographs, " + NO_SHARDS),
    ("export photos", "photos holds photographs, " + NO_RUN),
    ("parity --data photos --shards photos", "photos holds photographs, " + NO_SHARDS),
    ("doctor --shards photos", "photos holds photographs, " + NO_SHARDS),
    ("experiments table --shards runs/a", "runs/a holds a run, " + NO_SHARDS),
    ("experiments table --out README.md", "--out must be a folder, got the file"),
    ("experiments table --warmup-epochs 500", "--warmup-epochs must be at most 10"),
    ("experiments table --threads 0", "--threads must lie in 1 to 1,024, got 0"),
    ("train shards", "shards (the flag before it may be missing)"),
    ("train --lr fast", "--lr must be a number, got 'fast'"),
    ("train --momentum 5", "--momentum must lie in 0 to below 1, got 5.0"),
    ("train --head-epochs -1", "--head-epochs must be at least 0, got -1"),
]


@pytest.mark.parametrize(("words_typed", "text"), CALLS)
def test_wrong_call_is_one_line_that_names_the_mistake(
    words_typed: str,
    text: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    if words_typed.startswith("export"):
        pytest.importorskip("onnxscript", reason="pip install 'fastretina[export]'")
    make_small(monkeypatch)
    monkeypatch.chdir(home)
    outcome = call(cli.main, words_typed.split(), capsys)
    assert outcome.code in (1, 2)
    assert outcome.out == []
    assert text in outcome.complaint
    assert len(outcome.err) == 1
    if "log.csv" not in words_typed:
        assert not any(name in outcome.complaint for name in INTERNAL)


def test_contents_are_told_by_names_alone(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "experiment.json").touch()
    (tmp_path / "grades" / "0").mkdir(parents=True)
    (tmp_path / "grades" / "0" / "eye.PNG").touch()
    (tmp_path / "empty").mkdir()
    for name, kind, text in (
        ("experiment", "experiment", "holds an experiment"),
        ("grades", "photographs", "holds photographs"),
        ("grades/0/eye.PNG", "photograph", "is a photograph"),
        ("empty", "other", "holds something else"),
        ("gone", "nothing", "does not exist"),
    ):
        assert look_into(tmp_path / name) == kind
        assert describe_mistake(tmp_path / name) == text
