"""Experiments of small networks, whose runs' processes train small networks, too."""

from __future__ import annotations

import sys
from multiprocessing import connection
from pathlib import Path

import pytest
from small_runs import make_small

from fastretina.experiments import command as experiments
from fastretina.experiments import worker as training
from fastretina.train.options import TrainOptions

_child = training._child


def small_child(
    options: TrainOptions,
    log: Path,
    parent: connection.Connection,
    told: connection.Connection,
) -> None:
    """What a run's process does, with the small network."""
    make_small(pytest.MonkeyPatch())
    _child(options, log, parent, told)


def use_small(patch: pytest.MonkeyPatch) -> None:
    """Small networks here, and in the processes of the runs."""
    make_small(patch)
    patch.setattr("torchvision.models.resnet50", "no test trains it")
    patch.setattr(training, "_child", small_child)


if __name__ == "__main__":
    import small_experiments  # under its own name, which a run's process looks it up by

    small_experiments.use_small(pytest.MonkeyPatch())
    sys.exit(experiments.main(sys.argv[1:]))
