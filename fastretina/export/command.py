"""Write a run's network to a file that other programs run without torch: ONNX.

fastretina export runs/resnet18-strong-1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from fastretina import cli
from fastretina.formatting import NOTICE
from fastretina.outputs import ask_for_file
from fastretina.wall_clock import part
from loaders.errors import DataError

if TYPE_CHECKING:
    from fastretina.export.onnx_file import LargestDifferences
    from fastretina.run import Run
    from loaders.arrays import UInt8

PROG = "fastretina export"
ABOUT = f"""Write a run's network as an ONNX file that takes uint8[B, H, W, 3], RGB as
decoders give it, normalises inside, and gives logits and probabilities, float32[B, 5].
Before it is written, onnxruntime computes it, and the largest differences from torch
are printed. Needs pip install 'fastretina[export]'. Not a medical device.

Example: {PROG} runs/resnet18-strong-1 --out resnet18.onnx
"""
_IMAGES = 12  # to check with
_OPSETS = (18, 23)  # that torch's exporter writes without converting


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``fastretina.export``.

    Attributes:
        run: The run's folder.
        format: The file's format.
        out: The file to write.
        image_size: Pixels square of the images that it takes.
        opset: Version of ONNX's operators, 18 to 23; any runtime of 2023 has 18.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    format: Literal["onnx"] = "onnx"
    out: Annotated[
        Path | None,
        arg(metavar="FILE", help_behavior_hint="(default: RUN/model.onnx)"),
    ] = None
    image_size: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: the run's)")
    ] = None
    opset: int = _OPSETS[0]

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 64:
            raise ValueError(f"--image-size must be at least 64, got {self.image_size}")
        low, high = _OPSETS
        if not low <= self.opset <= high:
            raise ValueError(f"--opset must lie in {low} to {high}, got {self.opset}")
        if self.out is not None and self.out.suffix != ".onnx":
            raise ValueError(f"--out must end in .onnx, got {self.out}")
        if self.out is not None and not self.out.parent.is_dir():
            raise ValueError(f"--out must lie in a folder that exists, got {self.out}")


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    return cli.run(command, Options, argv, prog=prog, about=ABOUT)


def command(options: Options) -> dict[str, object]:
    """Export, check, write; returns the content of the JSON line.

    Raises:
        DataError: the run or a package is not there, or the file would compute
            something else.
    """
    from fastretina.run import Run

    run = Run(options.run)
    run.config()  # or there is no run, and nothing to write
    out = options.out or run.path / "model.onnx"
    ask_for_file(out)
    with part("imports"):
        import torch

        from fastretina.export.onnx_file import as_onnx, check, metadata, require
        from fastretina.nn.trained import load_trained, warn_if_unfinished
        from loaders.files import write_atomically

        require()
    with part("start"):
        trained = load_trained(run, torch.device("cpu"))
    warn_if_unfinished(run, trained)
    height, width = trained.config.image_shape
    if options.image_size is not None:
        height = width = options.image_size
    about = metadata(
        run.path.absolute().name, trained.checkpoint, trained.weights_sha256
    )
    with part("checkpoints"):
        content = as_onnx(trained.network, (height, width), options.opset, about)
    with part("data"):
        images, source = _images_to_check(run, (height, width))
    with part("evaluation"):
        largest = check(content, trained.network, images)
    write_atomically(out, content)
    print(
        f"{out}: takes uint8[B, {height}, {width}, 3], gives logits and probabilities, "
        f"float32[B, 5]; {len(content) / 1e6:.1f} MB, opset {options.opset}"
    )
    print(_describe(largest, source))
    print(NOTICE, file=sys.stderr)
    return {
        "run": str(options.run),
        "checkpoint": trained.checkpoint,
        "format": options.format,
        "out": str(out),
        "bytes": len(content),
        "opset": options.opset,
        "image_shape": [height, width],
        "checked_on": source,
        "checked_images": largest.images,
        "logits_difference": largest.logits,
        "probabilities_difference": largest.probabilities,
        "different_grades": largest.grades,
        "weights_sha256": trained.weights_sha256,
        "notice": NOTICE,
    }


def _describe(largest: LargestDifferences, source: str) -> str:
    return (
        f"largest difference from torch on {largest.images} {source}, in batches of 1 "
        f"and 3: logits {largest.logits:.2g}, probabilities "
        f"{largest.probabilities:.2g}; {largest.grades} different grades"
    )


def _images_to_check(run: Run, shape: tuple[int, int]) -> tuple[UInt8, str]:
    """uint8[N, H, W, 3] to compare torch and the file on, and what they are."""
    images = _test_images(run, shape)
    if images is None:
        return _random_images(shape), "images of random pixels"
    return images, "test images"


def _test_images(run: Run, shape: tuple[int, int]) -> UInt8 | None:
    """The first images that the run was tested on, uint8[N, H, W, 3].

    None where their shards are not there, or on a web server.
    """
    from fastretina.data.run_shards import shards_of_run
    from loaders import LoaderConfig, make_loader, open_split
    from loaders.place import is_url

    size = shape[0] if shape[0] == shape[1] else None
    delivered = LoaderConfig(
        batch_size=_IMAGES, workers=1, image_size=size, on_corrupt="skip"
    )
    try:
        shards = shards_of_run(run, "test")
        if is_url(shards):
            return None
        with (
            open_split(shards, "test") as split,
            make_loader("turbo", split, "test", delivered) as loader,
        ):
            images = next(iter(loader.epoch(0))).images.numpy().copy()
    except (DataError, StopIteration):
        return None
    return images if len(images) and images.shape[1:3] == shape else None


def _random_images(shape: tuple[int, int]) -> UInt8:
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (_IMAGES, *shape, 3), dtype=np.uint8)
