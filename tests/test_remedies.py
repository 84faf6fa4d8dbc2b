"""What our texts tell a user to run is there for who has installed the wheel alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastretina import cli

ROOT = Path(__file__).parents[1]
SOURCES = [
    path for name in ("fastretina", "loaders") for path in (ROOT / name).rglob("*.py")
]
# What lies beside the packages, and what begins like a command of ours.
NOT_INSTALLED = re.compile(r"\b(?:scripts|bench|tests)/\w+|\b(?:demo_data|gpu_check)\b")
COMMAND = re.compile(r"\b(?:python -m fastretina\.|fastretina[ ])([a-z]+)\b(?!\.)")
PROSE = {"doesn", "is"}  # after the name of the project


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """String literals and docstrings of a source, each with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_text_names_what_is_not_installed(path: Path) -> None:
    named = [(line, text) for line, text in texts(path) if NOT_INSTALLED.search(text)]
    assert not named


def commands(text: str) -> set[str]:
    return set(COMMAND.findall(text)) - PROSE


def test_every_command_that_is_named_is_there() -> None:
    named = {
        (name(path), line, command)
        for path in SOURCES
        for line, text in texts(path)
        for command in commands(text)
    }
    assert not [each for each in named if each[2] not in cli.COMMANDS]
    assert {command for *_, command in named} == set(cli.COMMANDS)


def test_commands_and_scripts_are_seen() -> None:
    assert commands("'fastretina shard data/'; python -m fastretina.train") == {
        "shard",
        "train",
    }
    assert commands("fastretina doesn't, fastretina.metrics.scores") == set()
    assert NOT_INSTALLED.search("make one with 'python scripts/shard.py data/'")
    assert NOT_INSTALLED.search("python demo_data.py")
    assert not NOT_INSTALLED.search("fastretina shard data/ shards/")
