"""How a worker of the pil loader watches the process that takes the batches."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import subprocess
import sys

import pytest

from loaders import _pil

pytestmark = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="only Linux can watch another process"
)


class Exited(Exception):
    """In place of the end of this process."""


@pytest.fixture(autouse=True)
def exits(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise Exited(code)

    monkeypatch.setattr(os, "_exit", leave)


@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.EPERM, errno.EMFILE])
def test_worker_goes_on_where_no_process_can_be_watched(
    monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def refuse(_: int) -> int:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    _pil._end_with(os.getpid())


def test_worker_of_an_owner_that_has_ended_ends() -> None:
    owner = subprocess.Popen([sys.executable, "-c", ""])
    owner.wait()
    with pytest.raises(Exited):
        _pil._end_with(owner.pid)


def test_owner_is_watched_by_a_high_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"at most {hard} descriptors may be open")
    owner = subprocess.Popen([sys.executable, "-c", ""])
    watched = os.pidfd_open(owner.pid)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    try:
        high = fcntl.fcntl(watched, fcntl.F_DUPFD, 1500)
        monkeypatch.setattr(os, "pidfd_open", lambda _: high)
        with pytest.raises(Exited):
            _pil._end_with(owner.pid)
        os.close(high)
    finally:
        os.close(watched)
        owner.wait()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
