"""Links in a stranger's folder: nothing behind them is written or removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from fastretina.demo import command as demo
from fastretina.experiments.variants import BY_IMAGE, make_variant
from fastretina.recipe import STRONG
from fastretina.report import command as report
from fastretina.report.picture import Picture, save_all
from fastretina.run import LoggedEpoch, Run, create_run
from fastretina.shard import command as shard
from fastretina.shard.unpacking import UnpackFolder
from loaders.files import ProcessLock
from loaders.tar import ShardWriter

REFUSED = "Is a link, and what is written there would lie elsewhere: remove it"
ROW = LoggedEpoch(
    epoch=1,
    phase="head",
    lr=0.1,
    train_loss=1.0,
    train_accuracy=0.5,
    images_per_second=1.0,
    wait_seconds=0.0,
    seconds=1.0,
)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder of the user's, with names that ours have."""
    folder = tmp_path / "elsewhere"
    (folder / "images").mkdir(parents=True)
    (folder / "replacement").mkdir()
    (folder / ".progress").mkdir()
    for name in (
        *("thesis.epoch-001", "events.out.tfevents.1.2.epoch-001", "train-000000.tar"),
        *(".last.fastretina-4194303-0123abcd.part", "manifest.json", "lock"),
        *("images/mine.jpeg", "replacement/manifest.json", "plan.json", "mine.jpeg"),
    ):
        (folder / name).write_text("mine")
    return folder


@pytest.fixture
def untouched(elsewhere: Path) -> Callable[[], bool]:
    def content() -> dict[str, str]:
        return {
            str(path): path.read_text() if path.is_file() else ""
            for path in elsewhere.rglob("*")
        }

    before = content()
    return lambda: content() == before


def test_events_of_a_run_are_in_it(
    tmp_path: Path, elsewhere: Path, untouched: Callable[[], bool]
) -> None:
    """Found by a review: ``thesis.epoch-001`` was removed."""
    run = Run(tmp_path / "run")
    run.path.mkdir()
    (run.path / "tensorboard").symlink_to(elsewhere)
    for use in (
        lambda: run.write_events(ROW, 1),
        run.remove_partial_files,
        lambda: create_run(run.path, STRONG),
    ):
        with pytest.raises(OSError, match=f"{REFUSED}.*tensorboard'"):
            use()
    assert untouched()


def test_of_events_only_those_of_the_epoch_are_replaced(
    tmp_path: Path, elsewhere: Path, untouched: Callable[[], bool]
) -> None:
    folder = tmp_path / "tensorboard"
    folder.mkdir()
    (folder / "thesis.epoch-001").write_text("mine")
    (folder / "events.out.tfevents.1.2.epoch-001").symlink_to(
        elsewhere / "thesis.epoch-001"
    )
    Run(tmp_path).write_events(ROW, 1)
    names = {path.name for path in folder.iterdir()}
    assert "thesis.epoch-001" in names
    assert len(names) == 2
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert untouched()


@pytest.mark.parametrize("there", [True, False])
def test_lock_is_no_link(
    there: bool, tmp_path: Path, elsewhere: Path, untouched: Callable[[], bool]
) -> None:
    lock = tmp_path / ".lock"
    lock.symlink_to(elsewhere / ("mine.jpeg" if there else "absent"))
    with pytest.raises(OSError, match=f"{REFUSED}.*lock'"):
        ProcessLock(lock)
    assert lock.is_symlink()
    with pytest.raises(OSError, match="lock"), FileLock(lock, timeout=0):
        pass
    assert untouched()


def test_figures_of_a_run_are_in_it(
    tmp_path: Path, elsewhere: Path, untouched: Callable[[], bool]
) -> None:
    (tmp_path / "figures").symlink_to(elsewhere)
    picture = Picture(name="a", png=b"", width=1, height=1, alt="", caption="")
    with pytest.raises(OSError, match=f"{REFUSED}.*figures'"):
        save_all([picture], tmp_path / "figures")
    assert untouched()


def test_report_asks_before_it_works(
    tmp_path: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "figures").symlink_to(elsewhere)
    assert report.main([str(tmp_path)]) == 1
    assert REFUSED in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [".progress", ".progress/replacement", "../.out.replaced.part", ".progress/lock"],
)
def test_shards_are_written_where_they_are(
    name: str,
    course: Path,
    tmp_path: Path,
    elsewhere: Path,
    untouched: Callable[[], bool],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    link = out / name
    out.mkdir()
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere / "lock" if name.endswith("lock") else elsewhere)
    assert shard.main([str(course), str(out), "--overwrite", "--workers", "1"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert link.name in err
    assert untouched()


def test_tars_are_unpacked_where_the_shards_are(
    tmp_path: Path, elsewhere: Path, untouched: Callable[[], bool]
) -> None:
    (tmp_path / ".unpacked.part").symlink_to(elsewhere)
    with pytest.raises(OSError, match=REFUSED), UnpackFolder(tmp_path):
        pass
    assert untouched()


def test_shard_is_a_new_file(
    tmp_path: Path,
    elsewhere: Path,
    untouched: Callable[[], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part = tmp_path / "foreseen"
    part.symlink_to(elsewhere / "train-000000.tar")
    monkeypatch.setattr("loaders.tar.partial_name", lambda _: part)
    with pytest.raises(FileExistsError):
        ShardWriter(tmp_path / "a.tar")
    assert untouched()


@pytest.mark.parametrize("name", ["", BY_IMAGE, f".{BY_IMAGE}"])
def test_data_of_an_experiment_are_in_it(
    name: str,
    shards: Path,
    tmp_path: Path,
    elsewhere: Path,
    untouched: Callable[[], bool],
) -> None:
    link = tmp_path / "data" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    with pytest.raises(OSError, match=REFUSED):
        make_variant(BY_IMAGE, str(shards), tmp_path / "data")
    assert untouched()


def test_photographs_of_the_demo_are_in_it(
    tmp_path: Path,
    elsewhere: Path,
    untouched: Callable[[], bool],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    words = [str(out), "--images", "24", "--image-size", "64", "--workers", "1"]
    assert demo.main(words) == 0
    shutil.rmtree(out / "data")
    os.symlink(elsewhere, out / "data")
    capsys.readouterr()
    assert demo.main([*words, "--overwrite"]) == 1
    assert REFUSED in capsys.readouterr().err
    assert untouched()
