"""How a run starts: anew, or where an old one has stopped."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from fastretina.data.loading import Loading, other_pixels
from fastretina.data.splits import DataSplits
from fastretina.nn.device import Compute
from fastretina.nn.model import WeightsError, build_model
from fastretina.nn.step import StepSetup
from fastretina.recipe import Recipe
from fastretina.run import Run, create_run, describe
from fastretina.train.options import TrainOptions
from fastretina.train.state import TrainState
from loaders import Decoding
from loaders.errors import RunError


def start(
    options: TrainOptions,
    data: DataSplits,
    compute: Compute,
    loading: Loading,
    decoding: Decoding,
) -> TrainState:
    """Start a new run, or take up the one that ``--resume`` names.

    Args:
        options: of the command.
        data: of the run.
        compute: device and precision.
        loading: how batches are made.
        decoding: who makes their pixels.

    Raises:
        RunError: the folder holds a run already, or the run to resume is none, or of
            another recipe or data, or stopped within an epoch that another loader's
            order can't continue; or another process trains in it.
        WeightsError: the weights can't be had.
    """
    setup = StepSetup(
        recipe=options.recipe,
        compute=compute,
        train_counts=data.train_counts(),
        ranks=loading.ranks,
        compiled=options.compile,
    )
    if options.resume is None:
        return _begin(options, data, setup, loading, decoding)
    return _resume(options, data, setup, loading, decoding)


def _begin(
    options: TrainOptions,
    data: DataSplits,
    setup: StepSetup,
    loading: Loading,
    decoding: Decoding,
) -> TrainState:
    """A new run: its folder, its network, a first checkpoint."""
    recipe, ranks, compute = setup.recipe, setup.ranks, setup.compute
    if options.threads:
        torch.set_num_threads(options.threads)
    network, weights = ranks.from_first(lambda: _starting_network(recipe))
    run = ranks.from_first(lambda: create_run(options.out, recipe))
    lock = run.lock() if ranks.first else None
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
                "loader": loading.loader,
                "loading": loading.recorded(),
                "decoding": decoding._asdict(),
                "ranks": ranks.world_size,
                "device": str(compute.device),
                "precision": compute.precision,
                "threads": torch.get_num_threads(),
            }
        )
    state = TrainState(network, setup, run, loading.order, lock)
    state.save()  # so that there is something to resume from the first step on
    return state


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


def _resume(
    options: TrainOptions,
    data: DataSplits,
    setup: StepSetup,
    loading: Loading,
    decoding: Decoding,
) -> TrainState:
    """A run where its last checkpoint left it; without any, from the beginning."""
    assert options.resume is not None
    recipe, ranks, run = setup.recipe, setup.ranks, Run(options.resume)
    config = run.config()
    _check_same(run, recipe, data)
    torch.set_num_threads(options.threads or config["threads"])
    lock = run.lock() if ranks.first else None
    if ranks.first:
        run.remove_partial_files()
    begun = run.last.exists()
    network = build_model(
        recipe.arch, "none" if begun else config["weights"], recipe.seed
    )
    state = TrainState(network, setup, run, loading.order, lock)
    if begun:
        state.restore()
    else:
        state.save()
    if ranks.first:
        for note in _notes(config, setup, loading, decoding):
            print(note, file=sys.stderr)
        if not begun:
            print(
                "note: no checkpoint was written yet: from the start", file=sys.stderr
            )
    return state


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
    config: Mapping[str, Any], setup: StepSetup, loading: Loading, decoding: Decoding
) -> list[str]:
    """What is not as it was in the run, each in a line for people."""
    notes = []
    if loading.loader != config["loader"]:
        notes.append(
            f"note: {config['loader']} fed this run before, {loading.loader} does now"
        )
    changes = (
        (
            "on-corrupt",
            config.get("loading", {}).get("on_corrupt", loading.on_corrupt),
            loading.on_corrupt,
        ),
        ("precision", config["precision"], setup.compute.precision),
        ("threads", config["threads"], torch.get_num_threads()),
    )
    notes += [
        f"note: {name} was {before} before and is {now} now"
        for name, before, now in changes
        if before != now
    ]
    if other := other_pixels(config, decoding):
        notes.append(f"warning: {other}")
    return notes
