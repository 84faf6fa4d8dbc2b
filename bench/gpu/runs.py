"""Training from end to end: each phase, eager and compiled."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from bench.gpu.memory import MemoryWatch
from bench.gpu.scope import Measurement, Scope
from bench.gpu.section_rows import TrainedPhaseRow
from fastretina.nn.model import build_model, set_phase
from fastretina.recipe import PHASES, Phase
from fastretina.train import command as train
from fastretina.train.options import TrainOptions
from loaders import missing

TRAINED_WITH = ("dali", "turbo")
ARCH = "resnet18"

_EPOCHS = 2  # of each phase: one with all that is slow at first, one without
_RUN_SECONDS, _COMPILED_SECONDS = 38.0, 60.0
_POLL = 0.1  # seconds: rarely enough not to be noticed


def plan_end_to_end(scope: Scope) -> list[Measurement]:
    """Both phases of ResNet18 with each loader that is meant for a GPU."""
    return [
        Measurement(
            f"training with {loader}",
            _RUN_SECONDS if scope.cuda else _seconds_on_cpu(scope),
            partial(train_with, scope, loader),
            missing(loader) or "",
        )
        for loader in TRAINED_WITH
    ]


def plan_compiled(scope: Scope) -> list[Measurement]:
    """Both phases compiled: each has a graph of its own to be compiled."""
    return [
        Measurement(
            f"compiled training with {loader}",
            _COMPILED_SECONDS,
            partial(train_with, scope, loader, compiled=True),
            scope.lacks_cuda or missing(loader) or "",
            least_limit=300.0,
        )
        for loader in TRAINED_WITH[1:]
    ]


def _seconds_on_cpu(scope: Scope) -> float:
    """Expected at 5 images/s of 512 pixels, which few cores reach."""
    images = len(PHASES) * scope.steps * scope.sizes.batch
    return 5.0 + images * (scope.sizes.pixels / 512) ** 2 / 5


class PhaseLog(NamedTuple):
    """What a run's log has of a phase.

    Attributes:
        epochs: number of epochs.
        images_per_second: speed of the last epoch, images/s.
        wait_fraction: share of the last epoch that was waited for the loader.
        first_seconds: time that the first epoch took, s.
        first_wait_seconds: time that the first epoch waited for the loader, s.
    """

    epochs: int
    images_per_second: float
    wait_fraction: float
    first_seconds: float
    first_wait_seconds: float


def train_with(
    scope: Scope, loader: str, *, compiled: bool = False
) -> list[TrainedPhaseRow]:
    """Some ``scope.steps`` steps of each phase in two epochs; a row for each phase.

    Raises:
        RuntimeError: the trainer has failed, with its last words.
    """
    run = scope.out / "work" / f"run-{loader}{'-compiled' * compiled}"
    shutil.rmtree(run, ignore_errors=True)
    device = torch.device(scope.device)
    if scope.cuda:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(device)
    with MemoryWatch(device, _POLL) as watch:
        result = _train(_flags(scope, loader, run, compiled))
    changed = result.get("changed_parameters")  # of a trainer that says so
    peak = torch.cuda.max_memory_allocated(device) if scope.cuda else None
    return [
        TrainedPhaseRow(
            loader=loader,
            device=str(result["device"]),
            precision=str(result["precision"]),
            compiled=compiled,
            phase=phase,
            batch_size=scope.sizes.batch,
            **read_log(run / "log.csv", phase)._asdict(),
            trained_parameters=num_trained(ARCH, phase),
            changed_parameters=_changed(changed, phase),
            torch_peak_bytes=peak,
            largest_bytes=watch.largest if scope.cuda else None,
        )
        for phase in PHASES
    ]


def _changed(changed: object, phase: Phase) -> int | None:
    """The trainer's count, where it has one of that phase."""
    count = changed.get(phase) if isinstance(changed, Mapping) else None
    return count if isinstance(count, int) else None


def num_trained(arch: str, phase: Phase) -> int:
    """How many parameters of a network a phase trains."""
    trained = set_phase(build_model(arch, "none", 0), phase, "eval")
    return sum(parameter.numel() for parameter in trained)


def _flags(scope: Scope, loader: str, run: Path, compiled: bool) -> list[str]:
    """The trainer's flags for two epochs of each phase of ResNet18."""
    images = -(-scope.steps // _EPOCHS) * scope.sizes.batch
    flags = [
        *("--shards", scope.long, "--out", run, "--loader", loader),
        *("--device", scope.device, "--weights", "none", "--arch", ARCH),
        *("--head-epochs", _EPOCHS, "--full-epochs", _EPOCHS),
        *("--batch-size", scope.sizes.batch, "--train-samples", images),
        *("--validation", 0, "--amp", scope.sizes.amp),
    ]
    return [str(flag) for flag in flags] + compile_flag(compiled)


def compile_flag(compiled: bool) -> list[str]:
    """The trainer's flag for a network that is compiled, or is not."""
    (kind,) = (one.type for one in fields(TrainOptions) if one.name == "compile")
    if kind in (bool, "bool"):
        return ["--compile" if compiled else "--no-compile"]
    return ["--compile", "on" if compiled else "off"]


def _train(words: Sequence[str]) -> dict[str, object]:
    """Run the trainer in this process; returns its JSON line."""
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = train.main(words)
    finally:
        torch.set_num_threads(threads)
    if code:
        last = err.getvalue().strip().splitlines()[-1:]
        raise RuntimeError(f"the trainer ends with {code}: {' '.join(last)}")
    result: dict[str, object] = json.loads(out.getvalue().splitlines()[-1])
    return result


def read_log(path: Path, phase: Phase) -> PhaseLog:
    """What a run's ``log.csv`` has of a phase.

    Raises:
        RuntimeError: it has fewer epochs of it than were to be trained.
    """
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == phase]
    if len(rows) < _EPOCHS:
        raise RuntimeError(
            f"the run's log has {len(rows)} epochs of phase {phase}, not {_EPOCHS}"
        )
    first, last = rows[0], rows[-1]
    return PhaseLog(
        epochs=len(rows),
        images_per_second=float(last["images_per_second"]),
        wait_fraction=float(last["wait_seconds"]) / max(float(last["seconds"]), 1e-9),
        first_seconds=float(first["seconds"]),
        first_wait_seconds=float(first["wait_seconds"]),
    )
