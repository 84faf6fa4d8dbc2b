"""A run's network as others take it: of which checkpoint, trained for how long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import make_small

from fastretina.nn import checkpoint
from fastretina.nn.model import build_model
from fastretina.nn.trained import load_trained
from fastretina.recipe import STRONG, Recipe
from fastretina.run import Run
from fastretina.run_config import RunConfig, RunData


def write_run(folder: Path, state: dict[str, Any], recipe: Recipe = STRONG) -> Run:
    """A run's folder with a config and the checkpoint of a network as it was begun."""
    run = Run(folder)
    run.write_config(
        RunConfig(
            recipe=recipe,
            weights="none",
            shards="shards",
            data=RunData(),
            image_shape=(64, 64),
            square=True,
            loader="pil",
            precision="fp32",
            threads=1,
        )
    )
    weights = build_model("resnet18", "none", 0).state_dict()
    checkpoint.save(run.last, checkpoint.prefixed("model", weights), state)
    return run


@pytest.mark.parametrize(
    ("state", "epoch"),
    [
        ({"best": {"epoch": 2, "score": [0.5, 0.5]}, "progress": {"epoch": 3}}, 2),
        ({"best": None, "progress": {"epoch": 3}}, 3),
        ({"progress": {"epoch": 3}}, 3),
        ({"best": {"epoch": 2}}, 2),
        ({"best": None}, 0),
        ({}, 0),
    ],
    ids=str,
)
def test_epoch_is_0_where_a_checkpoint_does_not_tell_it(
    state: dict[str, Any],
    epoch: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    make_small(monkeypatch)
    found = load_trained(write_run(tmp_path, state), torch.device("cpu"))
    assert (found.checkpoint, found.checkpoint_epoch) == ("last", epoch)
    assert not found.network.training


def test_loss_weights_follow_the_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make_small(monkeypatch)
    balanced = replace(STRONG, class_weights="balanced")
    for recipe, counts, wanted in (
        (balanced, [8, 4, 2, 1, 0], [1, 2, 4, 8, 0]),
        (STRONG, [8, 4, 2, 1, 0], None),
        (balanced, None, None),
    ):
        run = write_run(tmp_path, {"progress": {"epoch": 6}}, recipe)
        found = load_trained(run, torch.device("cpu")).loss_weights(counts)
        assert found == wanted


@pytest.mark.parametrize(("epochs", "weighted"), [(5, False), (6, True)])
def test_loss_weights_are_those_of_the_phase_that_the_checkpoint_ended_in(
    epochs: int, weighted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of phase 1 without weights there are none to undo."""
    make_small(monkeypatch)
    recipe = replace(
        STRONG, class_weights="balanced", weighted_phases="full", head_epochs=5
    )
    run = write_run(tmp_path, {"progress": {"epoch": epochs}}, recipe)
    found = load_trained(run, torch.device("cpu")).loss_weights([8, 4, 2, 1, 0])
    assert (found is not None) is weighted
