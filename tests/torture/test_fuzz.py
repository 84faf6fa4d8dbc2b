"""Every fuzz target for a moment, and what the fuzzer itself promises."""

from __future__ import annotations

import base64
import subprocess
from itertools import islice
from pathlib import Path

import pytest

from torture import fuzz, fuzz_process
from torture.campaign import Fault
from torture.fuzz_process import Hang, caller, fuzz_unguided, mutants
from torture.fuzz_targets import TARGETS, Target

REFUSED = {"url", "http-answer"}  # there is no network, nor what redirects lead to


@pytest.mark.parametrize("name", TARGETS)
def test_mutants_are_taken_or_refused(name: str, tmp_path: Path) -> None:
    assert fuzz_unguided(TARGETS[name], 7, 40, 20, tmp_path) > 1


@pytest.mark.parametrize("name", [n for n in TARGETS if n not in REFUSED])
def test_good_files_are_taken(name: str, tmp_path: Path) -> None:
    for number, content in enumerate(TARGETS[name].good()):
        folder = tmp_path / str(number)
        folder.mkdir()
        TARGETS[name].parse(content, folder)


def test_mutants_depend_on_the_seed_alone() -> None:
    target = TARGETS["course-csvs"]
    one, again, other = (list(islice(mutants(target, n), 200)) for n in (1, 1, 2))
    assert one == again
    assert one != other
    assert len(set(one)) > 150
    assert one[: len(target.good())] == target.good()


def parse(content: bytes, folder: Path) -> None:
    assert list(folder.iterdir()) == []
    (folder / "left").touch()
    if content == b"refused":
        raise ValueError("no")
    if content == b"silent":
        raise ValueError
    if content == b"fault":
        raise KeyError(1)
    while content == b"hang":
        pass


def target(*good: bytes) -> Target:
    return Target(parse, (ValueError,), lambda: list(good))


def test_refusals_are_heeded_and_each_input_has_an_empty_folder(tmp_path: Path) -> None:
    assert fuzz_unguided(target(b"refused", b"a"), 1, 2, 20, tmp_path) == 2
    assert list((tmp_path / "faults").iterdir()) == []


@pytest.mark.parametrize(
    ("bad", "kind"),
    [(b"fault", KeyError), (b"silent", AssertionError), (b"hang", Hang)],
)
def test_input_of_a_fault_stays(
    bad: bytes, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_process, "_SLOW", 0.2)
    with pytest.raises(kind):
        fuzz_unguided(target(b"a", bad, b"b"), 1, 3, 20, tmp_path)
    (file,) = (tmp_path / "faults").iterdir()
    assert file.read_bytes() == bad


def test_refusal_without_a_word_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="that says nothing"):
        caller(target(), tmp_path)(b"silent")


def test_process_of_its_own_counts(tmp_path: Path) -> None:
    counts = fuzz.fuzz("names", 3, 50, 5, tmp_path)
    assert counts["inputs"] >= 50
    assert counts["guided by coverage"] in (0, counts["inputs"])


def test_fault_shows_exception_and_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "crash-1").write_bytes(b"\xff\0")
    said = "INFO\n === Uncaught Python exception: ===\nKeyError: 1\nTraceback\n"
    said += "==9== ERROR: libFuzzer: fuzz target exited\nSUMMARY"
    done = subprocess.CompletedProcess([], 77, "", said)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: done)
    with pytest.raises(Fault, match="names: KeyError: 1\nTraceback") as fault:
        fuzz.fuzz("names", 3, 50, 5, tmp_path)
    assert base64.b64encode(b"\xff\0").decode() in str(fault.value)
    assert "SUMMARY" not in str(fault.value)
