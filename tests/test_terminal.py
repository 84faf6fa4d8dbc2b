"""A file may be called anything, and a terminal is shown no codes of it."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastretina import cli
from fastretina.audit import command as audit
from fastretina.predict import command as predict
from fastretina.progress import progress_bar
from fastretina.shard import command as shard
from fastretina.terminal import plain_output, printable
from loaders.errors import LabelError

# The title and a colour, text from right to left, a C1 code, and a line of its own.
EVIL = "\x1b]0;owned\x07\x1b[31m\u202egpj\x9b2J\nerror: none\r\x7f"
TURNS = {*"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}


def codes(text: str) -> set[str]:
    """What of a text is no text."""
    control = {c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp")}
    return (control | (TURNS & set(text))) - {"\n", "\t"}


@given(st.text())
def test_printable_is_one_line_without_codes(text: str) -> None:
    shown = printable(text)
    assert not codes(shown)
    assert len(shown.splitlines()) <= 1
    assert "\t" not in shown


def test_printable_leaves_what_is_text() -> None:
    plain = "Grün/眼底_left.jpeg 'a' \\ \u00a0\ud800"
    assert printable(plain) == plain
    assert printable("a\x1b[31m\n") == "a\\x1b[31m\\n"


@dataclass(frozen=True)
class Nothing:
    """No flags."""


@pytest.mark.parametrize("error", [LabelError(EVIL), OSError(2, "gone", EVIL)])
def test_error_is_one_line_without_codes(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Nothing) -> None:
        raise error

    assert cli.run(fail, Nothing, [], prog="x", about="x") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not codes(err)


def test_wrong_usage_is_one_line_without_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for main, words in ((shard.main, [f"--{EVIL}"]), (cli.main, [EVIL])):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert not codes(err)


def test_what_a_command_prints_has_no_codes(capsys: pytest.CaptureFixture[str]) -> None:
    streams = sys.stdout, sys.stderr

    def speak(_: Nothing) -> dict[str, str]:
        print(EVIL)
        print("a\tb", EVIL, file=sys.stderr)
        sys.stdout.writelines([EVIL])
        assert sys.stdout.encoding
        return {"name": EVIL}

    assert cli.run(speak, Nothing, [], prog="x", about="x") == 0
    out, err = capsys.readouterr()
    assert not codes(out + err)
    assert "a\tb \\x1b]0;owned" in err
    assert (sys.stdout, sys.stderr) == streams


def test_progress_is_drawn_as_ever(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with plain_output(), progress_bar("grading", 3) as bar:
        bar.update(3)
        bar.refresh()
    err = capsys.readouterr().err
    assert "\r" in err
    assert "\\r" not in err
    assert "\\x1b" not in err


@pytest.fixture
def evil_course(make_course: Callable[..., Path], tmp_path: Path) -> Path:
    """Photographs beside one that no label lists, one without bytes, and a text."""
    root = make_course(tmp_path / "set", train=8, test=4)
    (root / "data" / f"{EVIL}.jpeg").write_bytes(b"\xff\xd8\xff")
    (root / "data" / f"{EVIL}.txt").write_text("not taken")
    with (root / "train_img.csv").open("a", newline="") as file:
        file.write(f'"{EVIL[:-2]}x{EVIL[-1]}"\n'.replace("\n", " ").strip() + "\n")
    (root / "data" / f"{EVIL[:-2]}x{EVIL[-1]}.jpeg".replace("\n", " ")).write_bytes(b"")
    with (root / "train_label.csv").open("a") as file:
        file.write("1\n")
    return root


def test_names_of_a_data_set_reach_no_terminal(
    evil_course: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = tmp_path / "shards"
    calls: list[tuple[Callable[..., int], list[Any], int]] = [
        (audit.main, [evil_course], 0),
        (audit.main, [evil_course, "--fix", tmp_path / EVIL[:20]], 0),
        (shard.main, [evil_course, shards, "--workers", "1"], 0),
        (shard.main, ["--verify", shards], 0),
        (audit.main, [shards], 0),
        (audit.main, [tmp_path / EVIL], 1),
        (predict.main, [tmp_path / EVIL, evil_course], 1),
    ]
    for main, words, code in calls:
        assert main([str(word) for word in words]) == code
        out, err = capsys.readouterr()
        assert not codes(out + err), words
        # A name's own end of line does not begin a line of ours.
        assert "\nerror: none" not in out + err, words
        for line in err.splitlines():
            assert line.startswith(("error: ", "warning: ", "quarantined ", "1 images"))
