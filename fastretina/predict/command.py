"""Grade single photographs with a run's network.

named files and folders  --find_photographs-->  paths
--read_photograph, in threads-->  Photograph, and whether it is gradable
--grade_batch-->  Graded  --Prediction.of, and with --pairs fuse_eyes-->  Prediction
-->  CSV or JSON on stdout, notes on stderr; with --overlays a picture of each

fastretina predict runs/resnet18-strong-1 photo.jpeg
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from tyro.conf import Positional, arg

from fastretina import cli
from fastretina.formatting import NOTICE
from fastretina.outputs import ask_for_file, ask_for_folder
from fastretina.terminal import printable
from fastretina.wall_clock import part
from loaders.grades import GRADES

if TYPE_CHECKING:
    from fastretina.metrics.both_eyes import Fusion
    from fastretina.metrics.calibration import Calibration
    from fastretina.nn.device import Compute
    from fastretina.nn.trained import Trained
    from fastretina.predict.network import Graded
    from fastretina.predict.reading import Photograph
    from fastretina.predict.table import Fused, Prediction

PROG = "fastretina predict"
ABOUT = f"""Grade photographs (JPEG, PNG, TIFF, WebP) with a run's network. They are
prepared as its training images were; one that is not square is cropped to the fundus.
One that is too dark, blown out or blurred, or shows no fundus, gets a warning beside
its grade. Not a medical device: do not treat anybody by it.

Example: {PROG} runs/resnet18-strong-1 photos/ --pairs --tta --overlays overlays
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``fastretina.predict``.

    Attributes:
        run: The run's folder.
        images: Photographs to grade, or folders that hold some, also in folders of
            their own.
        tta: Test-time augmentation: the mean over the image as it is, mirrored, upside
            down, and both; takes four times as long. What --calibrated and --pairs add
            to it was fitted without it.
        calibrated: Give probabilities calibrated by the temperature that the run fitted
            on its validation patients, and beside them the grade by its thresholds.
        pairs: Give for each eye what both eyes of the patient say together, too, by a
            second stage fitted on the run's validation patients. Names tell who is
            whose: 10_left and 10_right. The fused columns hold what the network and
            that stage say, never calibrated, with --calibrated either; an eye alone has
            the network's own probabilities there.
        overlays: Write a picture for each photograph to this folder: what its grade
            came from, by Grad-CAM.
        format: The predictions' format; the last line on stdout is a summary in JSON.
        out: Write the predictions to this file, not to stdout.
        device: auto, cpu, cuda, cuda:N or mps.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE...")]
    tta: bool = False
    calibrated: bool = False
    pairs: bool = False
    overlays: Annotated[Path | None, arg(metavar="DIR")] = None
    format: Literal["csv", "json"] = "csv"
    out: Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("at least one IMAGE must be given")
        if self.out is not None and not self.out.parent.is_dir():
            raise ValueError(f"--out must lie in a folder that exists, got {self.out}")
        if self.out is not None and self.out.is_dir():
            raise ValueError(f"--out must be a file, got the folder {self.out}")
        if self.overlays is not None and self.overlays.is_file():
            raise ValueError(f"--overlays must be a folder, got {self.overlays}")
        folders = [image.resolve() for image in self.images if image.is_dir()]
        if self.overlays is not None and any(
            map(self.overlays.resolve().is_relative_to, folders)
        ):  # it would grade them the next time
            raise ValueError(
                f"--overlays must lie outside the images' folders, got {self.overlays}"
            )


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    return cli.run(command, Options, argv, prog=prog, about=ABOUT)


class _Grader(NamedTuple):
    """A run's network on its device, and what the flags have added to it.

    Attributes:
        trained: the network.
        compute: device and precision.
        calibration: with ``--calibrated``.
        fusion: the second stage for both eyes, with ``--pairs``.
    """

    trained: Trained
    compute: Compute
    calibration: Calibration | None
    fusion: Fusion | None


def command(options: Options) -> dict[str, object]:
    """Grade every image that can be decoded; returns what the JSON line holds.

    Raises:
        DataError: after all others are graded, where some could not be.
    """
    if options.out is not None:
        ask_for_file(options.out)
    if options.overlays is not None:
        ask_for_folder(options.overlays, "--overlays")
    with part("imports"):
        from fastretina.predict.pairs import fellow_positions
        from fastretina.predict.reading import find_photographs
        from fastretina.predict.table import Prediction, fuse_eyes, refuse_failed
        from loaders.files import make_folder

    grader = _load(options)
    with part("data"):
        found = find_photographs(options.images)
    for note in found.notes:
        print(f"warning: {note}", file=sys.stderr)
    fellows = fellow_positions(found.paths) if options.pairs else {}
    if options.overlays is not None:
        make_folder(options.overlays)
    with part("evaluation"):
        graded = list(_graded(found.paths, grader, options))
    predictions = [Prediction.of(each, grader.calibration) for each in graded]
    if grader.fusion is not None:
        predictions = fuse_eyes(predictions, graded, fellows, grader.fusion)
    _write(predictions, grader, options)
    refuse_failed(predictions)
    counts = {"grade_counts": _count(predictions)}
    if grader.fusion is not None:
        fused = [each.fused for each in predictions if each.fused is not None]
        counts["fused_grade_counts"] = _count(fused)
    return {
        "run": str(options.run),
        "images": len(predictions),
        "left_out": found.left_out,
        **counts,
        "warnings": sum(bool(each.warning) for each in predictions),
        "tta": options.tta,
        "calibrated": options.calibrated,
        "weights_sha256": grader.trained.weights_sha256,
        "notice": NOTICE,
    }


def _count(graded: Sequence[Prediction | Fused]) -> list[int]:
    """Number of photographs of each grade, from 0 to 4."""
    grades = [each.grade for each in graded]
    return [grades.count(grade) for grade in range(len(GRADES))]


def _load(options: Options) -> _Grader:
    """All that is needed: what is missing fails now, not after an hour of grading.

    Raises:
        RunError: the run, or what a flag asks of it, is not there.
    """
    with part("imports"):
        from fastretina.nn.device import choose_again
        from fastretina.nn.trained import load_trained, warn_if_unfinished
        from fastretina.predict.network import calibration_of, fusion_of
        from fastretina.predict.reading import Preparation, refuse_unknown_steps
        from fastretina.run import Run

    with part("start"):
        run = Run(options.run)
        compute = choose_again(options.device, run.config().precision)
        trained = load_trained(run, compute.device)
        refuse_unknown_steps(run, Preparation.of_run(trained.config))
        grader = _Grader(
            trained,
            compute,
            calibration_of(run, trained) if options.calibrated else None,
            fusion_of(run, trained) if options.pairs else None,
        )
    warn_if_unfinished(run, trained)
    return grader


def _write(
    predictions: Sequence[Prediction], grader: _Grader, options: Options
) -> None:
    """The table to stdout or ``--out``, the notes to stderr."""
    from fastretina.predict.table import as_csv, as_json, notes
    from loaders.files import write_atomically

    rows = [each.row(grader.calibration) for each in predictions]
    text = as_csv(rows) if options.format == "csv" else as_json(rows)
    if options.out is None:
        print(text, end="")
    else:
        write_atomically(options.out, text)
    for line in notes(predictions):
        print(printable(line), file=sys.stderr)
    print(NOTICE, file=sys.stderr)


def _graded(
    paths: Sequence[Path], grader: _Grader, options: Options
) -> Iterator[Graded]:
    """Each photograph graded, in order; the next ones are read meanwhile."""
    from fastretina.predict.network import BATCH, calibrated, grade_batch
    from fastretina.predict.reading import Preparation, read_photograph
    from fastretina.processes import in_threads
    from fastretina.progress import progress_bar
    from loaders.cores import granted_cores

    trained, compute = grader.trained, grader.compute
    read = partial(read_photograph, how=Preparation.of_run(trained.config))
    with (
        closing(in_threads(read, paths, granted_cores())) as photographs,
        progress_bar("grading", len(paths), shown=len(paths) > BATCH) as bar,
    ):
        for first in range(0, len(paths), BATCH):
            batch = list(islice(photographs, BATCH))
            graded = grade_batch(batch, trained, compute, tta=options.tta)
            if options.overlays is not None:
                shown = [calibrated(each, grader.calibration) for each in graded]
                _draw(options.overlays, first + 1, batch, shown, grader)
            yield from graded
            bar.update(len(batch))


@part("figures")
def _draw(
    folder: Path,
    number: int,
    batch: Sequence[Photograph],
    graded: Sequence[Graded],
    grader: _Grader,
) -> None:
    """Write the overlays of a batch whose first photograph has this number."""
    import numpy as np
    import torch

    from fastretina.nn.gradcam import grad_cam
    from fastretina.predict.overlays import write_overlay

    good = [n for n, each in enumerate(graded) if each.probabilities is not None]
    if not good:
        return
    images = torch.from_numpy(np.stack([batch[place].image for place in good]))
    grades = torch.tensor([graded[place].grade for place in good])
    device = grader.compute.device
    with grader.compute.autocast():
        heats = grad_cam(grader.trained.network, images.to(device), grades.to(device))
    for place, heat in zip(good, heats.cpu().numpy(), strict=True):
        write_overlay(folder, number + place, graded[place], batch[place].image, heat)
