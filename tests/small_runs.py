"""Training runs small enough to be killed by the dozen: a network of 2,000 weights."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import signal
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from fork_server import server
from torch import nn

TIMES = ("images_per_second", "wait_seconds", "idle_seconds", "seconds")


def small_network(num_classes: int = 1000) -> nn.Module:
    """What stands in for torchvision's resnet18: all that the trainer knows of it."""
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 8, 3, stride=4, bias=False),
        bn1=nn.BatchNorm2d(8),
        relu=nn.ReLU(),
        conv2=nn.Conv2d(8, 16, 3, stride=2, bias=False),
        bn2=nn.BatchNorm2d(16),
        relu2=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(16, num_classes),
    )
    return nn.Sequential(layers)


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Train the small network, and make haste at the end."""
    patch.setattr("torchvision.models.resnet18", small_network)
    make_haste(patch)


def make_haste(patch: pytest.MonkeyPatch) -> None:
    """No figures, few resamples and no fsync, which take most of a small run's time.

    A killed process loses nothing that it has written: fsync is for a power cut.
    """
    patch.setattr("fastretina.metrics.bootstrap.RESAMPLES", 2)
    for name in ("draw_curves", "draw_confusion"):
        patch.setattr(f"fastretina.train.finish.{name}", _nothing)
    patch.setattr("os.fsync", _nothing)


def _nothing(*_args: object) -> None:
    pass


def words(shards: Path, out: Path, *more: object) -> list[str]:
    """The flags of a run of one head and two full epochs, of five steps at most."""
    given = ["--shards", shards, "--out", out, "--weights", "none", "--batch-size", 8]
    given += ["--head-epochs", 1, "--full-epochs", 2, *more]
    return [str(word) for word in given]


@dataclass(frozen=True)
class Outcome:
    """What a command has left: exit code and lines."""

    code: int
    out: list[str]
    err: list[str]

    @property
    def json(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        result: dict[str, Any] = json.loads(self.out[-1])
        return result

    @property
    def complaint(self) -> str:
        """The one line on stderr that an expected failure ends with."""
        assert self.err, "nothing on stderr"
        assert sum(line.startswith("error: ") for line in self.err) == 1, self.err
        assert self.err[-1].startswith("error: "), self.err
        return self.err[-1]


def call(
    main: Callable[[list[str]], int],
    argv: list[str],
    capsys: pytest.CaptureFixture[str],
) -> Outcome:
    """Run a command in this process."""
    threads = torch.get_num_threads()
    capsys.readouterr()
    try:
        code = main([str(word) for word in argv])
    finally:
        torch.set_num_threads(threads)
    out, err = capsys.readouterr()
    lines = [without_seconds(line) for line in out.splitlines()]
    return Outcome(code, lines, err.splitlines())


def without_seconds(line: str) -> str:
    """A JSON line without what differs from call to call: where its time went."""
    return re.sub(r', "wall_seconds": \{[^}]*\}', "", line)


def log(run: Path) -> list[dict[str, str]]:
    """The lines of ``log.csv`` without the times."""
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def metrics(run: Path) -> dict[str, Any]:
    """``metrics.json`` without what may differ from run to run of the same recipe."""
    scores: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    changing = {"run", "loader", "seconds", "images_per_second", "wait_fraction"}
    changing |= {"wall_seconds", "device_idle_fraction"}
    return {name: value for name, value in scores.items() if name not in changing}


# The server has imported what a run does, and never computed: its forks start at once.
# (The first step of an optimizer imports torch._dynamo, for a second.)
PRELOADED = [
    "fastretina.experiments.run_server",
    "fastretina.train.command",
    "fastretina.train.finish",
    "loaders._turbo",
    "loaders._dali_reader",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "pyarrow.dataset",
    "typeguard",  # by tyro, when it reads flags
    "tyro",
    "pytest",
]
server.set_forkserver_preload(PRELOADED)


def start(
    argv: list[str],
    folder: Path,
    at: tuple[str, int, str] | None = None,
    number: int = signal.SIGKILL,
    real: bool = False,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> multiprocessing.process.BaseProcess:
    """Train in another process, which may send itself a signal at some event.

    Args:
        argv: flags.
        folder: gets what it prints: ``out`` and ``err``.
        at: ``module:name`` of a function, which call of it, and ``before``,
            ``after``, or ``twice`` (before it).
        number: the signal.
        real: with torchvision's resnet18.
        environment: variables to set there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given = (argv, folder, at, number, real, dict(environment))
    process = server.Process(target=_child, args=given)
    process.start()
    return process


def finish(process: multiprocessing.process.BaseProcess, folder: Path) -> Outcome:
    """Wait for it; a killed one has a negative code."""
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    lines = [(folder / name).read_text().splitlines() for name in ("out", "err")]
    return Outcome(process.exitcode, *lines)


def _child(
    argv: list[str],
    folder: Path,
    at: tuple[str, int, str] | None,
    number: int,
    real: bool,
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    # Or a DataLoader's workers would be started by a server, too, which imports torch.
    multiprocessing.set_start_method(None, force=True)
    for target, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), target)
    from fastretina.train import command as train

    (make_haste if real else make_small)(pytest.MonkeyPatch())
    if at is not None:
        signal_at(*at, number)
    sys.exit(train.main(argv))


def signal_at(place: str, call_number: int, when: str, number: int) -> None:
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    function, calls = getattr(owner, name), iter(range(1, 1 << 30))

    @wraps(function)
    def watched(*args: Any, **named: Any) -> Any:
        due = next(calls) == call_number
        if due and when != "after":
            os.kill(os.getpid(), number)
        if due and when == "twice":
            os.kill(os.getpid(), number)
        result = function(*args, **named)
        if due and when == "after":
            os.kill(os.getpid(), number)
        return result

    setattr(owner, name, watched)
