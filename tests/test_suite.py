"""The tests leave no process behind, however they end, and heed Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

TESTS = Path(__file__).parent
MARK = "TEST_OF_LEFTOVERS"

# A run that hangs, as a rank does whose peers are gone.
HANGING = """
import time
from pathlib import Path
from fork_server import server

def test_that_leaves_a_process():
    process = server.Process(target=time.sleep, args=(600,))
    process.start()
    Path("started").write_text(str(process.pid))
    time.sleep({seconds})
"""


HANDLER = """
import signal

def test_handler():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


def marked(mark: str) -> list[psutil.Process]:
    """All processes that have inherited the variable."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                processes.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return processes


def write(folder: Path, test: str) -> None:
    """A test of its own, that is to be run with this suite's conftest."""
    (folder / "test_it.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\n")


def environment() -> dict[str, str]:
    ours = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return {**ours, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    while not (path.exists() and path.read_text()):
        assert process.poll() is None, "it ended too early"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "flag"),
    [("by itself", "-pno:xdist"), ("SIGKILL", "-pno:xdist"), ("SIGKILL", "-n1")],
)
def test_no_process_is_left(end: str, flag: str, tmp_path: Path) -> None:
    seconds = 0 if end == "by itself" else 600
    write(tmp_path, HANGING.format(seconds=seconds))
    mark = uuid4().hex
    tests = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-pconftest",
            "-pno:hypothesispytest",
            flag,
        ],
        cwd=tmp_path,
        env={**environment(), MARK: mark},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(tmp_path / "started", tests)
        if end == "SIGKILL":
            assert len(marked(mark)) >= 4  # with server, its child and the tracker
            tests.send_signal(signal.SIGKILL)
        assert tests.wait(120) == (-signal.SIGKILL if end == "SIGKILL" else 0)
        _, alive = psutil.wait_procs(marked(mark), timeout=20)
        assert not [process.cmdline() for process in alive]
    finally:
        for process in marked(mark):
            process.kill()


def test_ctrl_c_is_heeded_where_it_was_ignored(tmp_path: Path) -> None:
    """As by what a shell starts with ``&``, and by all that is started by that."""
    write(tmp_path, HANDLER)
    done = subprocess.run(
        ["bash", "-c", f"trap '' INT; {sys.executable} -m pytest -q -pconftest"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
