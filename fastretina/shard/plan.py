"""The plan of a data set's shards, and the writing of one: pure functions both.

A shard's bytes depend on its samples and the options alone, so any process may write
it, in any order, and again after a kill. Engines (a process pool, Ray) only decide
where ``write_shard`` runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastretina.data.labels import Sample, SampleTable
from fastretina.data.prepare import Prepared, Preparer, Rejected
from fastretina.processes import in_threads
from loaders.files import hash_file, naming, write_atomically
from loaders.order import permutation
from loaders.shards import COLUMNS, FORMAT, SPLITS, shard_name
from loaders.tar import ShardWriter

PROGRESS = ".progress"


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """What decides the bytes of a data set, beside its samples."""

    samples_per_shard: int
    seed: int
    steps: tuple[str, ...]
    size: int | None


@dataclass(frozen=True, slots=True)
class Task:
    """One shard to write: everything that a worker process needs to know."""

    folder: Path
    split: str
    number: int
    samples: tuple[Sample, ...]
    packing: Packing

    @property
    def name(self) -> str:
        """The shard's file name."""
        return shard_name(self.split, self.number)

    @property
    def marker(self) -> Path:
        """The file that says that the shard is finished, and what is in it."""
        return self.folder / PROGRESS / f"{self.name}.json"


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """What became of a task.

    Attributes:
        name: of the shard.
        samples: in it.
        num_bytes: of the tar.
        sha256: of the tar.
        index_sha256: of the DALI index beside it.
        grades: samples of each grade.
        quarantined: the samples left out: key, source, split, grade, reason.
        changed: kind of change to the number of images encoded again.
    """

    name: str
    samples: int
    num_bytes: int
    sha256: str
    index_sha256: str
    grades: list[int]
    quarantined: list[dict[str, Any]]
    changed: dict[str, int]


def plan(table: SampleTable, folder: Path, packing: Packing) -> list[Task]:
    """Shuffle each split once, with the seed, and cut it into shards."""
    tasks = []
    for place, split in enumerate(SPLITS):
        samples = [sample for sample in table.samples if sample.split == split]
        shuffled = [samples[i] for i in permutation(len(samples), packing.seed, place)]
        for number, first in enumerate(
            range(0, len(samples), packing.samples_per_shard)
        ):
            chosen = shuffled[first : first + packing.samples_per_shard]
            tasks.append(Task(folder, split, number, tuple(chosen), packing))
    return tasks


def fingerprint(tasks: Sequence[Task]) -> str:
    """Hex digest of what the shards are made of: labels, file sizes and options.

    The images' bytes are not read. File times are left out, so that a copy of the
    folder counts as the same.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, asdict(tasks[0].packing)]).encode())
    for task in tasks:
        known = [
            (sample.key, sample.name, sample.grade, os.stat(sample.path).st_size)
            for sample in task.samples
        ]
        digest.update(json.dumps([task.name, known]).encode())
    return digest.hexdigest()


def write_shard(task: Task, threads: int = 1) -> WrittenShard:
    """Write one shard with its index and its marker; safe to do twice.

    Args:
        task: the shard.
        threads: that read and check images; they are written in order.

    Raises:
        OSError: a source can't be read, or the shard can't be written. Nothing is left
            under the shard's final name.
    """
    rows: list[list[Any]] = []
    quarantined: list[dict[str, Any]] = []
    changed: Counter[str] = Counter()
    path = task.folder / task.name
    with (
        naming(path),
        ShardWriter(path) as shard,
        closing(in_threads(_checker(task.packing), task.samples, threads)) as checked,
    ):
        for sample, (ready, sha256) in zip(task.samples, checked, strict=True):
            if isinstance(ready, Rejected):
                quarantined.append(_quarantine(sample, str(ready)))
                continue
            offset = shard.add(sample.key, _members(sample, ready.jpeg))
            rows.append(_row(sample, task.number, offset, ready, sha256))
            changed.update([ready.change] if ready.change else [])
        written = shard.finish()
    counts = dict(sorted(changed.items()))
    index = hash_file(path.with_suffix(".idx"))
    label = list(COLUMNS).index("label")
    grades = [sum(row[label] == grade for row in rows) for grade in range(5)]
    outcome = WrittenShard(task.name, *written, index, grades, quarantined, counts)
    with naming(task.marker):
        marker = {"outcome": asdict(outcome), "rows": rows}
        write_atomically(task.marker, json.dumps(marker), durable=False)
    return outcome


def _checker(packing: Packing) -> Callable[[Sample], tuple[Prepared | Rejected, str]]:
    """What reads, prepares and hashes an image, in any thread."""
    own = threading.local()  # a preparer keeps a scratch image

    def check(sample: Sample) -> tuple[Prepared | Rejected, str]:
        if not hasattr(own, "prepare"):
            own.prepare = Preparer(packing.steps, packing.size)
        content = read_source(sample.path)
        try:
            ready: Prepared = own.prepare(content)
        except Rejected as rejected:
            return rejected, ""
        return ready, hashlib.sha256(ready.jpeg).hexdigest()

    return check


def read_source(path: Path) -> bytes:
    """A source file's bytes; an ``OSError`` names it."""
    with naming(path), path.open("rb", buffering=0) as file:
        return file.readall()


def read_outcome(task: Task) -> WrittenShard | None:
    """The outcome of a shard finished earlier; None if it has to be written (again).

    Tar and index are hashed, as a power cut may leave a marker without its data.
    """
    try:
        outcome = WrittenShard(**json.loads(task.marker.read_text())["outcome"])
        tar = task.folder / outcome.name
        found = [hash_file(tar), hash_file(tar.with_suffix(".idx"))]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return outcome if found == [outcome.sha256, outcome.index_sha256] else None


def read_rows(task: Task) -> list[list[Any]]:
    """A finished shard's rows of the index, in the order of ``loaders.shards.COLUMNS``.

    They stay in the marker until then, so that memory does not grow with the set.
    """
    rows: list[list[Any]] = json.loads(task.marker.read_text())["rows"]
    return rows


def _members(sample: Sample, jpeg: bytes) -> dict[str, bytes]:
    about = {
        "source": sample.name,
        "grade": sample.grade,
        "patient": _text(sample.patient),
        "eye": sample.eye,
    }
    label = str(sample.grade).encode()
    return {"jpg": jpeg, "cls": label, "json": json.dumps(about).encode()}


def _text(name: str) -> str:
    """The same for any reader: a file name may hold bytes that are not UTF-8."""
    return name.encode(errors="backslashreplace").decode()


def _row(
    sample: Sample, shard: int, offset: int, ready: Prepared, sha256: str
) -> list[Any]:
    return [
        sample.key,
        shard,
        offset,
        len(ready.jpeg),
        sample.grade,
        _text(sample.patient),
        sample.eye,
        ready.width,
        ready.height,
        sha256,
    ]


def _quarantine(sample: Sample, reason: str) -> dict[str, Any]:
    return {
        "key": sample.key,
        "source": sample.path.name,
        "split": sample.split,
        "grade": sample.grade,
        "reason": reason,
    }
