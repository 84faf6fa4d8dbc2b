"""Experiments of small networks, whose runs' processes train small networks, too."""

from __future__ import annotations

import os
import sys
import threading
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from small_runs import PRELOADED, make_small

from fastretina.experiments import command as experiments
from fastretina.experiments import worker
from fastretina.interrupts import Stopper
from fastretina.metrics.predictions import Predictions, PredictionSource
from fastretina.nn import checkpoint
from fastretina.recipe import RECIPES
from fastretina.run import Run
from fastretina.run_config import RunConfig, RunData
from fastretina.train.options import TrainOptions

_child = worker._child
HOLD = "TEST_HOLDS_RUN"  # in the environment: the name of the run that is held ...
LONG = 120  # ... for so many seconds at most


def hold_after_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """Once a checkpoint is written, wait for SIGTERM, or to be killed.

    So a test has all the time it needs to stop a run half-way, on a busy machine, too.
    """
    save, heed = checkpoint.save, Stopper._note
    came = threading.Event()

    def note(stopper: Stopper, number: int, frame: FrameType | None) -> None:
        came.set()
        heed(stopper, number, frame)

    def save_and_hold(*parts: Any) -> None:  # in the thread that writes checkpoints
        patch.setattr(checkpoint, "save", save)  # this time only
        save(*parts)
        came.wait(LONG)

    patch.setattr(Stopper, "_note", note)
    patch.setattr(checkpoint, "save", save_and_hold)


def small_child(
    options: TrainOptions,
    log: Path,
    quiet: bool,
    parent: connection.Connection,
    result: connection.Connection,
) -> None:
    """What a run's process does, with the small network."""
    patch = pytest.MonkeyPatch()
    make_small(patch)
    if options.out is not None and options.out.name == os.environ.get(HOLD):
        hold_after_checkpoint(patch)
    _child(options, log, quiet, parent, result)


def use_small(patch: pytest.MonkeyPatch) -> None:
    """Small networks here, and in the processes of the runs."""
    make_small(patch)
    patch.setattr("torchvision.models.resnet50", "no test trains it")
    patch.setattr(worker, "_child", small_child)
    patch.setattr(worker, "_IMPORTED", PRELOADED)  # the one server's, whoever begins it


def small_experiment(words: list[str], held: str, output: Path) -> None:
    """What an experiment's process does, with small networks.

    Args:
        words: flags.
        held: name of the run that is held after its first checkpoint.
        output: gets what it prints.
    """
    os.environ[HOLD] = held
    for target in (1, 2):
        os.dup2(os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND), target)
    use_small(pytest.MonkeyPatch())
    sys.exit(experiments.main(words))


LABELS = np.repeat(np.arange(5), [60, 8, 16, 8, 8])  # of made-up runs' test images


def made_run(
    folder: Path,
    grades: np.ndarray,
    labels: np.ndarray,
    *,
    first: int = 0,
    data: RunData | None = None,
) -> Path:
    """A finished run's folder, with images that are numbered from ``first`` on."""
    folder.mkdir(parents=True)
    chances = np.full((len(labels), 5), 0.02)
    chances[np.arange(len(labels)), grades] = 0.92
    numbers = range(first, first + len(labels))
    names = [f"{n // 2}_{('left', 'right')[n % 2]}" for n in numbers]
    Predictions(
        rows=np.arange(len(labels)),
        keys=names,
        patients=[str(n // 2) for n in numbers],
        eyes=[("left", "right")[n % 2] for n in numbers],
        labels=labels,
        probabilities=chances,
        source=PredictionSource(weights_sha256="0" * 64),
    ).save(folder / "test.parquet")
    run = Run(folder)
    run.write_config(
        RunConfig(
            recipe=RECIPES["seed"],
            weights="none",
            shards="shards",
            data=data or RunData(),
            train_counts=[100, 10, 20, 4, 2],
            image_shape=(64, 64),
            square=True,
            loader="pil",
            precision="fp32",
            threads=1,
        )
    )
    ending = {"parameters": 7, "weights": "none", "seconds": 1.0}
    ending |= {"checkpoint": "last", "checkpoint_epoch": 2, "weights_sha256": "0" * 64}
    run.write_metrics(ending)
    measured = "train_loss,train_accuracy,images_per_second,wait_seconds,seconds"
    (folder / "log.csv").write_text(
        f"epoch,phase,test_accuracy,lr,{measured}\n"
        "1,head,0.9,0.1,1.5,0.5,9,0,1\n"
        "2,full,,0.1,1.5,0.5,9,0,1\n"
    )
    return folder
