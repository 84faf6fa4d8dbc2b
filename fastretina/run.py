"""The run folder: what a run was made with, how it went, and what it ended with.

config.json        recipe, data, loader, device, versions
.lock              there while a process trains here
log.csv            a line per epoch
tensorboard/       the same as events
last.safetensors   where to resume: weights, average, optimizer, progress
weights.safetensors the network that is reported, weights alone: of the epoch with the
                   best validation QWK or, if nobody is held out, of the last one
test.parquet       every test sample's probabilities
validation.parquet the same of the patients held out, if any are
metrics.json       the final evaluation
model_card.md      what the network is, and what it is not for
curves.png  confusion.png
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

import msgspec

from fastretina.formatting import format_count
from fastretina.ranges import Count, Fraction, Kappa, LossValue, Seconds, Speed
from fastretina.recipe import Phase, Recipe
from fastretina.run_config import RunConfig
from fastretina.run_result import RunResult
from fastretina.wall_clock import part
from loaders.contents import describe_mistake, look_into
from loaders.errors import RunError
from loaders.files import (
    make_folder,
    make_inner_folder,
    refuse_link,
    sync_folder,
    write_atomically,
    writing,
)
from loaders.leftovers import remove_leftovers
from loaders.untrusted import MOST_JSON, read_file, read_json

_Record = TypeVar("_Record")
_CONFIG = "config.json"
_EVENTS = "tensorboard"
_NO_FOLDER = "--out must be a folder for the run, got {}, where a file lies"
RUNS = Path("runs")  # where runs lie that are not given a folder


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedEpoch:
    """A line of ``log.csv``: how an epoch went.

    Attributes:
        epoch: number of the epoch, counted from 1 over both phases.
        phase: the phase that it belongs to.
        lr: learning rate of its last step.
        train_loss: mean loss over its samples.
        train_accuracy: share of its samples that were predicted right, 0 to 1.
        validation_accuracy: share of the validation samples predicted right, 0 to 1.
        validation_qwk: QWK on validation; None of one grade alone.
        test_accuracy: share of the test samples predicted right, 0 to 1.
        test_qwk: QWK on test; None of one grade alone.
        images_per_second: training speed of all ranks together.
        wait_seconds: time that the mean rank has waited for its loader.
        idle_seconds: time that the mean GPU had nothing to train on, between steps;
            None where no GPU trained.
        seconds: time that training took; evaluations are left out.
        skipped: images that could not be decoded.
        decoded_again: batches that DALI could not decode.
    """

    epoch: Count
    phase: Phase
    lr: LossValue
    train_loss: LossValue
    train_accuracy: Fraction
    validation_accuracy: Fraction | None = None
    validation_qwk: Kappa | None = None
    test_accuracy: Fraction | None = None
    test_qwk: Kappa | None = None
    images_per_second: Speed
    wait_seconds: Seconds
    idle_seconds: Seconds | None = None
    seconds: Seconds
    skipped: Count = 0
    decoded_again: Count = 0

    @property
    def wait_share(self) -> float:
        """Share of the epoch's time that was waited for data, 0 to 1."""
        return min(self.wait_seconds / self.seconds, 1.0) if self.seconds else 0.0


COLUMNS = tuple(field.name for field in fields(LoggedEpoch))


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder."""

    path: Path

    @property
    def lock_file(self) -> Path:
        """What a process that trains here keeps locked."""
        return self.path / ".lock"

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.path / "last.safetensors"

    @property
    def weights(self) -> Path:
        """The network that is reported, weights alone."""
        return self.path / "weights.safetensors"

    @property
    def old_best(self) -> Path:
        """What an older version has in its place, where validation has chosen one."""
        return self.path / "best.safetensors"

    def write_config(self, config: RunConfig) -> None:
        """Record what the run is made with."""
        self._write_json(_CONFIG, config.as_json())

    def write_metrics(self, metrics: Mapping[str, object]) -> None:
        """Record the final evaluation."""
        self._write_json("metrics.json", metrics)

    def write_log(self, rows: Sequence[LoggedEpoch]) -> None:
        """Write ``log.csv`` anew, so that it always agrees with the checkpoint."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, rows))
        write_atomically(self.path / "log.csv", text.getvalue())

    def log(self) -> list[LoggedEpoch]:
        """The epochs of ``log.csv``, one at least; None where a cell is empty.

        Raises:
            RunError: it is not there, or damaged.
        """
        rows = self._logged()
        if not rows:
            raise RunError(f"{self.path / 'log.csv'} is damaged: it holds no epoch")
        return rows

    def _logged(self) -> list[LoggedEpoch]:
        """The epochs of ``log.csv``: none, where a run goes on within its first one."""
        path = self.path / "log.csv"
        try:
            text = read_file(path, MOST_JSON).decode()
            lines = list(csv.DictReader(io.StringIO(text, newline="")))
        except (OSError, ValueError, csv.Error) as error:
            raise RunError(f"{path} can't be read ({error})") from error
        if any(None in row for row in lines):
            raise RunError(f"{path} is damaged: a line has too many cells")
        cells = [{name: cell or None for name, cell in row.items()} for row in lines]
        return as_record(cells, list[LoggedEpoch], path, text=True)

    def write_events(self, row: LoggedEpoch, step: int) -> None:
        """Add an epoch's numbers to the TensorBoard events.

        One file for each epoch: a run that is resumed may write an epoch again, and
        then replaces its file.
        """
        with part("imports"):
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.summary.writer.record_writer import RecordWriter
            from torch.utils.tensorboard.summary import scalar

        folder = self.path / _EVENTS
        make_inner_folder(folder)
        now = time.time()
        suffix = f".epoch-{row.epoch:03d}"
        stale = list(folder.glob(f"events.out.tfevents.*{suffix}"))
        path = folder / f"events.out.tfevents.{now:.0f}.{os.getpid()}{suffix}"
        events = [Event(wall_time=now, file_version="brain.Event:2")]
        for name, value in list(asdict(row).items())[2:]:  # less epoch and phase
            if value is not None:
                summary = scalar(  # type: ignore[no-untyped-call]
                    name.replace("_", "/", 1), value
                )
                events.append(Event(wall_time=now, step=step, summary=summary))
        # Not by SummaryWriter, whose thread prints a traceback where a disk is full.
        with writing(path) as file:
            records = RecordWriter(file)
            for event in events:
                records.write(event.SerializeToString())
        for each in stale:
            if each != path:
                each.unlink()
        if stale:  # or a loss of power brings them back beside the new one, for good
            sync_folder(folder)

    def config(self) -> RunConfig:
        """What ``write_config`` has recorded.

        Raises:
            RunError: this is no run folder, or it is damaged, or of another version.
        """
        content, path = self._read_json(_CONFIG), self.path / _CONFIG
        saved = content.get("recipe")
        known = {field.name for field in fields(Recipe)}
        if isinstance(saved, dict) and (unknown := sorted(set(saved) - known)):
            raise RunError(
                f"{self.path} was made by another version of fastretina: its recipe "
                f"has {unknown[0]!r}"
            )
        return as_record(content, RunConfig, path)

    def remove_partial_files(self) -> None:
        """Remove what a killed process has left half-written.

        Raises:
            OSError: ``tensorboard`` is a link, and so what lies there is not the run's.
        """
        events = self.path / _EVENTS
        refuse_link(events)
        for folder in (self.path, events):
            remove_leftovers(folder)

    def metrics(self) -> dict[str, object]:
        """What ``write_metrics`` has recorded."""
        return self._read_json("metrics.json")

    def result(self) -> RunResult:
        """What the run has ended with.

        Raises:
            RunError: it has not ended, or ``metrics.json`` is damaged.
        """
        return as_record(self.metrics(), RunResult, self.path / "metrics.json")

    @property
    def finished(self) -> bool:
        """Whether all of its epochs are trained, and evaluated on test."""
        return (self.path / "metrics.json").exists()

    def describe_unfinished(self) -> str:
        """How far an unfinished run is, as the end of a sentence, and what ends it."""
        done = len(self._logged()) if (self.path / "log.csv").exists() else 0
        epochs = format_count(self.config().recipe.epochs, "epoch")
        return (
            f"is not finished: it has trained {done} of {epochs}; "
            f"'fastretina train --resume {self.path}' finishes it"
        )

    def _write_json(self, name: str, content: Mapping[str, object]) -> None:
        write_atomically(self.path / name, json.dumps(content, indent=1) + "\n")

    def _read_json(self, name: str) -> dict[str, object]:
        path = self.path / name
        try:
            content = read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            if name == _CONFIG:
                raise RunError(describe_no_run(self.path)) from None
            raise RunError(f"{self.path} {self.describe_unfinished()}") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} can't be read ({error})") from error
        if not isinstance(content, dict):
            raise RunError(f"{path} is damaged: it holds no JSON object")
        return content


def as_record(
    saved: object, kind: type[_Record], path: Path, *, text: bool = False
) -> _Record:
    """What was read from a file as a record, each value checked against its type.

    Args:
        saved: of JSON: objects, lists, numbers ...
        kind: of the record, e.g. a dataclass; what it does not name is passed over.
        path: the file, for the error.
        text: numbers are written as text, as in CSV.

    Raises:
        RunError: something is missing or of another kind; the message says where.
    """
    try:
        return msgspec.convert(saved, kind, strict=not text)
    except ValueError as error:  # msgspec's, and Unicode's of half a pair of surrogates
        raise RunError(f"{path} is damaged, or of an older version: {error}") from error


def create_run(out: Path | None, recipe: Recipe) -> Run:
    """Make a new run folder, by default ``runs/ARCH-RECIPE-NUMBER``.

    Raises:
        RunError: there is a run in it already, or it is a file.
    """
    path = out or _next_name(RUNS, f"{recipe.arch}-{recipe.recipe}")
    refuse_taken(path)
    try:
        make_folder(path)
        refuse_link(path / _EVENTS)  # or training would end with its first epoch
    except (FileExistsError, NotADirectoryError):
        raise RunError(_NO_FOLDER.format(path)) from None
    return Run(path)


def refuse_taken(out: Path | None) -> None:
    """Make sure that a folder's place is free for a new run; None always is.

    Raises:
        RunError: there is a run in it already, or it is a file.
    """
    if out is None:
        return
    if (out / _CONFIG).exists():
        raise RunError(
            f"{out} holds a run already: continue it with --resume {out}, "
            "or choose another --out"
        )
    if out.exists() and not out.is_dir():
        raise RunError(_NO_FOLDER.format(out))


def describe_no_run(path: Path, wanted: str = "a run") -> str:
    """What was named in place of a run's folder, and what to do.

    Args:
        path: what was named.
        wanted: what it should be.
    """
    kind = look_into(path)
    if kind == "part of a run":
        remedy = f"name its folder, {path.parent}"
    elif kind == "shards":
        remedy = f"'fastretina train --shards {path}' makes one"
    elif kind in ("runs", "experiment"):
        inside = path / "runs" if kind == "experiment" else path
        remedy = f"name one of them, {inside / 'NAME'}"
    else:
        remedy = "name the folder that 'fastretina train' has made"
    if kind == "nothing":
        return f"{path} does not exist: {remedy}"
    if kind == "other":
        return f"{path} holds no run: {remedy}, or pass --out {path} to it"
    return f"{path} {describe_mistake(path)}, not {wanted}: {remedy}"


def _next_name(folder: Path, stem: str) -> Path:
    number = 1
    while (folder / f"{stem}-{number}").exists():
        number += 1
    return folder / f"{stem}-{number}"
