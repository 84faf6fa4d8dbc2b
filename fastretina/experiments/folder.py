"""An experiment's folder: one process at a time, and one experiment for good."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fastretina.experiments.cells import Plan
from loaders.errors import RunError
from loaders.files import write_atomically


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of an experiment's folder.

    Raises:
        RunError: one is at work there.
    """
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise RunError(
            f"another process is at work in {folder}; wait for it to end"
        ) from None


def claim(folder: Path, shards: str, plan: Plan) -> None:
    """Write down what is trained in a folder, from what shards, and hold to it.

    Raises:
        RunError: it holds an experiment with other settings.
    """
    settings = {
        "experiment": plan.name,
        "shards": shards,
        "cells": {cell.name: asdict(cell.recipe) for cell in plan.cells},
    }
    path = folder / "settings.json"
    text = json.dumps(settings, indent=1) + "\n"
    if not path.exists():
        write_atomically(path, text)
        return
    try:
        before = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): choose another --out") from error
    if before != json.loads(text):
        what = _changed(before, json.loads(text))
        raise RunError(
            f"{folder} holds an experiment with other settings ({what}): "
            "choose another --out"
        )


def _changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first setting that differs, for people."""
    for key in ("experiment", "shards"):
        if before.get(key) != now[key]:
            return f"{key} was {before.get(key)}, is {now[key]}"
    for name, recipe in now["cells"].items():
        old = before["cells"].get(name)
        if old is None:
            return f"no cell {name} then"
        for key, value in recipe.items():
            if old.get(key) != value:
                flag = key.replace("_", "-")
                return f"{name}: --{flag} was {old.get(key)}, is {value}"
    return "other cells"
