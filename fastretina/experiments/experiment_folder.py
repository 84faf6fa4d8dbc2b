"""An experiment's folder: one process at a time, and one experiment for good."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

from filelock import FileLock, Timeout

from fastretina.experiments.cells import ExperimentPlan
from fastretina.run import as_record
from loaders.errors import RunError
from loaders.files import write_atomically
from loaders.place import place
from loaders.shards import read_manifest
from loaders.untrusted import read_json


class _Asked(TypedDict):
    experiment: str
    shards: str
    cells: dict[str, dict[str, object]]


class Settings(_Asked, total=False):
    """What ``settings.json`` holds: the recipes by the name of their cell.

    The fingerprint is that of the shards' manifest; an older version kept none.
    """

    fingerprint: str | None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of an experiment's folder; the lock goes at the end.

    Raises:
        RunError: one is at work there.
    """
    try:
        with FileLock(folder / ".lock", timeout=0):
            try:
                yield
            finally:
                (folder / ".lock").unlink(missing_ok=True)
    except Timeout:
        raise RunError(
            f"another process is at work in {folder}; wait for it to end"
        ) from None


def settings_of(plan: ExperimentPlan, shards: str) -> Settings:
    """What an experiment is held to: its data and every cell's recipe."""
    return Settings(
        experiment=plan.name,
        shards=shards,
        fingerprint=read_manifest(place(shards)).fingerprint,
        cells={cell.name: asdict(cell.recipe) for cell in plan.cells},
    )


def keep_settings(folder: Path, settings: Settings) -> None:
    """Write down what is trained in a folder, or make sure that it is the same.

    Settings of an older version, without a fingerprint, are taken as they are, and
    held to this data from now on.

    Raises:
        RunError: it holds an experiment with other settings, or damaged ones.
    """
    path = folder / "settings.json"
    text = json.dumps(settings, indent=1) + "\n"
    if not path.exists():
        write_atomically(path, text)
        return
    before, now = _read(path), json.loads(text)
    if before.get("fingerprint") is None and now.get("fingerprint") is not None:
        before["fingerprint"] = now["fingerprint"]
        if before == now:
            write_atomically(path, text)
    if before != now:
        what = _first_change(before, now)
        raise RunError(
            f"{folder} holds an experiment with other settings ({what}): "
            "choose another --out"
        )


def _read(path: Path) -> Settings:
    try:
        return as_record(read_json(path), Settings, path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}): choose another --out") from error
    except RunError as error:
        raise RunError(f"{error}; choose another --out") from error


def _first_change(before: Settings, now: Settings) -> str:
    """The first setting that differs, as a phrase."""
    if before["experiment"] != now["experiment"]:
        return f"experiment was {before['experiment']}, is {now['experiment']}"
    if before["shards"] != now["shards"]:
        return f"shards was {before['shards']}, is {now['shards']}"
    if before.get("fingerprint") != now.get("fingerprint"):
        return f"{now['shards']} has other data than then"
    for name, recipe in now["cells"].items():
        old = before["cells"].get(name)
        if old is None:
            return f"no cell {name} then"
        for key, value in recipe.items():
            if old.get(key) != value:
                flag = key.replace("_", "-")
                return f"{name}: --{flag} was {old.get(key)}, is {value}"
    return "other cells"
