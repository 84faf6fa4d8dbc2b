"""How a training session begins: with a new run, or where an old one has stopped."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from fastretina.data.loading import LoadingOptions, other_pixels
from fastretina.data.splits import DataSplits
from fastretina.nn.device import Compute
from fastretina.nn.model import WeightsError, build_model
from fastretina.recipe import Recipe
from fastretina.run import Run, create_run, describe
from fastretina.train.options import TrainOptions
from fastretina.train.state import TrainState
from loaders import Decoding
from loaders.errors import RunError


def begin(
    options: TrainOptions,
    data: DataSplits,
    compute: Compute,
    feeding: LoadingOptions,
    decoding: Decoding,
) -> TrainState:
    """Start a new run: its folder, its network, a first checkpoint.

    Raises:
        RunError: the folder holds a run already.
        WeightsError: the weights can't be had.
    """
    recipe, ranks = options.recipe, feeding.ranks
    if options.threads:
        torch.set_num_threads(options.threads)
    network, weights = ranks.from_first(lambda: _starting_network(recipe))
    run = ranks.from_first(lambda: create_run(options.out, recipe))
    if ranks.first:
        run.write_config(
            {
                **describe(recipe),
                "weights": weights,
                "shards": options.shards,
                "test_shards": options.test_shards,
                "data": data.describe(),
                "train_counts": data.train_counts(),
                "image_shape": data.image_shape(recipe),
                "square": data.square(),
                "loader": feeding.loader,
                "decoding": decoding._asdict(),
                "ranks": ranks.world_size,
                "device": str(compute.device),
                "precision": compute.precision,
                "threads": torch.get_num_threads(),
            }
        )
    session = TrainState(
        recipe, network, compute, run, feeding, compiled=options.compile
    )
    session.save()  # so that there is something to resume from the first step on
    return session


def _starting_network(recipe: Recipe) -> tuple[nn.Module, str]:
    """The network to train, and the weights that it really starts from."""
    auto = recipe.weights == "auto"
    weights = "imagenet" if auto else recipe.weights
    try:
        return build_model(recipe.arch, weights, recipe.seed), weights
    except WeightsError as error:
        if not auto:
            raise
        print(
            f"warning: training starts from random weights and will grade worse: "
            f"{error}",
            file=sys.stderr,
        )
        return build_model(recipe.arch, "none", recipe.seed), "none"


def resume(
    options: TrainOptions,
    data: DataSplits,
    compute: Compute,
    feeding: LoadingOptions,
    decoding: Decoding,
) -> TrainState:
    """Take up a run where its last checkpoint left it.

    One that was killed before it had written any begins anew.

    Raises:
        RunError: it is no run, or of another recipe or data, or it stopped within an
            epoch that another loader's order can't continue.
    """
    assert options.resume is not None
    recipe, run, ranks = options.recipe, Run(options.resume), feeding.ranks
    config = run.config()
    _check_same(run, recipe, data)
    torch.set_num_threads(options.threads or config["threads"])
    if ranks.first:
        run.remove_partial_files()
    begun = run.last.exists()
    network = build_model(
        recipe.arch, "none" if begun else config["weights"], recipe.seed
    )
    session = TrainState(
        recipe, network, compute, run, feeding, compiled=options.compile
    )
    if begun:
        session.restore()
    else:
        session.save()
    if ranks.first:
        for note in _notes(config, feeding, decoding, begun):
            print(note, file=sys.stderr)
    return session


def _check_same(run: Run, recipe: Recipe, data: DataSplits) -> None:
    saved = run.recipe()
    for field in fields(Recipe):
        before, now = getattr(saved, field.name), getattr(recipe, field.name)
        if before != now:
            flag = field.name.replace("_", "-")
            raise RunError(
                f"--{flag} can't change on --resume: it was {before}, now {now}"
            )
    if run.config()["data"] != data.describe():
        raise RunError(
            f"{run.path} was trained on other data than {data.train.folder} holds; "
            "pass the --shards that it began with"
        )


def _notes(
    config: Mapping[str, Any], feeding: LoadingOptions, decoding: Decoding, begun: bool
) -> list[str]:
    """What is not as it was, for people."""
    notes = []
    if not begun:
        notes.append("note: no checkpoint was written yet: from the start")
    if feeding.loader != config["loader"]:
        notes.append(
            f"note: {config['loader']} fed this run before, {feeding.loader} does now"
        )
    if other := other_pixels(config, decoding):
        notes.append(f"warning: {other}")
    return notes
