"""The losses of power that are tried, and ways of writing that they see through."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from torture.campaign import Fault, Skip
from torture.disk import Content, Recording, versions
from torture.power import Recorded, check
from torture.power_runs import environment
from torture.system_calls import record, require_strace

SAFE = """
with open(part, "wb") as file:
    file.write(b"new" * 1000); file.flush(); os.fsync(file.fileno())
os.rename(part, path)
sync(folder)
"""
IN_PLACE = """
with open(path, "wb") as file:
    file.write(b"new" * 1000); file.flush(); os.fsync(file.fileno())
sync(folder)
"""
NAMED_FIRST = """
with open(part, "wb") as file:
    file.write(b"new" * 1000); file.flush()
    os.rename(part, path)
    os.fsync(file.fileno())
sync(folder)
"""
NEVER_SYNCED = """
with open(part, "wb") as file:
    file.write(b"new" * 1000)
os.rename(part, path)
sync(folder)
"""
FOLDER_NEVER_SYNCED = """
with open(part, "wb") as file:
    file.write(b"new" * 1000); file.flush(); os.fsync(file.fileno())
os.rename(part, path)
"""
NEW_FOLDER_NEVER_SYNCED = """
folder = folder + "/new"
os.mkdir(folder)
part, path = folder + "/.a.part", folder + "/a"
""" + SAFE  # fmt: skip
_BEGIN = """
import os, sys
folder = sys.argv[1]
part, path = folder + "/.a.part", folder + "/a"
def sync(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
"""


class Script:
    """A run that is checked for nothing of its own."""

    name = "script"
    in_place = re.compile("$^")
    seldom = 1

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        raise NotImplementedError

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        assert {p.name for p in disk.iterdir()} == {p for p in content if "/" not in p}

    def again(self, shared: Path, disk: Path, scratch: Path, whole: Content) -> None:
        pass


def faults(script: str, tmp_path: Path) -> tuple[Recording, int, set[str]]:
    """What the script did, the number of states, and what is wrong with any."""
    try:
        require_strace()
    except Skip as reason:
        pytest.skip(str(reason))
    disk = (tmp_path / "disk").resolve()
    disk.mkdir()
    (disk / "a").write_bytes(b"old")
    words = [sys.executable, "-S", "-c", _BEGIN + script, str(disk)]
    recording = record(words, disk, tmp_path / "trace", environment())
    choices, found = recording.choices(), set()
    recorded = Recorded(
        Script(), recording, choices, recording.whole(), versions(recording), tmp_path
    )
    for number, choice in enumerate(choices):
        try:
            check(recorded, choice, tmp_path / str(number), True)
        except Fault as fault:
            found.add(str(fault))
    return recording, len(choices), found


def test_safe_way_has_no_fault(tmp_path: Path) -> None:
    recording, states, found = faults(SAFE, tmp_path)
    assert not found
    assert states > 20
    assert [recording.describe(n) for n in range(len(recording.operations))] == [
        "the name .a.part (0)",
        "the bytes 1 of a",
        "the sync of a (2)",
        "the move to a (3)",
        "the sync of a file (4)",
    ]


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (IN_PLACE, "a is neither the old nor the new"),
        (NAMED_FIRST, "a is neither the old nor the new"),
        (NEVER_SYNCED, "a is neither the old nor the new"),
        (FOLDER_NEVER_SYNCED, "the command has ended, and a is not"),
        (NEW_FOLDER_NEVER_SYNCED, "the command has ended, and new/a is not"),
    ],
    ids=["in place", "named first", "never", "folder", "new"],
)
def test_unsafe_ways_are_seen_through(script: str, fault: str, tmp_path: Path) -> None:
    assert any(fault in each for each in faults(script, tmp_path)[2])


def test_mapped_bytes_are_noted_by_the_page(tmp_path: Path) -> None:
    script = """
import mmap
with open(path, "wb+") as file:
    file.truncate(10000)
    with mmap.mmap(file.fileno(), 10000) as mapped:
        mapped[5000:5003] = b"new"
"""
    recording, _, found = faults(script, tmp_path)
    kinds = [type(each).__name__ for each in recording.operations]
    assert kinds == ["Cut", "Cut", "Write"]
    assert recording.whole()["a"] == bytes(5000) + b"new" + bytes(4997)
    assert any("neither the old nor the new, 10000 bytes" in each for each in found)
