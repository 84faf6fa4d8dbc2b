"""Finished runs made up in a second, as ``fastretina.train`` leaves them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from small_runs import small_network

from fastretina.metrics.baselines import Eyes
from fastretina.metrics.evaluation import evaluate
from fastretina.metrics.predictions import Predictions, PredictionSource
from fastretina.nn import checkpoint
from fastretina.nn.model import weights_sha256
from fastretina.recipe import Recipe
from fastretina.run import LoggedEpoch, Run
from fastretina.run_config import RecordedLoading, RunConfig, RunData
from fastretina.versions import versions_in_a_run
from loaders.shards import Preprocessing, open_split

RECIPE = Recipe(head_epochs=2, full_epochs=3)
SHARES = (0.6, 0.1, 0.18, 0.07, 0.05)
SHA256 = "0123456789abcdef" * 4


def chances_of(
    labels: npt.NDArray[np.int64], seed: int = 0, skill: float = 2.0
) -> npt.NDArray[np.float64]:
    """float64[N, 5]: of a network that is right more often than not."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (len(labels), 5))
    logits[np.arange(len(labels)), labels] += skill
    raised = np.exp(logits)
    return raised / raised.sum(axis=1, keepdims=True)


def predicted(
    number: int, seed: int = 0, *, first: int = 10, sha256: str = SHA256
) -> Predictions:
    """Both eyes of each patient, predicted by a network that has learned something."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(5, number, p=SHARES)
    labels[:5] = range(5)
    patients = [str(first + place // 2) for place in range(number)]
    eyes = [("left", "right")[place % 2] for place in range(number)]
    return Predictions(
        rows=np.arange(number),
        keys=[f"{p}_{eye}" for p, eye in zip(patients, eyes, strict=True)],
        patients=patients,
        eyes=eyes,
        labels=labels,
        probabilities=chances_of(labels, seed),
        source=PredictionSource(
            checkpoint="best", checkpoint_epoch=4, weights_sha256=sha256
        ),
    )


def log_rows() -> list[LoggedEpoch]:
    """Two epochs of the head and three of the whole network."""
    return [
        LoggedEpoch(
            epoch=epoch,
            phase="head" if epoch <= 2 else "full",
            lr=1e-3,
            train_loss=1.5 / epoch,
            train_accuracy=0.5 + epoch / 20,
            validation_accuracy=0.45 + epoch / 20,
            validation_qwk=epoch / 10,
            images_per_second=200.0 if epoch <= 2 else 80.0,
            wait_seconds=epoch / 10,
            seconds=5.0,
        )
        for epoch in range(1, 6)
    ]


def write_run(
    folder: Path,
    test: Predictions,
    *,
    validation: Predictions | None = None,
    known: Eyes | None = None,
    shards: str = "no-such-shards",
    side: int = 64,
) -> Path:
    """Write all that a finished run leaves but its checkpoints; returns its folder."""
    folder.mkdir(parents=True)
    run = Run(folder)
    described = RunData(
        fingerprint="f00d",
        preprocessing=Preprocessing(),
        train=900,
        validation=100,
        test=len(test),
    )
    run.write_config(
        RunConfig(
            recipe=RECIPE,
            versions=versions_in_a_run(),
            weights="none",
            shards=shards,
            data=described,
            image_shape=(side, side),
            square=True,
            loader="turbo",
            loading=RecordedLoading(loader="turbo", on_corrupt="skip"),
            device="cpu",
            precision="fp32",
            threads=1,
        )
    )
    run.write_log(log_rows())
    test.save(folder / "test.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastretina.metrics.bootstrap.RESAMPLES", 40)
        evaluation = evaluate(test, known, validation)
    run.write_metrics(
        {
            "run": str(folder),
            "weights": "none",
            "epochs": 5,
            "checkpoint": "best",
            "checkpoint_epoch": 4,
            "weights_sha256": test.source.weights_sha256,
            "parameters": 2_000,
            **asdict(evaluation),
        }
    )
    return folder


def made_up_run(folder: Path, number: int = 120, seed: int = 0) -> Path:
    """With validation, baselines and a split that leaks; its shards are gone."""
    test = predicted(number, seed)
    train = predicted(3 * number, seed + 1, first=10 + number // 4)
    known = Eyes(
        names=train.keys,
        patients=train.patients,
        sides=train.eyes,
        labels=train.labels,
    )
    validation = predicted(80, seed + 2, first=90_000)
    return write_run(folder, test, validation=validation, known=known)


def run_on(shards: Path, folder: Path) -> Path:
    """A run of the small network, with its checkpoint, on the test split of shards."""
    torch.manual_seed(3)  # one that says something: of others Grad-CAM is 0 all over
    network = small_network(5)
    state = network.state_dict()
    sha256 = weights_sha256(state)
    with open_split(shards, "test") as split:
        rows = np.arange(len(split.labels))
        chances = chances_of(split.labels, skill=0.5)
        source = PredictionSource(
            checkpoint="best", checkpoint_epoch=4, weights_sha256=sha256
        )
        test = replace(Predictions.of(split, rows, chances), source=source)
    write_run(folder, test, shards=str(shards))
    checkpoint.save(
        folder / "best.safetensors",
        checkpoint.prefixed("model", state),
        {"best": {"epoch": 4, "score": [0.5, 0.5]}, "progress": {"epoch": 4}},
    )
    return folder


def edit(path: Path, **changes: object) -> None:
    """Change top-level values of a JSON file."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def renamed(test: Predictions, names: Sequence[tuple[str, str, str]]) -> Predictions:
    """The first samples under other keys, patients and eyes."""
    keys, patients, eyes = (list(c) for c in (test.keys, test.patients, test.eyes))
    for place, (key, patient, eye) in enumerate(names):
        keys[place], patients[place], eyes[place] = key, patient, eye
    return Predictions(
        rows=test.rows,
        keys=keys,
        patients=patients,
        eyes=eyes,
        labels=test.labels,
        probabilities=test.probabilities,
        source=test.source,
    )
