"""Training from end to end, and the tests that need a GPU."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.gpu.memory import MemoryWatch
from bench.gpu.scope import Measurement, Scope
from bench.gpu.section_rows import MarkedTestsRow, TrainedRunRow
from fastretina.train import command as train
from loaders import missing

ROOT = Path(__file__).parents[2]
TRAINED_WITH = ("dali", "turbo")

_RUN_SECONDS = 45.0
_TEST_SECONDS, _TEST_LIMIT = 60.0, 150.0
_POLL = 0.1  # seconds: rarely enough not to be noticed
_COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed)")


def plan_end_to_end(scope: Scope) -> list[Measurement]:
    """A full-phase ResNet18 run with each loader that is meant for a GPU."""
    seconds = _RUN_SECONDS if scope.cuda else _seconds_on_cpu(scope)
    return [
        Measurement(
            f"training with {loader}",
            seconds,
            partial(_rows, scope, loader),
            missing(loader) or "",
        )
        for loader in TRAINED_WITH
    ]


def _seconds_on_cpu(scope: Scope) -> float:
    """Expected at 5 images/s of 512 pixels, which few cores reach."""
    images = 2 * scope.steps * scope.sizes.batch
    return 5.0 + images * (scope.sizes.pixels / 512) ** 2 / 5


def _rows(scope: Scope, loader: str) -> list[TrainedRunRow]:
    return [train_with(scope, loader)]


def train_with(scope: Scope, loader: str) -> TrainedRunRow:
    """Two epochs of ``scope.steps`` steps: one with all that is slow at first, one not.

    Raises:
        RuntimeError: the trainer has failed, with its last words.
    """
    run = scope.out / "work" / f"run-{loader}"
    shutil.rmtree(run, ignore_errors=True)
    device = torch.device(scope.device)
    if scope.cuda:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(device)
    with MemoryWatch(device, _POLL) as watch:
        result = _train(_flags(scope, loader, run))
    epochs = _log(run / "log.csv")
    if len(epochs) < 2:
        raise RuntimeError(f"the run has {len(epochs)} epochs in its log, not 2")
    steady = epochs[-1]
    return TrainedRunRow(
        loader=loader,
        device=result["device"],
        precision=result["precision"],
        batch_size=scope.sizes.batch,
        steps=result["steps"],
        images_per_second=result["images_per_second"],
        wait_fraction=result["wait_fraction"],
        steady_steps=scope.steps,
        steady_images_per_second=steady["images_per_second"],
        steady_wait_fraction=steady["wait_seconds"] / max(steady["seconds"], 1e-9),
        first_epoch_wait_seconds=epochs[0]["wait_seconds"],
        torch_peak_bytes=(
            torch.cuda.max_memory_allocated(device) if scope.cuda else None
        ),
        largest_bytes=watch.largest if scope.cuda else None,
    )


def _flags(scope: Scope, loader: str, run: Path) -> list[str]:
    """The trainer's flags for two full-phase epochs of ResNet18."""
    flags = [
        *("--shards", scope.long, "--out", run, "--loader", loader),
        *("--device", scope.device, "--weights", "none", "--arch", "resnet18"),
        *("--head-epochs", 0, "--full-epochs", 2, "--max-steps", 2 * scope.steps),
        *("--batch-size", scope.sizes.batch, "--validation", 0),
        *("--amp", scope.sizes.amp),
    ]
    return [str(flag) for flag in flags]


def _train(words: Sequence[str]) -> dict[str, Any]:
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
    result: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return result


def _log(path: Path) -> list[dict[str, float]]:
    wanted = ("images_per_second", "wait_seconds", "seconds")
    with path.open() as file:
        return [{name: float(r[name]) for name in wanted} for r in csv.DictReader(file)]


def plan_tests(scope: Scope) -> list[Measurement]:
    """The tests marked ``gpu``."""
    return [
        Measurement(
            "the tests marked gpu",
            _TEST_SECONDS,
            lambda: [run_tests(ROOT, min(_TEST_LIMIT, scope.seconds_left()))],
            scope.lacks_cuda,
        )
    ]


def run_tests(root: Path, limit: float) -> MarkedTestsRow:
    """Run a checkout's tests that are marked ``gpu``; those not ended by then failed.

    Raises:
        RuntimeError: pytest could not run them.
    """
    code, output = _run_pytest(root, limit)
    timed_out = code is None
    lines = output.rstrip().splitlines()
    if code not in (None, 0, 1):
        raise RuntimeError(f"pytest ends with {code}: {' '.join(lines[-3:])}")
    counts = {kind.rstrip("s"): int(n) for n, kind in _COUNT.findall(_last(lines))}
    failures = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return MarkedTestsRow(
        passed=counts.get("passed", 0),
        failed=counts.get("failed", 0) + counts.get("error", 0),
        skipped=counts.get("skipped", 0),
        timed_out=timed_out,
        limit_seconds=limit,
        failures=failures,
        last_lines=lines[-40:] if failures or timed_out else lines[-1:],
    )


def _run_pytest(root: Path, limit: float) -> tuple[int | None, str]:
    """pytest's exit code, ``None`` where time ran out, and its output until then."""
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    words += ["-p", "no:cacheprovider", "--color=no"]
    try:
        done = subprocess.run(
            words,
            cwd=root,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return None, (late.stdout or b"").decode(errors="replace")
    return done.returncode, done.stdout.decode(errors="replace")


def _last(lines: Sequence[str]) -> str:
    return lines[-1] if lines else ""
