"""How a run starts: anew, or where an old one has stopped."""

from __future__ import annotations

import errno
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import fields, replace
from typing import TypedDict

import torch
from torch import nn

from fastretina.data.loading import Loading
from fastretina.data.other_pixels import warn_of_other_pixels
from fastretina.data.run_shards import recorded_place
from fastretina.data.splits import DataSplits
from fastretina.nn import compilation
from fastretina.nn.device import Compute
from fastretina.nn.distributed import Ranks
from fastretina.nn.model import build_model
from fastretina.nn.step import StepSetup
from fastretina.nn.weights_file import WeightsError
from fastretina.recipe import Precision, Recipe
from fastretina.run import Run, create_run
from fastretina.run_config import RecordedLoading, RunConfig
from fastretina.train.options import TrainOptions
from fastretina.train.state import TrainState
from fastretina.versions import versions_in_a_run
from loaders import Decoding
from loaders.errors import RunError
from loaders.files import ProcessLock

# What record locks fail with where the file system, or the system, has none.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def start(
    options: TrainOptions,
    data: DataSplits,
    compute: Compute,
    loading: Loading,
    decoding: Decoding,
) -> Iterator[TrainState]:
    """Start a new run, or take up the one that ``--resume`` names.

    Within the ``with``, other processes are kept from training in its folder.

    Args:
        options: the command's flags.
        data: the splits of the run.
        compute: device and precision.
        loading: says how batches are made.
        decoding: says who makes their pixels.

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
        compiled=_compiles(options, data, compute, loading.ranks),
        keeps_features=options.cache_features,
    )
    begin = _begin if options.resume is None else _resume
    with begin(options, data, setup, loading, decoding) as state:
        yield state


def _compiles(
    options: TrainOptions, data: DataSplits, compute: Compute, ranks: Ranks
) -> bool:
    """What ``--compile`` comes to here; where it was left to us and is on, say so."""
    recipe = options.recipe
    if options.compile != "auto":
        return options.compile == "on"
    images, shape = len(data.train), data.image_shape(recipe)
    found = compilation.pays(recipe, compute, images, shape, ranks.world_size)
    if found:
        print(
            "note: --compile auto compiles this run: each phase's first step takes up "
            "to a minute",
            file=sys.stderr,
        )
    return found


@contextmanager
def _locked(run: Run, ranks: Ranks, advice: str = "") -> Iterator[None]:
    """Keep other processes from training in a run's folder, on the first rank.

    Raises:
        RunError: another process does; then ``advice`` is given, too.
    """
    if not ranks.first:
        yield
        return
    lock: AbstractContextManager[object] = nullcontext()
    try:
        lock = ProcessLock(run.lock_file)
    except BlockingIOError:
        raise RunError(
            f"another process is training in {run.path}: wait for it to end{advice}"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        run.lock_file.unlink(missing_ok=True)
        print(
            f"warning: {run.path} can't be locked ({error.strerror}): see to it that "
            "no other process trains there",
            file=sys.stderr,
        )
    with lock:
        yield


@contextmanager
def _begin(
    options: TrainOptions,
    data: DataSplits,
    setup: StepSetup,
    loading: Loading,
    decoding: Decoding,
) -> Iterator[TrainState]:
    """A new run: its folder, its network, a first checkpoint."""
    recipe, ranks = setup.recipe, setup.ranks
    if options.threads:
        torch.set_num_threads(options.threads)
    network, weights = ranks.from_first(lambda: _starting_network(recipe))
    run = ranks.from_first(lambda: create_run(options.out, recipe))
    with _locked(run, ranks, ", or choose another --out"):
        if ranks.first:
            run.write_config(
                RunConfig(
                    recipe=recipe,
                    python=platform.python_version(),
                    versions=versions_in_a_run(),
                    weights=weights,
                    data=data.describe(),
                    train_counts=data.train_counts(),
                    image_shape=data.image_shape(recipe),
                    square=data.square(),
                    **_changeable(options, setup, loading, decoding),
                )
            )
        state = TrainState(network, setup, run, loading.order)
        with closing(state):
            state.save()  # so that there is soon something to resume from
            yield state


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


@contextmanager
def _resume(
    options: TrainOptions,
    data: DataSplits,
    setup: StepSetup,
    loading: Loading,
    decoding: Decoding,
) -> Iterator[TrainState]:
    """A run where its last checkpoint left it; without any, from the beginning."""
    assert options.resume is not None
    recipe, ranks, run = setup.recipe, setup.ranks, Run(options.resume)
    config = run.config()
    _check_same(run, config, recipe, data)
    torch.set_num_threads(options.threads or config.threads)
    with _locked(run, ranks):
        if ranks.first:
            run.remove_partial_files()
        begun = run.last.exists()
        network = build_model(
            recipe.arch, "none" if begun else config.weights, recipe.seed
        )
        with closing(TrainState(network, setup, run, loading.order)) as state:
            if begun:
                state.restore()
            else:
                state.save()
            if ranks.first:
                changeable = _changeable(options, setup, loading, decoding)
                _record_changes(run, config, changeable)
                if not begun:
                    print(
                        "note: no checkpoint was written yet: from the start",
                        file=sys.stderr,
                    )
            ranks.wait()  # for the config, which all of them read in the end
            yield state


class _Changeable(TypedDict):
    """What of a ``RunConfig`` may change on ``--resume``."""

    shards: str
    test_shards: str | None
    ranks: int
    device: str
    loader: str
    loading: RecordedLoading
    decoding: Decoding
    precision: Precision
    threads: int
    compile: bool
    cache_features: bool


def _changeable(
    options: TrainOptions, setup: StepSetup, loading: Loading, decoding: Decoding
) -> _Changeable:
    return _Changeable(
        shards=recorded_place(options.shards),
        test_shards=options.test_shards and recorded_place(options.test_shards),
        ranks=setup.ranks.world_size,
        device=str(setup.compute.device),
        loader=loading.loader,
        loading=loading.recorded(),
        decoding=decoding,
        precision=setup.compute.precision,
        threads=torch.get_num_threads(),
        compile=setup.compiled,
        cache_features=setup.keeps_features,
    )


def _record_changes(run: Run, before: RunConfig, changeable: _Changeable) -> None:
    """Say what is not as it was in the run, and keep it: it is the run's from here on.

    Whoever goes on again, or evaluates, then does it as the run was last trained and
    evaluated. Who made the pixels before is kept as well, since the weights were
    trained on them, too.
    """
    decoding = changeable["decoding"]
    earlier = before.decoding or decoding
    changed = (earlier,) if earlier != decoding else ()
    now = replace(
        before,
        **changeable,
        decoding_before=before.decoding_before + changed,
    )
    for change in before.changes_to(now):
        print(f"note: {change}", file=sys.stderr)
    warn_of_other_pixels(before.decoding, decoding)
    if now != before:
        run.write_config(now)


def _check_same(run: Run, config: RunConfig, recipe: Recipe, data: DataSplits) -> None:
    for field in fields(Recipe):
        before, now = getattr(config.recipe, field.name), getattr(recipe, field.name)
        if before != now:
            flag = field.name.replace("_", "-")
            raise RunError(
                f"--{flag} can't change on --resume: it was {before}, now {now}"
            )
    if config.data != data.describe():
        raise RunError(
            f"{run.path} was trained on other data than {data.train.folder} holds; "
            "pass the --shards that it began with"
        )
