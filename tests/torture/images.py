"""Damaged and odd JPEGs: sharded as a user would, read by every loader and command.

What sharding accepts, every loader delivers with Pillow's pixels; all else is in the
quarantine with a reason. What an older version has accepted, which knew less, comes
with Pillow's pixels or as an error that names its key; and whatever becomes of the bad
ones, the good ones beside them come.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import threading
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg
from conftest import REAL_DATA
from fork_server import server
from PIL import Image
from small_runs import PRELOADED
from tqdm import tqdm

from fastretina.audit.fingerprints import take_fingerprints
from fastretina.data.prepare import Prepared, Rejected
from fastretina.doctor.sample import open_examined, sample_jpegs
from fastretina.doctor.storage import changes, survey
from fastretina.parity.reference import ParityError, PilReference
from fastretina.predict.reading import Preparation, read_photograph
from fastretina.shard import command as shard
from loaders import LoaderConfig, ShardSplit, available, make_loader, open_split
from loaders.arrays import UInt8
from loaders.errors import SampleError
from torture.campaign import Case, Counts, Fault, Skip
from torture.child import in_child
from torture.jpeg_mutants import SIDE, encoded, mutant, picture

FILES = 100  # to a case, beside good ones
GOOD = 6
CORPORA = REAL_DATA / "corpora"
_TARS = 25  # to a case
_SECONDS = 120  # of a child, which reads all files by all loaders; 30 for one of them
_AGAIN = (48, 4.0)  # largest and mean difference of what is encoded again


class Images:
    """Each fourth case takes files of the public corpora, each twentieth its tars."""

    name, share, least, in_tests = "images", 25.0, 100, 1

    def prepare(self, folder: Path) -> None:
        more = [
            "torture.images",
            "loaders._dali",
            "loaders._pil",
            "loaders._webdataset",
        ]
        server.set_forkserver_preload([*PRELOADED, *more])
        self._corpora = folder / "corpora"

    def close(self) -> None:
        pass

    def run(self, case: Case) -> Counts:
        rng = case.rng()
        good = {f"{n + 10}_left": encoded(picture(n)) for n in range(GOOD)}
        if case.number % 20 == 19:
            return self._tars(case, rng)
        if case.number % 4 == 3:
            files = self._slice(rng)
        else:
            files = [mutant(rng) for _ in range(FILES)]
        named = {f"{n + 1000}_right": each for n, each in enumerate(files)} | good
        data = write_course(case.folder / "data", named)
        counts: Counter[str] = Counter({"files": len(files)})
        counts += self._child(case, check_sharded, data, named, list(good))
        counts += self._child(case, check_older, data, named, list(good))
        counts += self._child(case, check_commands, data, named)
        return counts

    def _child(self, case: Case, function: object, *args: object) -> Counter[str]:
        step = case.folder / "step"
        try:
            counts: Counter[str] = in_child(  # type: ignore[arg-type]
                quiet, function, case.folder, *args, seconds=_SECONDS
            )
        except Fault as fault:
            raise Fault(
                f"{step.read_text() if step.exists() else ''}: {fault}"
            ) from None
        return counts

    def _slice(self, rng: np.random.Generator) -> list[bytes]:
        paths = [path for path in self._unpacked() if "tar" not in path.parts]
        chosen = rng.choice(len(paths), FILES, replace=False).tolist()
        return [paths[number].read_bytes() for number in chosen]

    def _tars(self, case: Case, rng: np.random.Generator) -> Counts:
        paths = [path for path in self._unpacked() if "tar" in path.parts]
        chosen = rng.choice(len(paths), _TARS, replace=False).tolist()
        return self._child(case, check_tars, [paths[number] for number in chosen])

    def _unpacked(self) -> list[Path]:
        if not CORPORA.is_dir():
            raise Skip(f"no public corpora at {CORPORA}")
        if not self._corpora.is_dir():
            for archive in sorted(CORPORA.glob("*.tar.xz")):
                with tarfile.open(archive) as tar:
                    tar.extractall(self._corpora, filter="data")
        return sorted(path for path in self._corpora.rglob("*") if path.is_file())


def write_course(root: Path, named: dict[str, bytes]) -> Path:
    """A folder in the course's layout: all in train, with grades by their places."""
    (root / "data").mkdir(parents=True)
    for name, content in named.items():
        (root / "data" / f"{name}.jpeg").write_bytes(content)
    (root / "data" / "1_left.jpeg").write_bytes(encoded(picture(99)))
    lists = {"train": list(named), "test": ["1_left"]}
    for split, names in lists.items():
        (root / f"{split}_img.csv").write_text("\n".join(names) + "\n")
        grades = "\n".join(str(grade_of(name)) for name in names)
        (root / f"{split}_label.csv").write_text(f"{grades}\n")
    return root


def grade_of(name: str) -> int:
    return int(name.partition("_")[0]) % 5


def quiet(function: object, folder: Path, *args: object) -> Counter[str]:
    """Call a check in this process, whose decoders may write what they like."""
    log = os.open(folder / "stderr", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 2)
    os.dup2(log, 1)
    warnings.simplefilter("ignore")
    tqdm.set_lock(threading.RLock())  # its own would outlive this process
    counts: Counter[str] = function(folder, *args)  # type: ignore[operator]
    return counts


def note(folder: Path, text: str) -> None:
    """Say what is being done, for whom finds this process dead."""
    (folder / "step").write_text(text)


def is_plain_text(reason: str) -> bool:
    """Whether a reason is one line that says something, and holds no address."""
    return bool(reason) and "\n" not in reason and not re.search(r"\b0x", reason)


# --------------------------------------------------------------- sharded as a user does


def check_sharded(
    folder: Path, data: Path, named: dict[str, bytes], good: Sequence[str]
) -> Counter[str]:
    note(folder, "sharding")
    code = shard.main([str(data), str(folder / "shards"), "--workers", "2"])
    if code:
        raise Fault(f"sharding ends with {code}")
    with open_split(folder / "shards", "train") as split:
        counts = _check_accepted(folder, split, data, named, good)
        _check_delivered(folder, split, _expected(split))
    return counts


def _check_accepted(
    folder: Path,
    split: ShardSplit,
    data: Path,
    named: dict[str, bytes],
    good: Sequence[str],
) -> Counter[str]:
    """Whether each file is accepted as it should be, or quarantined with a reason."""
    note(folder, "plain PIL")
    manifest = split.manifest
    aside = {bad.key: bad.reason for bad in manifest.quarantine}
    if sorted([*split.keys, *aside]) != sorted(named):
        raise Fault("accepted and quarantined images are not those that were given")
    for key, reason in aside.items():
        if not is_plain_text(reason) or key in good:
            raise Fault(f"{key} is quarantined: {reason!r}")
    kept = 0
    for row, key in enumerate(split.keys):
        if split.labels[row] != grade_of(key):
            raise Fault(f"{key} has grade {split.labels[row]}")
        jpeg = bytes(split.read(row))
        wanted = PilReference()(data / "data" / f"{key}.jpeg")
        found = with_pillow(jpeg)
        kept += jpeg == named[key]
        bounds = (0, 0.0) if jpeg == named[key] else _AGAIN
        if found is None or not near(found, wanted.pixels, bounds):
            raise Fault(f"{key} is accepted with other pixels than Pillow's")
        if jpeg != named[key] and key in good:
            raise Fault(f"{key} has lost its own bytes")
    changed = manifest.changed
    if kept + sum(changed.values()) != len(split.keys):
        raise Fault(f"{changed} images are changed, and {kept} of {len(split)} are not")
    return Counter(
        {
            "accepted": len(split.keys),
            "normalised": changed.get("normalised", 0),
            "turned_upright": changed.get("upright", 0),
            "quarantined": len(aside),
        }
    )


def _expected(split: ShardSplit) -> dict[int, UInt8 | None]:
    return {row: with_pillow(bytes(split.read(row))) for row in split.rows.tolist()}


def _check_delivered(
    folder: Path, split: ShardSplit, expected: dict[int, UInt8 | None]
) -> None:
    """Whether every loader gives Pillow's pixels of all that sharding has accepted."""
    sizes = [image.shape[:2] for image in expected.values() if image is not None]
    rows = np.array(list(expected), np.int64)
    for size in sorted(set(sizes)):
        chosen = rows[[each == size for each in sizes]]
        for name in available():
            note(folder, f"{name}, accepted")
            config = LoaderConfig(batch_size=16, workers=0 if name == "pil" else 2)
            seen: set[int] = set()
            with make_loader(name, split.select(chosen), "train", config) as loader:
                for batch in loader.epoch(0):
                    for row, label, image in zip(
                        batch.index.tolist(),
                        batch.labels.tolist(),
                        batch.images.numpy(),
                        strict=True,
                    ):
                        seen.add(row)
                        key = split.keys[row]
                        if label != grade_of(key):
                            raise Fault(f"{name}: {key} comes with grade {label}")
                        if not near(image, expected[row], (0, 0.0)):
                            raise Fault(f"{name}: {key} has other pixels than Pillow's")
            if seen != set(chosen.tolist()):
                raise Fault(f"{name}: {len(seen)} of {len(chosen)} images come")


# ----------------------------------------------- as an older version had accepted them


class Trusting:
    """Prepares nothing: every file goes into a shard, whatever it is."""

    def __init__(self, *_: object) -> None: ...

    def __call__(self, content: bytes) -> Prepared:
        if not content:
            raise Rejected("the file is empty")
        return Prepared(content, SIDE, SIDE, "", _components(content))


def _components(content: bytes) -> int:
    try:
        colours = simplejpeg.decode_jpeg_header(content)[2]
    except ValueError:
        return 3
    return {"Gray": 1, "CMYK": 4, "YCCK": 4}.get(colours, 3)


def check_older(
    folder: Path, data: Path, named: dict[str, bytes], good: Sequence[str]
) -> Counter[str]:
    from fastretina.shard import writer

    note(folder, "sharding as an older version")
    writer.Preparer = Trusting  # type: ignore[misc, assignment]
    code = shard.main([str(data), str(folder / "older"), "--workers", "1"])
    if code:
        raise Fault(f"sharding ends with {code}")
    counts: Counter[str] = Counter()
    with open_split(folder / "older", "train") as split:
        expected = _expected(split)
        taken: dict[int, UInt8] = {}  # where Pillow can't be asked: the first loader's
        for name in available():
            note(folder, f"{name}, of an older version")
            counts += _read_older(name, split, expected, taken, good)
    return counts


def _read_older(
    name: str,
    split: ShardSplit,
    expected: dict[int, UInt8 | None],
    taken: dict[int, UInt8],
    good: Sequence[str],
) -> Counter[str]:
    config = LoaderConfig(
        batch_size=8,
        workers=0 if name == "pil" else 2,
        on_corrupt="skip",
        verify_reads=False,
    )
    delivered: set[str] = set()
    with make_loader(name, split.select(split.rows), "train", config) as loader:
        for batch in loader.epoch(0):
            for row, label, image in zip(
                batch.index.tolist(),
                batch.labels.tolist(),
                batch.images.numpy(),
                strict=True,
            ):
                key = split.keys[row]
                delivered.add(key)
                wanted = expected[row]
                if label != grade_of(key):
                    raise Fault(f"{name}: {key} comes with grade {label}")
                if wanted is None:
                    wanted = taken.setdefault(row, image.copy())
                if not near(image, *_in_shape(wanted)):
                    raise Fault(f"{name}: {key}, of an older version, has other pixels")
        skipped = {error.key for error in loader.skipped}
    if delivered & skipped or delivered | skipped != set(split.keys):
        raise Fault(f"{name}: {len(delivered)} images come, {len(skipped)} are skipped")
    if lost := set(good) - delivered:
        raise Fault(f"{name}: good ones are skipped: {sorted(lost)}")
    if skipped:
        row = min(split.keys.index(key) for key in skipped)
        _check_raises(name, split, row, expected[row])
    return Counter({"of_older_versions": len(delivered), "left_out": len(skipped)})


def _check_raises(name: str, split: ShardSplit, row: int, wanted: UInt8 | None) -> None:
    """Whether an image that is skipped is else an error that names it.

    By itself DALI may deliver it, who is not strict, as Pillow isn't.
    """
    config = LoaderConfig(workers=0 if name == "pil" else 2, verify_reads=False)
    chosen = split.select(np.array([row]))
    with make_loader(name, chosen, "train", config) as loader:
        try:
            (image,) = next(loader.epoch(0)).images.numpy()
        except SampleError as error:
            if error.key == split.keys[row] and split.keys[row] in str(error):
                return
        else:
            if wanted is None or near(image, *_in_shape(wanted)):
                return
    raise Fault(f"{name}: {split.keys[row]} is skipped, but no error")


def _in_shape(image: UInt8) -> tuple[UInt8, tuple[int, float]]:
    """An image in the shape that its index says, and how near others come to that."""
    if image.shape == (SIDE, SIDE, 3):
        return image, (0, 0.0)
    resized = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(resized), (2, 1.0)  # torch's weights are shorter


# ------------------------------------------------------------------- commands that look


def check_commands(folder: Path, data: Path, named: dict[str, bytes]) -> Counter[str]:
    """What ``predict``, ``audit``, ``parity`` and ``doctor`` make of each file."""
    how = Preparation((), None, (SIDE, SIDE), True)
    reads: Counter[str] = Counter()
    for name, content in named.items():
        path = data / "data" / f"{name}.jpeg"
        note(folder, f"predict, {name}")
        photograph = read_photograph(path, how)
        if photograph.error and not is_plain_text(photograph.error):
            raise Fault(f"predict: {name}: {photograph.error}")
        reads["predicted"] += not photograph.error
        note(folder, f"audit, {name}")
        prints = take_fingerprints(lambda _: content, [0], 1)  # noqa: B023
        reads["audited"] += len(prints.by_place)
        for reason in prints.unreadable.values():
            if not photograph.error or not is_plain_text(reason):
                raise Fault(f"audit: {name}: {reason!r}")
        note(folder, f"parity, {name}")
        try:
            PilReference()(path)
        except ParityError:
            if not photograph.error:
                raise Fault(f"parity can't read {name}, predict can") from None
    note(folder, "doctor")
    shards = open_examined(folder / "older", SIDE)
    try:
        sampled = sample_jpegs(shards, 1)
    except SampleError:
        sampled = sample_jpegs(open_examined(folder / "shards", SIDE), 1)
    survey(sampled, (SIDE, SIDE))
    list(changes(sampled, (SIDE, SIDE), 1, 0.01))
    return reads


def check_tars(folder: Path, tars: Sequence[Path]) -> Counter[str]:
    """Each tar, as somebody's shards: sharded, or refused in a line."""
    counts: Counter[str] = Counter({"tars": len(tars)})
    for number, path in enumerate(tars):
        note(folder, f"sharding {path.name}")
        data = folder / f"tars-{number}"
        data.mkdir()
        (data / "a.tar").write_bytes(path.read_bytes())
        before = (folder / "stderr").stat().st_size
        argv = [str(data), str(folder / f"made-{number}"), "--layout", "tars"]
        code = shard.main([*argv, "--workers", "1"])
        with (folder / "stderr").open(errors="replace") as log:
            log.seek(before)
            lines = log.read().splitlines()
        if code not in (0, 1) or any("Traceback" in line for line in lines):
            raise Fault(f"{path.name}: sharding ends with {code}: {lines[-1:]}")
        if code and sum(line.startswith("error: ") for line in lines) != 1:
            raise Fault(f"{path.name}: no single line says why: {lines}")
        counts["tars_refused"] += code
    return counts


# ------------------------------------------------------------------------------- pixels


def with_pillow(jpeg: bytes) -> UInt8 | None:
    """uint8[H, W, 3] as Pillow decodes it; None where it can't."""
    try:
        with Image.open(io.BytesIO(jpeg)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception:
        return None


def near(found: UInt8, wanted: UInt8 | None, bounds: tuple[int, float]) -> bool:
    """Whether two images differ by no more than that, at most and on average."""
    if wanted is None or found.shape != wanted.shape:
        return False
    if np.array_equal(found, wanted):
        return True
    apart = np.abs(found.astype(np.int16) - wanted)
    return bool(apart.max() <= bounds[0] and apart.mean() <= bounds[1])
