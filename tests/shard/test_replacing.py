"""A data set in the place of another: what the kills of test_shard_kill don't show."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from fastretina.shard import command as shard
from fastretina.shard import replacing

Read = Callable[[Path], dict[str, bytes]]
OTHER = ["--workers", "1", "--samples-per-shard", "13", "--seed", "5"]


@pytest.fixture
def out(course: Path, tmp_path: Path) -> Path:
    """A data set to be replaced."""
    folder = tmp_path / "above" / "out"
    words = [str(course), str(folder), "--workers", "1", "--samples-per-shard", "10"]
    assert shard.main(words) == 0
    return folder


@pytest.fixture
def wanted(course: Path, tmp_path: Path, read_folder: Read) -> dict[str, bytes]:
    assert shard.main([str(course), str(tmp_path / "wanted"), *OTHER]) == 0
    return read_folder(tmp_path / "wanted")


@pytest.fixture
def overwrite(course: Path, out: Path) -> Callable[..., int]:
    def overwrite(folder: Path = out) -> int:
        return shard.main([str(course), str(folder), *OTHER, "--overwrite"])

    return overwrite


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(one: Path, other: Path) -> None:
        raise OSError("a mount point")

    monkeypatch.setattr(replacing, "exchange_names", refuse)


def test_names_are_exchanged_at_once(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    (one / "1").touch()
    replacing.exchange_names(one, other)
    assert [p.name for p in other.iterdir()] == ["1"]
    assert not list(one.iterdir())
    with pytest.raises(FileNotFoundError) as caught:
        replacing.exchange_names(one, tmp_path / "none")
    assert caught.value.filename == str(one)


def test_until_it_is_whole_the_old_set_is_read(
    out: Path,
    overwrite: Callable[..., int],
    read_folder: Read,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, seen = read_folder(out), []

    def look(folder: Path) -> None:
        seen.append({n: b for n, b in read_folder(folder).items() if n in before})
        assert shard.main(["--verify", str(folder)]) == 0
        put_in_place(folder)

    put_in_place = replacing.put_in_place
    monkeypatch.setattr("fastretina.shard.data_set.put_in_place", look)
    assert overwrite() == 0
    assert seen == [before]


def test_mode_and_links_stay(
    out: Path,
    overwrite: Callable[..., int],
    wanted: dict[str, bytes],
    tmp_path: Path,
    read_folder: Read,
) -> None:
    out.chmod(0o2770)
    link = tmp_path / "link"
    link.symlink_to(out)
    assert overwrite(link) == 0
    assert link.is_symlink()
    assert out.stat().st_mode & 0o7777 == 0o2770
    assert read_folder(out) == wanted
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_shell_that_stands_in_the_folder_stays_there(
    out: Path,
    course: Path,
    wanted: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    read_folder: Read,
) -> None:
    monkeypatch.chdir(out)
    inode = os.stat(".").st_ino
    assert shard.main([str(course), ".", *OTHER, "--overwrite"]) == 0
    assert os.stat(".").st_ino == inode == out.stat().st_ino
    assert read_folder(out) == wanted


@pytest.mark.usefixtures("no_exchange")
def test_files_are_moved_one_by_one_where_folders_cannot_be_exchanged(
    out: Path,
    overwrite: Callable[..., int],
    wanted: dict[str, bytes],
    read_folder: Read,
) -> None:
    (out / "notes.txt").write_text("mine")
    (out / "train-000099.tar").write_bytes(b"of no set")
    inode = out.stat().st_ino
    assert overwrite() == 0
    assert out.stat().st_ino == inode
    assert read_folder(out) == wanted | {"notes.txt": b"mine"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_failed_replacement_leaves_the_old_set_and_is_gone_on_with(
    out: Path,
    overwrite: Callable[..., int],
    wanted: dict[str, bytes],
    read_folder: Read,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = read_folder(out)
    with monkeypatch.context() as patch:
        patch.setattr("fastretina.shard.data_set._write_index", _full_disk)
        assert overwrite() == 1
    assert "No space left" in capsys.readouterr().err
    after = read_folder(out)
    assert {name: after[name] for name in before} == before
    assert shard.main(["--verify", str(out)]) == 0
    capsys.readouterr()
    assert overwrite() == 0
    assert '"shards_written": 0' in capsys.readouterr().out  # they were there
    assert read_folder(out) == wanted


def _full_disk(*given: object) -> None:
    raise OSError(28, os.strerror(28), "train.parquet")


def test_asking_for_the_old_set_gives_the_replacement_up(
    out: Path,
    course: Path,
    overwrite: Callable[..., int],
    read_folder: Read,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = read_folder(out)
    with monkeypatch.context() as patch:
        patch.setattr("fastretina.shard.data_set._write_index", _full_disk)
        assert overwrite() == 1
    words = [str(course), str(out), "--workers", "1", "--samples-per-shard", "10"]
    assert shard.main(words) == 0
    assert read_folder(out) == before


def test_nothing_of_the_users_is_replaced(
    out: Path,
    overwrite: Callable[..., int],
    wanted: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    read_folder: Read,
) -> None:
    """Killed between the exchange and the rest; then the user writes notes anew."""
    (out / "notes.txt").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(replacing, "_take_leave", _full_disk)
        assert overwrite() == 1
    aside = replacing.aside_of(out)
    assert (aside / "notes.txt").read_text() == "old"
    (out / "notes.txt").write_text("new")
    capsys.readouterr()
    assert overwrite() == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{aside / 'notes.txt'} would replace {out / 'notes.txt'}" in err
    (out / "notes.txt").unlink()
    with FileLock(aside / ".progress" / "lock"):
        assert overwrite() == 1
    assert "another process is writing" in capsys.readouterr().err
    assert overwrite() == 0
    assert '"shards_written": 0' in capsys.readouterr().out  # it was done
    assert read_folder(out) == wanted | {"notes.txt": b"old"}
    assert not aside.exists()


def test_replacement_beside_the_folder_is_taken_up(
    out: Path,
    overwrite: Callable[..., int],
    wanted: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    read_folder: Read,
) -> None:
    """Killed between the move and the exchange."""
    shutil.copytree(tmp_path / "wanted", replacing.aside_of(out))
    capsys.readouterr()
    assert overwrite() == 0
    assert '"shards_written": 0' in capsys.readouterr().out
    assert read_folder(out) == wanted
    assert [path.name for path in out.parent.iterdir()] == ["out"]
