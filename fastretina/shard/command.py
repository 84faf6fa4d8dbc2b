"""Turn a folder of graded photographs into verified WebDataset shards.

    fastretina shard data/ shards/

      source file                     10_left.jpeg, and its grade by the label files
           |                          (data.tars unpacks it, where it lies in a tar)
           |   data.prepare           decode every bit; bad ones go to the quarantine
           |   data.prepare           turn upright, as EXIF says
           |   data.preprocess        crop, resize, CLAHE, Graham, where asked for
           |   data.prepare           encode at quality 95, if a pixel has changed
         JPEG  (mostly the file's own bytes)
           |   shard.writer           hash, and append to the shard's tar
    train-000000.tar, .idx            and a marker that the shard is finished
           |   shard.data_set         once all shards are there
      train.parquet                   a row per sample: key, shard, offset, label, ...
           |   shard.data_set         last: without it there is no data set
      manifest.json

The plan (``shard.plan``) is a pure function of the labels and the options: samples are
shuffled once, with a seed, and cut into shards of equal length. Each shard is a pure
function of its samples and is written by one process. So the number of workers changes
nothing, and a run that was killed goes on with the shards that are not finished.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastretina import cli
from fastretina.data.label_flags import (
    LabelsFlag,
    LayoutFlag,
    PatientColumnFlag,
    PatientPatternFlag,
)
from fastretina.data.layout_names import TEST_SHARE
from fastretina.data.patient_names import PatientSource, patient_source
from fastretina.data.preprocess_steps import STEPS
from fastretina.outputs import ask_for_folder
from fastretina.terminal import printable
from fastretina.wall_clock import part
from loaders.shards import MANIFEST

if TYPE_CHECKING:
    from fastretina.shard.data_set import DataSet

PROG = "fastretina shard"
ABOUT = f"""Turn a folder of graded photographs into verified shards: every image is
decoded in full, turned upright, hashed and indexed; what can't be decoded is set aside
with its reason. Killed at any moment, the same command goes on where it was.

Example: {PROG} data/ shards/ --workers 8
"""


_LIMITS = (
    ("workers", 1, 1024),
    ("samples_per_shard", 1, 1_000_000),
    ("seed", 0, 2**63 - 1),
    ("size", 8, 8192),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``fastretina shard``.

    Attributes:
        data: Folder with the photographs and their labels, or with WebDataset tars of
            both (KEY.jpg, KEY.cls), which take their room once more until SHARDS
            is written.
        shards: Folder to write to.
        verify: Instead of writing, read these shards again and check every byte and
            image.
        workers: Threads that read and check images, four to a process, or more where
            there are fewer shards to write than that takes; with --verify, processes.
        samples_per_shard: Images in a tar: 512 are some 26 MB of 512-pixel photographs.
        seed: Seed of the one global shuffle, and of the test split where the labels
            have none.
        layout: How the labels are kept.
        labels: The file with the grades, where more than one could be meant.
        patient_column: Column of the label file that names each photograph's patient.
        patient_pattern: Regular expression that finds the patient in an image's name,
            in brackets: IM([0-9]+) finds 7 in IM7-2. Groups that are named,
            (?P<patient>...) and (?P<eye>...), find the eye, too.
        source: Where the photographs come from, e.g. EyePACS 2015, for model cards and
            report pages. Those of fastretina demo are known to be drawn.
        test_share: Share of the patients to test on, where the labels have no test
            split.
        preprocess: What to do once, here, in this order: crop (the fundus square),
            clahe (contrast of the luminance), graham (Ben Graham's local-mean
            subtraction). The images are encoded again at quality 95.
        size: Resize to this many pixels square; without crop, other shapes are
            distorted.
        allow_missing: Go on without listed images that are missing.
        overwrite: Replace the data set that SHARDS holds, once the new one is whole;
            until then both take their room.
    """

    data: Annotated[
        Positional[Path | None], arg(metavar="DATA", help_behavior_hint="(required)")
    ] = None
    shards: Annotated[
        Positional[Path | None], arg(metavar="SHARDS", help_behavior_hint="(required)")
    ] = None
    verify: Annotated[
        Path | None, arg(metavar="SHARDS", help_behavior_hint="(default: write)")
    ] = None
    workers: Annotated[
        int | None,
        arg(metavar="INT", help_behavior_hint="(default: all cores granted)"),
    ] = None
    samples_per_shard: int = 512
    seed: int = 0
    layout: LayoutFlag = None
    labels: LabelsFlag = None
    patient_column: PatientColumnFlag = None
    patient_pattern: PatientPatternFlag = None
    source: Annotated[
        str | None, arg(metavar="TEXT", help_behavior_hint="(default: not said)")
    ] = None
    test_share: float = TEST_SHARE
    preprocess: Annotated[
        str, arg(metavar="STEP,...", help_behavior_hint="(default: none)")
    ] = ""
    size: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: as they are)")
    ] = None
    allow_missing: FlagCreatePairsOff[bool] = False
    overwrite: FlagCreatePairsOff[bool] = False

    @property
    def steps(self) -> tuple[str, ...]:
        """The preprocessing, in the order in which it is done."""
        asked = self.preprocess.split(",")
        return tuple(step for step in STEPS if step in asked)

    def __post_init__(self) -> None:
        if self.verify is not None:
            if self.data is not None:
                raise ValueError("--verify must stand alone with one folder of shards")
            return
        if self.data is None or self.shards is None:
            raise ValueError("two folders must be given, DATA and SHARDS")
        if self.data.resolve() == self.shards.resolve():
            raise ValueError(
                f"SHARDS must be another folder than DATA, got {self.data}"
            )
        for name, low, high in _LIMITS:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} must be {low:,} to {high:,}, got {value:,}")
        for step in self.preprocess.split(",") if self.preprocess else ():
            if step not in STEPS:
                known = ",".join(STEPS)
                raise ValueError(f"--preprocess must be some of {known}, got {step!r}")
        if not 0 < self.test_share < 1:
            got = self.test_share
            raise ValueError(f"--test-share must lie between 0 and 1, got {got}")
        self.patients  # noqa: B018 (which refuses a bad pattern)

    @property
    def patients(self) -> PatientSource:
        """Where the patients are told."""
        return patient_source(self.patient_column, self.patient_pattern)


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    return cli.run(command, Options, argv, prog=prog, about=ABOUT)


def command(options: Options) -> dict[str, object]:
    """Write the shards, or verify them; returns what the JSON line holds."""
    if options.verify is not None:
        from fastretina.shard.verify import verify

        with part("data"):
            return verify(options.verify, options.workers)
    return write(options)


@part("data")
def write(options: Options) -> dict[str, object]:
    """Write a whole data set, or finish one.

    Raises:
        LabelError: the labels or images don't make a table.
        ShardError: SHARDS holds something else, or not one image is usable.
        OSError: a file can't be read or written.
    """
    assert options.data is not None  # __post_init__ has seen to both
    assert options.shards is not None
    finished = (options.shards / MANIFEST).exists()  # and perhaps on a read-only disk
    if not (finished and not options.overwrite) and not options.shards.is_file():
        ask_for_folder(options.shards, "SHARDS")
    with part("imports"):
        from fastretina.data.labels import LabelOptions
        from fastretina.shard.data_set import write_data_set
        from fastretina.shard.plan import ShardOptions, plan_shards
        from fastretina.shard.source_folder import SourceFolder
        from fastretina.shard.unpacking import UnpackFolder

    started = time.perf_counter()
    how = LabelOptions(
        layout=options.layout,
        labels=options.labels,
        patients=options.patients,
        test_share=options.test_share,
        seed=options.seed,
    )
    with UnpackFolder(options.shards) as unpack:
        source = SourceFolder.read(
            options.data,
            how,
            options.shards,
            allow_missing=options.allow_missing,
            unpack_to=unpack.make,
        )
        for warning in source.warnings():
            print(f"warning: {warning}", file=sys.stderr)
        shard_options = ShardOptions(
            samples_per_shard=options.samples_per_shard,
            seed=options.seed,
            steps=options.steps,
            size=options.size,
        )
        tasks = plan_shards(source.table, options.shards, shard_options)
        try:
            data_set = write_data_set(
                tasks,
                source.describe(options.source),
                workers=options.workers,
                overwrite=options.overwrite,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on where it was") from None
    said = data_set.manifest.origin.source
    if options.source not in (None, said):
        print(
            f"warning: {options.shards} is complete, and its source stays "
            f"{said or 'unsaid'}; --overwrite writes it again",
            file=sys.stderr,
        )
    result = _report(options.shards, data_set, time.perf_counter() - started)
    return {**result, **source.summary()}


def _report(folder: Path, data_set: DataSet, seconds: float) -> dict[str, object]:
    """Print what the data set holds; returns what the JSON line holds."""
    manifest, quarantined = data_set.manifest, data_set.quarantined
    for image in quarantined[:10]:
        line = printable(f"quarantined {image.source}: {image.reason}")
        print(line, file=sys.stderr)
    if quarantined:
        print(
            f"{len(quarantined):,} images are quarantined: they are listed with their "
            f"reasons in {folder / 'manifest.json'}",
            file=sys.stderr,
        )
    for split, grades in manifest.counts.items():
        counts = "  ".join(f"{grade}: {count:,}" for grade, count in grades.items())
        images = sum(shard.samples for shard in manifest.splits[split])
        print(f"{split:<6}{images:>8,} images   {counts}")
    shards = [shard for split in manifest.splits.values() for shard in split]
    num_bytes = sum(shard.bytes for shard in shards)
    state = "written" if data_set.shards_written else "was complete already"
    print(f"{len(shards)} shards, {num_bytes / 1e6:,.1f} MB: {state} in {folder}")
    return {
        "shards": str(folder),
        "splits": dict(manifest.counts),
        "samples": sum(shard.samples for shard in shards),
        "bytes": num_bytes,
        "num_shards": len(shards),
        "shards_written": data_set.shards_written,
        "quarantined": len(quarantined),
        "changed": data_set.changed,
        "seconds": round(seconds, 3),
        "images_per_second": round(data_set.images_written / seconds, 1),
    }
