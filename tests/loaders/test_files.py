"""Files that are whole after a kill and a power cut, and what a kill has left."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loaders import leftovers
from loaders.files import (
    check_writable,
    make_folder,
    make_inner_folder,
    put_in_place,
    sync_folder,
    write_atomically,
    writing,
)
from loaders.leftovers import remove_leftovers, remove_leftovers_of, temporary_folder

DEAD = (1 << 22) - 1  # no process has this number: above what is given out by default


def of_dead(name):
    """The name of what a process that is no more was writing."""
    return f".{name}.fastretina-{DEAD}-0123abcd.part"


linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for a name")


@pytest.fixture
def synced(monkeypatch):
    """Names of what was waited for, with the names that its folder has then."""
    found = []
    fsync = os.fsync

    def noting(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        folder = path if path.is_dir() else path.parent
        found.append((path.name, sorted(each.name for each in folder.iterdir())))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    return found


@linux
def test_file_is_on_the_disk_before_its_name_and_the_name_at_the_end(tmp_path, synced):
    folder = tmp_path / "f"
    folder.mkdir()
    write_atomically(folder / "a", "text")
    (part, there), *after = synced
    assert re.fullmatch(rf"\.a\.fastretina-{os.getpid()}-[0-9a-f]{{8}}\.part", part)
    assert there == [part]
    assert after == [("f", ["a"])]


@linux
def test_new_folders_are_there_for_good(tmp_path, synced):
    make_folder(tmp_path / "a" / "b" / "c")
    assert [name for name, _ in synced] == ["b", "a", tmp_path.name]
    synced.clear()
    make_folder(tmp_path / "a" / "b")
    assert not synced


@linux
def test_nothing_is_named_before_its_bytes_are_there(tmp_path, synced):
    part = tmp_path / ".a.part"
    part.write_bytes(b"x")
    put_in_place(part, tmp_path / "a")
    assert synced == [(".a.part", [".a.part"])]
    assert (tmp_path / "a").read_bytes() == b"x"


def test_file_system_that_syncs_no_folders_is_taken_as_it_is(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    sync_folder(tmp_path)


def test_disk_that_fails_is_named(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"{tmp_path}'"):
        sync_folder(tmp_path)


def test_failure_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail():
        with writing(path) as file:
            file.write(b"half of the new")
            raise ValueError("no such font")

    with pytest.raises(ValueError, match="no such font"):
        fail()
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {
        "a.png": b"old"
    }


def test_another_files_error_is_not_laid_at_this_ones_door(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"), writing(tmp_path / "a"):
        (tmp_path / "absent").read_bytes()


KEEPING = """
import sys, time
from pathlib import Path
from loaders.files import writing
with writing(Path(sys.argv[1])) as file:
    file.write(b"half"); file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""
WORKING = """
import time
from loaders.leftovers import temporary_folder
with temporary_folder() as folder:
    (folder / "a").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


def begin(code, *words):
    """A process that has begun to write, and the line that it has said so with."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="no such locks there")
def test_what_a_killed_process_was_writing_goes_and_a_living_ones_stays(tmp_path):
    path = tmp_path / "a.json"
    process, _ = begin(KEEPING, path)
    (part,) = tmp_path.iterdir()
    try:
        os.utime(part, (0, 0))
        remove_leftovers(tmp_path)
        check_writable(path)
        assert list(tmp_path.iterdir()) == [part]
    finally:
        kill(process)
    write_atomically(path, "new")
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_only_our_names_of_the_file_that_is_asked_for_go(tmp_path):
    ours, others = of_dead("a"), of_dead("b")
    kept = [
        *("a", "a.part", ".a.part", ".film.part", ".a.x.part", ours[1:]),
        *(f".a.{DEAD}.part", ".a.20241231.part"),  # an older version's, or the user's
        *(".a.fastretina-2024.part", ".a.fastretina-2024-backup.part"),
    ]
    for name in [ours, others, *kept]:
        (tmp_path / name).touch()
    check_writable(tmp_path / "a")
    assert {each.name for each in tmp_path.iterdir()} == {others, *kept}
    remove_leftovers(tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {*kept}


def test_number_of_a_living_process_that_wrote_nothing_here(tmp_path):
    """As in containers, which count from 1: the lock tells, once it must be there."""
    part = tmp_path / of_dead("a").replace(str(DEAD), str(os.getppid()))
    part.touch()
    remove_leftovers(tmp_path)
    assert part.exists()  # it may be about to lock it
    os.utime(part, (time.time() - 100,) * 2)
    remove_leftovers(tmp_path)
    assert not part.exists()


def test_folder_is_looked_through_once(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / of_dead(name)).touch()
    remove_leftovers_of(tmp_path / "a")
    monkeypatch.setattr(Path, "iterdir", None)
    remove_leftovers_of(tmp_path / "b")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="no such locks there")
def test_temporary_folder_of_a_killed_process_goes_at_the_next_start(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    killed, first = begin(WORKING)
    living, second = begin(WORKING)
    try:
        kill(killed)
        names = (f"fastretina-{DEAD}-pictures", "fastretina-2024-backup", of_dead("a"))
        theirs = [tmp_path / name for name in names]
        target = tmp_path / "target"
        for folder in [*theirs, target]:
            folder.mkdir()
        link = tmp_path / of_dead("temporary")
        link.symlink_to(target)
        os.utime(second, (0, 0))
        leftovers._remove_temporary.cache_clear()
        with temporary_folder() as own:
            assert own.parent == tmp_path
            assert set(tmp_path.iterdir()) == {own, Path(second), target, *theirs}
        assert not own.exists()
        assert Path(first) != Path(second)
    finally:
        kill(living)


def test_links_in_a_strangers_folder_lead_nowhere(tmp_path, monkeypatch):
    """Found by a review: links of all process numbers, to a file of the user's."""
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    run.mkdir()
    path = run / "card.md"
    part = run / of_dead(path.name).replace(str(DEAD), str(os.getpid()))
    monkeypatch.setattr(leftovers, "partial_name", lambda _: part)  # were it foreseen
    (run / f".card.md.{os.getpid()}.part").symlink_to(victim)
    for write in (check_writable, lambda path: write_atomically(path, "new")):
        part.symlink_to(victim)
        with pytest.raises(FileExistsError, match=r"card\.md'"):
            write(path)
    monkeypatch.undo()
    path.symlink_to(victim)
    write_atomically(path, "new")
    assert (path.read_text(), victim.read_text()) == ("new", "precious")
    assert not path.is_symlink()


@pytest.mark.parametrize("letter", ["a", "ä"])
def test_file_of_the_longest_name_is_written(letter, tmp_path):
    path = tmp_path / (letter * (255 // len(letter.encode())))
    part = leftovers.partial_name(path)
    part.touch()
    part = part.rename(tmp_path / part.name.replace(str(os.getpid()), str(DEAD)))
    write_atomically(path, "new")
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_names_are_never_twice_the_same(tmp_path):
    names = {leftovers.partial_name(tmp_path / "a").name for _ in range(1000)}
    assert len(names) == 1000
    assert all(leftovers.final_name(tmp_path / name) == "a" for name in names)


@pytest.mark.skipif(os.name == "nt", reason="no such locks there")
def test_file_that_is_taken_for_a_leftover_before_its_lock_is_made_anew(
    tmp_path, monkeypatch
):
    """As by a process in another container, where this one's number is nobody's."""
    made, lock, calls = [], leftovers._lock, []

    def late(path):
        calls.append(path)
        if len(calls) == 1:
            monkeypatch.setattr(leftovers, "_lives", lambda _: False)
            remove_leftovers(tmp_path)
            assert not path.exists()
        return lock(path)

    monkeypatch.setattr(leftovers, "_lock", late)
    with writing(tmp_path / "a") as file:
        made += tmp_path.iterdir()
        remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == made
        assert made[0] not in calls[:1]
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name == "nt", reason="no such locks there")
def test_file_that_is_removed_while_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    import fcntl

    flock, calls = fcntl.flock, []

    def late(*words):
        calls.append(words)
        if len(calls) == 1:
            (part,) = tmp_path.iterdir()
            part.unlink()
        flock(*words)

    monkeypatch.setattr(fcntl, "flock", late)
    write_atomically(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len(calls) == 2


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOLCK])
def test_file_system_without_usable_locks_is_written_to(number, tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(leftovers, "_lock", refuse)
    write_atomically(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with temporary_folder() as folder:
        assert folder.is_dir()


def test_folder_inside_of_another_is_no_link(tmp_path):
    inner = tmp_path / "inner"
    inner.symlink_to(tmp_path)
    with pytest.raises(OSError, match=r"Is a link.*inner'"):
        make_inner_folder(inner)
    inner.unlink()
    make_inner_folder(inner / "most")
    make_inner_folder(inner / "most")
    assert (inner / "most").is_dir()
