"""Made-up fundus photographs in the course's folder layout, to try everything with.

    plan the cohort -> draw the eyes (a process per core) -> write the label files

Which patient has which grade, eye and split is planned first, from the seed alone; each
eye is then a function of (seed, patient, eye, grade). So the same options give the same
bytes, whatever the number of workers, and a killed run is simply run again.
"""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from fastretina.cli import run
from fastretina.data.drawn import DEMO_NOTE, NOTE_ABOUT, read_note
from fastretina.wall_clock import part
from loaders.cores import granted_cores
from loaders.errors import DataError
from loaders.files import (
    make_folder,
    make_inner_folder,
    refuse_link,
    sync_folder,
    write_atomically,
)
from loaders.grades import GRADES
from loaders.leftovers import is_partial, remove_leftovers
from loaders.shards import SPLITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastretina.demo.cohort import PlannedEye

PROG = "fastretina demo"
ABOUT = (
    "Make a folder of made-up fundus photographs of diabetic-retinopathy grades 0-4, "
    "laid out as the course's data: OUT/data/NAME.jpeg and, beside that folder, "
    "{train,test}_{img,label}.csv. One free photograph is bent, lit and coloured anew "
    "for every eye; the lesions drawn into it follow the grade. Patients are made up, "
    "too; no patient is in both splits. Not for learning anything about real eyes. "
    f"Example: {PROG} demo --images 1200"
)

COLUMNS = ("img", "label")  # a file each
VERSION = 1  # of the drawing: other bytes from the same options


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``fastretina demo``.

    Attributes:
        out: Folder to write; made if it is missing.
        images: Number of images, over both splits.
        seed: Which cohort to make up; the same seed gives the same bytes.
        image_size: Width and height of an image, in pixels.
        test_share: Share of the images in the test split, between 0 and 1.
        balanced: Equally many images of each grade, not the course's 73.5/7/15/2.5/2.1
            percent.
        workers: Number of processes that draw; as many as there are cores if left out.
        overwrite: Write over what is there; deletes images of an older demo set, but no
            others.
    """

    out: Positional[Path]
    images: int = 4000
    seed: int = 0
    image_size: int = 512
    test_share: float = 0.2
    balanced: bool = False
    workers: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse what can't be meant."""
        size, share, workers = self.image_size, self.test_share, self.workers
        rules = (
            (self.images >= 2, "--images must be at least 2", self.images),
            (0 <= self.seed < 2**32, "--seed must be 0 to 2**32 - 1", self.seed),
            (64 <= size <= 4096, "--image-size must be 64 to 4096", size),
            (0 < share < 1, "--test-share must lie between 0 and 1", share),
            (workers is None or workers > 0, "--workers must be at least 1", workers),
        )
        for kept, rule, value in rules:
            if not kept:
                raise ValueError(f"{rule}, got {value}")


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Make a demo set; returns the exit code."""
    return run(make_demo, Options, argv, prog=prog, about=ABOUT)


def make_demo(options: Options) -> dict[str, object]:
    """Write the folder; returns the content of the JSON line."""
    with part("imports"):
        from fastretina.demo.cohort import plan_cohort

    started = time.perf_counter()
    cohort = plan_cohort(
        options.seed, options.images, options.test_share, balanced=options.balanced
    )
    samples = [sample for split in SPLITS for sample in cohort[split]]
    _claim(options, {f"{sample.name}.jpeg" for sample in samples})
    with part("figures"):
        _draw_all(options, samples)
    with part("data"):
        _write_labels(options.out, cohort)
    return {
        "out": str(options.out),
        "images": len(samples),
        **{split: _per_grade(cohort[split]) for split in SPLITS},
        "seconds": round(time.perf_counter() - started, 2),
        "seed": options.seed,
    }


def _per_grade(samples: Sequence[PlannedEye]) -> dict[str, int]:
    grades = [sample.grade for sample in samples]
    return {str(grade): grades.count(grade) for grade in range(len(GRADES))}


# --- the folder


def _claim(options: Options, names: set[str]) -> None:
    """Make OUT ours, or refuse: its note says which demo set a folder holds."""
    out, data, note = options.out, options.out / "data", _note(options)
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; name a folder")
    refuse_link(data)
    written = read_note(out / DEMO_NOTE)
    taken = out.is_dir() and any(not is_partial(path) for path in out.iterdir())
    if taken and written != note and not options.overwrite:
        what = "a demo set of other options" if written else "something else"
        raise DataError(f"{out}: holds {what}; name another folder, or use --overwrite")
    strays = sorted(p for p in data.glob("*.jpeg") if written and p.name not in names)
    if strays and not options.overwrite:
        raise DataError(
            f"{strays[0]}: is not of this demo set; remove it, or use --overwrite"
        )
    make_folder(out)
    if written != note:  # without label files nobody takes a half-made set for a whole
        for path in [*_label_files(out), *strays]:
            path.unlink(missing_ok=True)
        for folder in filter(Path.is_dir, (out, data)):
            sync_folder(folder)
        write_atomically(out / DEMO_NOTE, note.encode())
    leftover = [path for path in data.glob(".*") if is_partial(path)]
    for path in [*strays, *leftover]:
        path.unlink(missing_ok=True)
    make_inner_folder(data)


def _note(options: Options) -> str:
    facts = {
        "about": NOTE_ABOUT,
        "version": VERSION,
        "images": options.images,
        "seed": options.seed,
        "image_size": options.image_size,
        "test_share": options.test_share,
        "balanced": options.balanced,
    }
    return json.dumps(facts, indent=2) + "\n"


def _label_files(out: Path) -> list[Path]:
    return [out / f"{split}_{what}.csv" for split in SPLITS for what in COLUMNS]


def _write_labels(out: Path, cohort: dict[str, list[PlannedEye]]) -> None:
    for split, samples in cohort.items():
        names = [sample.name for sample in samples]
        grades = [str(sample.grade) for sample in samples]
        for what, rows in zip(COLUMNS, (names, grades), strict=True):
            text = "".join(f"{row}\n" for row in rows)
            write_atomically(out / f"{split}_{what}.csv", text.encode())


# --- the drawing


def _draw_all(options: Options, samples: Sequence[PlannedEye]) -> None:
    from tqdm import tqdm

    from fastretina.processes import in_processes
    from fastretina.progress import hidden

    data = options.out / "data"
    draw = partial(_draw, data, options.seed, options.image_size)
    workers = options.workers or granted_cores()
    try:
        with (
            tqdm(
                total=len(samples), unit=" images", desc="drawing", disable=hidden()
            ) as bar,
            closing(in_processes(draw, samples, workers)) as drawn,
        ):
            for _ in drawn:
                bar.update()
    finally:
        remove_leftovers(data)  # of workers, which a signal here ends at once


def _draw(data: Path, seed: int, size: int, sample: PlannedEye) -> None:
    import cv2

    from fastretina.demo.camera import encode_photograph
    from fastretina.demo.fundus import draw_eye

    cv2.setNumThreads(1)  # a core per process is at work already
    image, quality = draw_eye(seed, sample.patient, sample.eye, sample.grade, size)
    photograph = encode_photograph(image, quality)
    write_atomically(data / f"{sample.name}.jpeg", photograph)
