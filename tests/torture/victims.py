"""Commands that are killed: how each begins, goes on, and what must be the same."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conftest import contents, course_folder
from small_runs import log, metrics
from small_runs import words as run_words

Words = list[object]
Outcome = dict[str, object]

_STEP = "fastretina.train.loop:TrainingLoop._step"
_EVALUATE = "fastretina.train.loop:predict_split"
_REPORT = "fastretina.train.finish:predict_with_checkpoint"
_SAVE = "fastretina.nn.checkpoint:save"
_LOG = "fastretina.run:Run.write_log"
_RENAME = "pathlib:Path.replace"
_EVENTS = (
    *((_STEP, number, "after") for number in (1, 3, 5, 6, 9, 12, 14)),
    *((_EVALUATE, number, "before") for number in (1, 2, 3)),
    *((_SAVE, number, when) for number in (1, 2, 6) for when in ("before", "after")),
    (_REPORT, 1, "before"),
    (_LOG, 2, "after"),
    *((_RENAME, number, "before") for number in (1, 2, 3, 5, 8)),
)


@dataclass(frozen=True, slots=True)
class Data:
    """What the commands work on, made once.

    Attributes:
        photographs: 37 + 11 photographs, in the course's layout.
        shards: the same as shards of ten.
        many: 240 photographs, by grade.
        tars: the tars of ``shards``, without an index.
        run: a finished run of the small network.
    """

    photographs: Path
    shards: Path
    many: Path
    tars: Path
    run: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Victim:
    """A command to be killed.

    Attributes:
        name: of the command.
        words: its flags, for a folder to work in.
        on: the flags to go on with, where they are others.
        outcome: of that folder, what must be as after an undisturbed run.
        signs: patterns of files at whose coming it is killed, at times.
        events: calls at which it kills itself, at times.
        ready: puts what it works on into the folder.
        real: by ``python -m``, with the real network.
        twice: two of them at once, in one folder.
    """

    name: str
    words: Callable[[Path], Words]
    outcome: Callable[[Path], Outcome]
    on: Callable[[Path], Words] | None = None
    signs: Sequence[str] = ()
    events: Sequence[tuple[str, int, str]] = ()
    ready: Callable[[Path], object] | None = None
    real: bool = False
    twice: bool = False

    def go_on(self, folder: Path) -> Words:
        """The flags to go on with."""
        return (self.on or self.words)(folder)


def photographs_by_grade(course: Path, folder: Path) -> Path:
    """240 photographs in a folder for each split and grade, made of few."""
    sources = sorted((course / "data").iterdir())
    for number in range(240):
        split = "test" if number % 6 == 5 else "train"
        place = folder / split / str(number % 5)
        place.mkdir(parents=True, exist_ok=True)
        name = f"{number // 2 + 10}_{('left', 'right')[number % 2]}.jpeg"
        shutil.copy(sources[number % len(sources)], place / name)
    return folder


def all_bytes(folder: Path, *parts: str) -> Outcome:
    """The content of every file below some folders, hidden ones too."""
    found: Outcome = {}
    for part in parts:
        found |= {f"{part}/{n}": c for n, c in contents(folder / part).items()}
    return found


def of_a_run(run: Path) -> Outcome:
    """A run's weights, log, scores and files, less the times."""
    found: Outcome = {"log": log(run), "metrics": metrics(run)}
    names = [path for path in run.rglob("*") if path.is_file()]
    found["events"] = sum(path.parent.name == "tensorboard" for path in names)
    plain = [path for path in names if path.parent.name != "tensorboard"]
    found["files"] = sorted(str(path.relative_to(run)) for path in plain)
    found["test.parquet"] = (run / "test.parquet").read_bytes()
    weights = (run / "weights.safetensors").read_bytes()
    end = 8 + int.from_bytes(weights[:8], "little")
    # A header's metadata come in any order, as safetensors writes them.
    found |= {"header": json.loads(weights[8:end]), "tensors": weights[end:]}
    return found


def training(data: Data, *flags: object, real: bool = False, **more: bool) -> Victim:
    """A training run: a head epoch and two of the whole network."""
    given = ("--amp", "off", "--lr", 0.01, "--checkpoint-every", 0, "--workers", 1)
    given += ("--test-each-epoch", "--threads", 1, *flags)
    if real:
        given += ("--max-steps", 6, "--image-size", 64)

    def begin(folder: Path) -> Words:
        cache = [f"{folder}/cache" if f == "CACHE" else f for f in given]
        return list(run_words(data.shards, folder / "run", *cache))

    def go_on(folder: Path) -> Words:
        if not (folder / "run" / "config.json").exists():
            return begin(folder)
        return ["--resume", folder / "run", "--checkpoint-every", 0]

    def outcome(folder: Path) -> Outcome:
        half = [str(p) for p in folder.glob("cache/.*") if p.name != ".lock"]
        return {**of_a_run(folder / "run"), "half of a cache": half}

    return Victim(
        name="train",
        words=begin,
        on=go_on,
        outcome=outcome,
        signs=(
            "run/config.json",
            "run/.last.safetensors.*.part",
            "run/.weights.safetensors.*.part",
            "run/log.csv",
            "run/tensorboard/*",
            "run/test.parquet",
            "run/.metrics.json.*.part",
            *(("cache/.*.part", "cache/*/index") if "CACHE" in given else ()),
        ),
        events=() if real else _EVENTS,
        real=real,
        **more,
    )


def sharding(source: Path, workers: int, **more: bool) -> Victim:
    """Shards of a folder."""

    def begin(folder: Path) -> Words:
        flags: Words = ["--samples-per-shard", 8, "--workers", workers]
        return [source, folder / "shards", *flags]

    return Victim(
        name="shard",
        words=begin,
        outcome=lambda folder: all_bytes(folder, "shards"),
        signs=(
            "shards",
            "shards/.progress/plan.json",
            "shards/.unpacked.part/images/*",
            "shards/train-000002.tar",
            "shards/train-000004.idx",
            "shards/.progress/train-000003.tar.json",
            "shards/test-000000.tar",
            "shards/train.parquet",
            "shards/.manifest.json*.part",
            "shards/manifest.json",
        ),
        real=True,
        **more,
    )


def drawing() -> Victim:
    """A demo set."""

    def begin(folder: Path) -> Words:
        flags: Words = ["--images", 16, "--image-size", 96, "--workers", 2]
        return [folder / "demo", *flags]

    return Victim(
        name="demo",
        words=begin,
        outcome=lambda folder: all_bytes(folder, "demo"),
        signs=("demo/demo.json", "demo/data/*", "demo/train_img.csv"),
        real=True,
    )


def on_a_run(data: Data, name: str, *files: str) -> Victim:
    """A command on a finished run, which writes these files."""

    def outcome(folder: Path) -> Outcome:
        here = str(folder).encode()  # which some of them tell
        found: Outcome = {
            name: (folder / "run" / name).read_bytes().replace(here, b"HERE")
            for name in files
        }
        named = sorted(p.name for p in (folder / "run").iterdir())
        return {**found, "names": named}

    return Victim(
        name=name,
        words=lambda folder: [folder / "run"],
        outcome=outcome,
        ready=lambda folder: shutil.copytree(data.run, folder / "run"),
        signs=("run/figures/*", "run/figures/.*.part", "run/.*.part"),
    )


def experimenting(data: Data) -> Victim:
    """Four small runs in processes of their own, and two variants of the data."""

    def begin(folder: Path) -> Words:
        flags: Words = ["--budget", "tiny", "--weights", "none", "--batch-size", 8]
        flags += ["--threads", 1, "--full-epochs", 1, "--head-epochs", 1]
        return ["strong", "--shards", data.shards, "--out", folder / "out", *flags]

    def outcome(folder: Path) -> Outcome:
        out = folder / "out"
        result = json.loads((out / "experiment.json").read_text())
        runs = {p.name: of_a_run(p) for p in out.glob("runs/*") if p.is_dir()}
        return {
            "scores": [cell["scores"] for cell in result["cells"]],
            "comparisons": result["comparisons"],
            "names": sorted(p.name for p in out.iterdir()),
            "runs": runs,
        }

    return Victim(
        name="experiments",
        words=begin,
        outcome=outcome,
        signs=(
            "out/settings.json",
            "out/data/.*/data/*",
            "out/data/*/train-000000.tar",
            "out/runs/*/.last.safetensors.*.part",
            "out/runs/*/metrics.json",
            "out/.experiment.json.*.part",
            "out/*.png",
        ),
    )


def make_data(folder: Path) -> tuple[Path, Path, Path]:
    """Photographs in the course's layout, the same by grade, and shards."""
    from fastretina.shard import command as shard

    course = course_folder(folder / "course")
    words = [course, folder / "shards", "--samples-per-shard", 10, "--workers", 1]
    with contextlib.redirect_stdout(io.StringIO()):
        assert shard.main([*map(str, words), "--quiet"]) == 0
    tars = folder / "tars"
    tars.mkdir()
    for tar in (folder / "shards").glob("*.tar"):
        shutil.copy(tar, tars)
    return course, photographs_by_grade(course, folder / "many"), tars


def victims(data: Data) -> dict[str, Victim]:
    """All, in the order in which cases take them."""
    return {
        "shard": sharding(data.many, 1),
        "train turbo": training(data, "--loader", "turbo"),
        "train cache": training(data, "--loader", "turbo", "--cache", "CACHE"),
        "train pil": training(data, "--loader", "pil"),
        "shard in processes": sharding(data.many, 8),
        "train webdataset": training(data, "--loader", "webdataset"),
        "train dali": training(data, "--loader", "dali"),
        "report": on_a_run(data, "report", "report.html", "model_card.md"),
        "train dali-reader": training(data, "--loader", "dali-reader"),
        "shard tars": sharding(data.tars, 2),
        "two shard": sharding(data.many, 2, twice=True),
        "two train in a cache": training(
            data, "--loader", "turbo", "--cache", "CACHE", twice=True
        ),
        "evaluate": on_a_run(data, "evaluate", "evaluation.json"),
        "demo": drawing(),
        "experiments": experimenting(data),
        "train, the real network": training(data, "--loader", "turbo", real=True),
    }
