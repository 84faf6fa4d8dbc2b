"""The lock on a run's folder: of one process, and gone with it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from loaders.files import ProcessLock

HOLD = """
import sys, time
from pathlib import Path
from loaders.files import ProcessLock
try:
    lock = ProcessLock(Path(sys.argv[1]))
except BlockingIOError as error:
    print("refused", error.filename, flush=True)
else:
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another(path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that locks a path, and what it has to say of it."""
    words = [sys.executable, "-c", HOLD, str(path)]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def left_open(folder: Path) -> list[str]:
    """The files of a folder that this process has open; other tests' are not asked."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed since it was listed
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if path.startswith(str(folder))]


def test_lock_of_another_process_is_refused(tmp_path: Path):
    with another(tmp_path / "lock") as (_, said):
        assert said == "held"
        for _ in range(2):
            with pytest.raises(BlockingIOError) as caught:
                ProcessLock(tmp_path / "lock")
            assert caught.value.filename == str(tmp_path / "lock")
    assert not left_open(tmp_path)


def test_lock_keeps_others_out_until_it_is_released(tmp_path: Path):
    path = tmp_path / "lock"
    with ProcessLock(path), another(path) as (_, said):
        assert said == f"refused {path}"
    assert not path.exists()
    assert not left_open(tmp_path)
    with another(path) as (_, said):
        assert said == "held"


def test_file_that_a_killed_process_left_is_no_obstacle(tmp_path: Path):
    path = tmp_path / "lock"
    with another(path) as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert path.exists()
        ProcessLock(path).release()
    assert not path.exists()


@pytest.mark.parametrize("anew", [False, True])
def test_file_removed_between_open_and_lock_is_made_again(
    anew: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As by a process that lets go just then; another may even have made it anew."""
    path, lockf, calls = tmp_path / "lock", fcntl.lockf, []

    def late(*words: int) -> None:
        calls.append(words)
        if len(calls) == 1:
            path.unlink()
            if anew:
                path.touch()
        lockf(*words)

    monkeypatch.setattr(fcntl, "lockf", late)
    with ProcessLock(path):
        assert len(calls) == 2
        with another(path) as (_, said):
            assert said == f"refused {path}"
    assert not left_open(tmp_path)


def test_process_must_not_take_a_lock_twice(tmp_path: Path):
    """Its second would be given, and with it the first let go of."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with ProcessLock(tmp_path / "lock"):
        for path in (tmp_path / "lock", link / "lock"):
            with pytest.raises(AssertionError, match="locked by this process"):
                ProcessLock(path)
    ProcessLock(tmp_path / "lock").release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO])
def test_lock_that_fails_names_its_file_and_leaves_nothing_open(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_words: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "lockf", fail)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            ProcessLock(tmp_path / "lock")
    assert (caught.value.errno, caught.value.filename) == (
        number,
        str(tmp_path / "lock"),
    )
    assert not left_open(tmp_path)
    ProcessLock(tmp_path / "lock").release()


def test_system_without_record_locks_fails_only_where_they_are_needed(tmp_path: Path):
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from pathlib import Path\n"
        "import loaders.files, loaders.shards\n"
        "try:\n"
        f"    loaders.files.ProcessLock(Path({str(tmp_path / 'lock')!r}))\n"
        "except OSError as error:\n"
        "    print(error.errno, error.filename)\n"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    assert out.stdout.split() == [str(errno.ENOSYS), str(tmp_path / "lock")], out.stderr
