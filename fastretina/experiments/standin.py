"""Weights that stand in for ImageNet's where those can't be fetched.

    draw another cohort -> shards -> train each network anew -> OUT/ARCH.safetensors

They come from made-up photographs of other made-up patients than a demo set's, so a
table trained from them shows what a pre-trained start changes, and nothing of eyes.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from fastretina import cli
from fastretina.outputs import ask_for_folder
from fastretina.recipe import RECIPES, Arch, Recipe
from fastretina.wall_clock import part

NAME = "standin"
PROG = f"fastretina experiments {NAME}"
ABOUT = f"""Make weights that stand in for ImageNet's, for --pretrained: draw a cohort
of made-up photographs, train each network on it from scratch, and write what it has
learned, without its head, as OUT/resnet18.safetensors and OUT/resnet50.safetensors.
Killed at any moment, the same command goes on where it was.

Example: {PROG} --out standin
Then: fastretina experiments table --pretrained standin
"""
_DRAWN = 512  # pixels of a photograph; training makes it smaller
_ARCHS: tuple[Arch, ...] = ("resnet18", "resnet50")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``fastretina experiments standin``.

    Attributes:
        out: Folder of the weights; their photographs and runs are kept below it, in
            work.
        arch: The networks.
        images: Photographs to draw; a fifth of them is only tested on.
        seed: Which cohort to draw. It must be another than that of the photographs that
            the weights are tried on, which is 0 unless it was named.
        image_size: Pixels square to train at.
        epochs: Epochs of recipe strong, all of the whole network.
        device: auto, cpu, cuda, cuda:N or mps.
        threads: Threads that compute on a CPU; another number gives other last bits.
    """

    out: Path = Path("standin")
    arch: Annotated[tuple[Arch, ...], arg(metavar="ARCH...")] = _ARCHS
    images: int = 1200
    seed: int = 7
    image_size: int = 128
    epochs: int = 15
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("images", 2), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"--{name} must be at least {low}, got {value}")
        if not 64 <= self.image_size <= _DRAWN:
            raise ValueError(
                f"--image-size must be 64 to {_DRAWN}, got {self.image_size}"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed must be 0 to 2**32 - 1, got {self.seed}")
        if not self.arch:
            raise ValueError("--arch must name at least one network")

    def recipe(self, arch: Arch) -> Recipe:
        """What one network is trained by."""
        return replace(
            RECIPES["strong"],
            arch=arch,
            weights="none",
            image_size=self.image_size,
            head_epochs=0,  # there is no backbone yet for a head to stand on
            full_epochs=self.epochs,
        )


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    return cli.run(command, Options, argv, prog=prog, about=ABOUT)


def command(options: Options) -> dict[str, object]:
    """Draw, train and write all that is not there yet.

    Raises:
        DataError: the folder holds something else, or a run has failed.
        KeyboardInterrupt: after the run in progress has saved.
    """
    from fastretina.experiments.experiment_folder import Settings, keep_settings, locked
    from loaders.files import make_folder

    ask_for_folder(options.out)
    settings = Settings(
        experiment=NAME,
        shards=f"{options.images} drawn photographs of seed {options.seed}",
        cells={arch: asdict(options.recipe(arch)) for arch in options.arch},
    )
    make_folder(options.out)
    with locked(options.out):
        keep_settings(options.out, settings)
        shards = _make_shards(options, options.out / "work")
        written = {arch: _make_weights(options, arch, shards) for arch in options.arch}
    for arch, (path, digest) in written.items():
        print(f"{path}: {arch} without its head, weights {digest[:12]}")
    return {
        "out": str(options.out),
        "files": {arch: str(path) for arch, (path, _) in written.items()},
        "weights_sha256": {arch: digest for arch, (_, digest) in written.items()},
        "images": options.images,
        "seed": options.seed,
        "epochs": options.epochs,
    }


@part("data")
def _make_shards(options: Options, folder: Path) -> Path:
    """The cohort's shards, drawn and written if they are not there yet."""
    from fastretina.demo import command as demo
    from fastretina.shard import command as shard
    from loaders.shards import MANIFEST

    shards = folder / "shards"
    if (shards / MANIFEST).exists():
        return shards
    demo.make_demo(
        demo.Options(
            out=folder / "photographs",
            images=options.images,
            seed=options.seed,
            image_size=_DRAWN,
        )
    )
    with contextlib.redirect_stdout(io.StringIO()):  # the command prints
        shard.write(shard.Options(data=folder / "photographs", shards=shards))
    return shards


def _make_weights(options: Options, arch: Arch, shards: Path) -> tuple[Path, str]:
    """The file of one network, and the SHA-256 of the weights in it.

    Raises:
        RunError: its run has failed.
        KeyboardInterrupt: after the run has saved.
    """
    import torch
    from safetensors.torch import save

    from fastretina.nn.model import weights_sha256
    from fastretina.nn.trained import load_trained
    from fastretina.run import Run
    from loaders.files import write_atomically

    run = options.out / "work" / arch
    if not (run / "metrics.json").exists():
        _train(options, arch, shards, run)
    trained = load_trained(Run(run), torch.device("cpu"))
    backbone = {
        name: tensor.contiguous()
        for name, tensor in trained.network.state_dict().items()
        if not name.startswith("fc.")
    }
    path = options.out / f"{arch}.safetensors"
    write_atomically(path, save(backbone))
    return path, weights_sha256(backbone)


@part("steps")  # with all that the process of its own does
def _train(options: Options, arch: Arch, shards: Path, run: Path) -> None:
    """Train one network, or go on with it, in a process of its own."""
    from fastretina.experiments.worker import run_in_process
    from fastretina.interrupts import Stopper
    from fastretina.train.options import TrainOptions
    from loaders.errors import RunError

    print(f"training {arch}, {options.epochs} epochs", file=sys.stderr, flush=True)
    train_options = TrainOptions(
        recipe=options.recipe(arch),
        shards=str(shards),
        device=options.device,
        threads=options.threads,
        out=run,
        resume=run if (run / "config.json").exists() else None,
    )
    try:
        error = run_in_process(train_options, run.with_suffix(".log"), Stopper())
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on where it was") from None
    if error is not None:
        raise RunError(f"{arch} could not be trained: {error}")
