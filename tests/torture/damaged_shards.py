"""A finished data set with a damaged file: refused in a line, or read as it was.

    whole data set --copy--> damaged in one file --> every loader, --verify, train
                                                 --> the very images and labels
                                                     or one line that names a file

A damage comes in three ways: as it is; ``older``, without the manifest's checksums, as
older versions wrote it; or ``forged``, with checksums made to fit. Those may change
labels unseen, and end in neither a traceback nor a crash all the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import course_folder
from fork_server import server
from resealed import reseal, without_checksums, write_sealed
from small_runs import PRELOADED, finish, log, start, words

from loaders import LoaderConfig, available, make_loader
from loaders.errors import DataError
from loaders.index_table import COLUMNS
from loaders.shards import SPLITS, open_split
from torture.campaign import Case, Counts, Fault
from torture.child import in_child
from torture.shard_damage import DAMAGES

Images = dict[str, tuple[str, int]]  # key to the pixels' digest and the label
Way = Literal["plain", "older", "forged"]

_SECONDS = 60
_FILE = re.compile(r"(train|test)(-\d{6,}\.(tar|idx)|\.parquet)|manifest\.json")
_TRAIN_EVERY = 12  # cases, as it takes seconds
_LARGE = 1 << 24  # bytes, more than any file of the data set
_ALONE = 20  # further manifests and indices of a case


class DamagedShards:
    """See the module."""

    name, share, least, in_tests = "damaged_shards", 12.0, 700, 8

    def prepare(self, folder: Path) -> None:
        """Write the data set, and read it with plain PIL and by a short run."""
        from fastretina.shard import command as shard

        server.set_forkserver_preload(PRELOADED)
        self.shards = folder / "shards"
        course = course_folder(folder / "course", train=17, test=8)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            argv = [str(course), str(self.shards), "--samples-per-shard=5"]
            assert shard.main([*argv, "--workers=1"]) == 0
        self.images = {split: read(self.shards, "pil", split) for split in SPLITS}
        self.trained: list[dict[str, str]] | None = None
        self._folder = folder

    def run(self, case: Case) -> Counts:
        """Damage a copy, and let every loader and command have it."""
        rng = case.rng()
        kinds = list(DAMAGES)
        kind = kinds[case.number % len(kinds)]
        damaged = case.folder / "shards"
        shutil.copytree(self.shards, damaged)
        DAMAGES[kind](damaged, rng)
        way: Way = "plain"
        if case.number // len(kinds) % 3 == 2:
            way = "older" if rng.random() < 0.5 else "forged"
        if not _disguised(damaged, way):
            way = "plain"
        found: dict[str, str] = {}
        for group in (
            ["pil", "turbo", "webdataset", "--verify"],
            ["dali", "dali-reader"],
        ):
            names = [
                name for name in group if name == "--verify" or name in available()
            ]
            try:
                found |= in_child(
                    outcomes, damaged, names, self.images, seconds=_SECONDS
                )
            except Fault as fault:
                raise Fault(f"{kind} ({way}), one of {names}: {fault}") from None
        if case.number % _TRAIN_EVERY == 0:
            found["train"] = self._train(damaged, case.folder)
        self._judge(kind, way, found, damaged)
        more = self._opened_alone(case)
        refused = sum(text.startswith("error: ") for text in found.values())
        return {
            kind.partition(":")[0]: 1,
            way: 1,
            "read": len(found),
            "refused": refused,
            "unchanged": sum(text == "same" for text in found.values()),
            "opened alone": more,
        }

    def close(self) -> None:
        """Nothing is held."""

    def _opened_alone(self, case: Case) -> int:
        """Damage manifests and indices by the dozen, and open them alone."""
        folder = case.folder / "alone"
        shutil.copytree(self.shards, folder)
        seed = [case.seed, case.number]
        if fault := in_child(open_damaged, self.shards, folder, seed, seconds=_SECONDS):
            raise Fault(fault)
        return _ALONE

    def _train(self, damaged: Path, folder: Path) -> str:
        if self.trained is None:
            run = self._folder / "run"
            process = start(words(self.shards, run, "--loader=turbo"), run / "said")
            whole = finish(process, run / "said")
            assert whole.code == 0, whole.err
            self.trained = log(run)
        run = folder / "run"
        process = start(words(damaged, run, "--loader=turbo"), folder / "said")
        process.join(_SECONDS)
        if process.exitcode is None:
            process.kill()
            return "fault: hangs"
        outcome = finish(process, folder / "said")
        if outcome.code == 0:
            return "same" if log(run) == self.trained else "other"
        errors = [line for line in outcome.err if line.startswith("error: ")]
        if outcome.code == 1 and len(errors) == 1 and errors[0] == outcome.err[-1]:
            return errors[0]
        return f"fault: exit code {outcome.code}, {' / '.join(outcome.err[-3:])}"

    def _judge(self, kind: str, way: Way, found: dict[str, str], damaged: Path) -> None:
        """Raise a ``Fault`` for what may not be."""
        for name, text in found.items():
            about = f"{kind} ({way}), {name}"
            if text.startswith("fault: "):
                raise Fault(f"{about}: {text}")
            if text == "other" and way == "plain":
                raise Fault(f"{about}: other images or labels, in silence")
            if text.startswith("error: ") and not _names_a_file(text, damaged):
                raise Fault(f"{about}: no file is named: {text}")
        if found["--verify"] == "same" and self._differs(damaged, way):
            raise Fault(f"{kind} ({way}): --verify finds nothing")

    def _differs(self, damaged: Path, way: Way) -> bool:
        """Whether --verify has to find something."""
        for path in sorted(self.shards.iterdir()):
            other = damaged / path.name
            if not other.is_file() or other.stat().st_size > _LARGE:
                return True
            if path.suffix == ".parquet" and way != "plain":
                checked = [name for name in COLUMNS if name != "patient_known"]
                try:
                    if pq.read_table(path, columns=checked).equals(
                        pq.read_table(other, columns=checked)
                    ):
                        continue
                except Exception:
                    return True
            elif path.suffix == ".json":
                if _said(path, way) == _said(other, way):
                    continue
            elif path.read_bytes() == other.read_bytes():
                continue
            return True
        return False


def _disguised(folder: Path, way: Way) -> bool:
    """Make the manifest fit the damage; False where it can't be read to do so."""
    try:
        if (folder / "manifest.json").stat().st_size > _LARGE:
            return False
        if way == "older":
            without_checksums(folder)
        elif way == "forged":
            manifest = json.loads((folder / "manifest.json").read_bytes())
            write_sealed(folder, manifest)
            reseal(folder)
    except Exception:
        return False
    return True


def _said(path: Path, way: Way) -> object:
    """What a manifest says; unless plain, what of it can be held to the files."""
    said = json.loads(path.read_bytes())
    if way == "plain":
        return said
    splits = said["splits"]
    return {
        name: (
            {grade: count for grade, count in split["grades"].items() if count},
            [
                (s["name"], s["samples"], s["bytes"], s["sha256"])
                for s in split["shards"]
            ],
        )
        for name, split in splits.items()
    }


def _names_a_file(text: str, folder: Path) -> bool:
    if _FORGED_SIZES in text:
        return True
    whole = ("not shards: ", "no data set in", "has no split")
    named = _FILE.search(text) or any(about in text for about in whole)
    return "\n" not in text and str(folder) in text and bool(named)


# What loaders say of an index whose widths and heights were forged.
_FORGED_SIZES = "so they do not fit in one batch"


# ------------------------------------------------------------- in a process of its own


def read(folder: Path, loader: str, split: str) -> Images:
    """All of a split by a loader: key to the image and its label."""
    workers = 0 if loader == "pil" else 2
    config = LoaderConfig(batch_size=4, workers=workers)
    images: Images = {}
    with (
        open_split(folder, split) as opened,
        make_loader(loader, folder, split, config) as made,
    ):
        for batch in made.epoch(0):
            for image, label, row in zip(*batch, strict=True):
                digest = hashlib.sha256(image.numpy().tobytes()).hexdigest()
                images[opened.key(int(row))] = (digest, int(label))
    return images


def outcomes(
    folder: Path, names: list[str], wanted: dict[str, Images]
) -> dict[str, str]:
    """What comes of a data set under each loader: same, other, error or fault."""
    found = {}
    for name in names:
        if name == "--verify":
            found[name] = verified(folder)
            continue
        try:
            same = all(read(folder, name, split) == wanted[split] for split in SPLITS)
            found[name] = "same" if same else "other"
        except DataError as error:
            found[name] = f"error: {error}"
        except BaseException:
            found[name] = f"fault: {traceback.format_exc()}"
    return found


def open_damaged(shards: Path, folder: Path, seed: list[int]) -> str:
    """Open many damaged manifests and indices; returns what may not be, if anything."""
    rng = np.random.default_rng(seed)
    kinds = [
        kind
        for kind in DAMAGES
        if kind.startswith(("manifest", "index")) and not kind.endswith("gone")
    ]
    whole = [_table(shards, split) for split in SPLITS]
    for _ in range(_ALONE):
        kind = kinds[int(rng.integers(len(kinds)))]
        DAMAGES[kind](folder, rng)
        way: Way = "plain" if rng.random() < 0.5 else "older"
        if not _disguised(folder, way):
            way = "plain"
        try:
            same = [_table(folder, split) for split in SPLITS] == whole
            if way == "plain" and not same:
                return f"{kind}, opened: another index, in silence"
        except DataError as error:
            if not _names_a_file(str(error), folder):
                return f"{kind} ({way}), opened: no file is named: {error}"
        except BaseException:
            return f"{kind} ({way}), opened: {traceback.format_exc()}"
        for path in (*shards.glob("*.parquet"), shards / "manifest.json"):
            shutil.copy(path, folder)
    return ""


def _table(folder: Path, split: str) -> pa.Table:
    with open_split(folder, split) as opened:
        return opened.table


def verified(folder: Path) -> str:
    """What ``fastretina shard --verify`` says."""
    from fastretina.shard import command as shard

    err = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(err):
            code = shard.main(["--verify", str(folder), "--workers", "1"])
    except BaseException:
        return f"fault: {traceback.format_exc()}"
    lines = err.getvalue().splitlines()
    if code == 0:
        return "same"
    if code != 1 or len(lines) != 1:
        return f"fault: exit code {code}, {' / '.join(lines[-3:])}"
    return lines[0]
