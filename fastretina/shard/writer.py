"""Write one shard: its tar, its DALI index, and the marker that says it is finished.

A shard's bytes depend on its samples and the options alone, so any process may write
it, in any order, and again after a kill.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from crc32c import crc32c

from fastretina.data.labels import Sample
from fastretina.data.prepare import Prepared, Preparer, Rejected
from fastretina.processes import in_threads
from fastretina.shard.plan import ShardOptions, ShardTask
from loaders.files import hash_file, naming, put_in_place
from loaders.grades import GRADES
from loaders.jpeg_structure import MOST_PHOTOGRAPH
from loaders.leftovers import partial_name
from loaders.manifest import QuarantinedImage
from loaders.tar import ShardWriter


class IndexRow(NamedTuple):
    """A sample's row in ``SPLIT.parquet``: the fields are ``index_table.COLUMNS``.

    Attributes:
        key: the sample's name in the shards.
        shard: number of the sample's shard in the split.
        offset: byte offset of the JPEG in the tar.
        size: bytes of the JPEG.
        label: the grade, 0 to 4.
        patient: name of the patient whose eye it is.
        eye: ``left``, ``right`` or empty.
        width: width of the image in pixels.
        height: height of the image in pixels.
        sha256: hex digest of the JPEG's bytes.
        patient_known: whether ``patient`` is one, and not the sample's own name.
        crc32c: checksum of the JPEG's bytes, which loaders compare; None in an
            index of an older version.
        components: of the JPEG: 1 for grey, 3 for colours; None as ``crc32c``.
    """

    key: str
    shard: int
    offset: int
    size: int
    label: int
    patient: str
    eye: str
    width: int
    height: int
    sha256: str
    patient_known: bool
    crc32c: int | None
    components: int | None


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """What became of a task.

    Attributes:
        name: the shard's file name.
        samples: number of samples in the tar.
        num_bytes: bytes of the tar.
        sha256: hex digest of the tar.
        index_sha256: hex digest of the DALI index beside it.
        grades: number of samples of each grade, 0 to 4.
        quarantined: the samples that were left out.
        changed: kind of change to the number of images encoded again.
    """

    name: str
    samples: int
    num_bytes: int
    sha256: str
    index_sha256: str
    grades: list[int]
    quarantined: list[QuarantinedImage]
    changed: dict[str, int]


class _Checked(NamedTuple):
    """A source file that was read and decoded, with the hashes of the JPEG to write."""

    image: Prepared | Rejected
    sha256: str = ""
    crc32c: int = 0


@dataclass(frozen=True, slots=True)
class UnnamedShard:
    """A shard whose files are written, and not yet under their names.

    Attributes:
        outcome: what became of the task.
        parts: temporary and final names of index and tar.
        marker: the same of the marker.
    """

    outcome: WrittenShard
    parts: tuple[tuple[Path, Path], ...]
    marker: tuple[Path, Path]

    def put_in_place(self) -> None:
        """Give the files their names, index and tar once their bytes are on the disk.

        A marker that a power cut has torn can't be read, or names other hashes.

        Raises:
            OSError: the disk is full, or fails.
        """
        for part, path in self.parts:
            put_in_place(part, path)
        part, path = self.marker
        with naming(path):
            part.replace(path)


def write_shard(task: ShardTask, threads: int = 1) -> UnnamedShard:
    """Write one shard with its index and its marker; safe to do twice.

    Args:
        task: the shard.
        threads: number of threads that read and check images, which are written in
            order all the same.

    Raises:
        OSError: a source can't be read, or the shard can't be written.
    """
    rows: list[IndexRow] = []
    quarantined: list[QuarantinedImage] = []
    changed: Counter[str] = Counter()
    path = task.folder / task.name
    with (
        naming(path),
        ShardWriter(path) as shard,
        closing(in_threads(_checker(task.options), task.samples, threads)) as checked,
    ):
        for sample, result in zip(task.samples, checked, strict=True):
            image = result.image
            if isinstance(image, Rejected):
                quarantined.append(_quarantined(sample, str(image)))
                continue
            offset = shard.add(sample.key, _members(sample, image.jpeg))
            rows.append(_row(sample, task.number, offset, image, result))
            changed.update([image.change] if image.change else [])
        samples, num_bytes, tar_sha256 = shard.end()
    grades = Counter(row.label for row in rows)
    (index_part, _), _ = shard.parts
    written = WrittenShard(
        name=task.name,
        samples=samples,
        num_bytes=num_bytes,
        sha256=tar_sha256,
        index_sha256=hash_file(index_part),
        grades=[grades[grade] for grade in range(len(GRADES))],
        quarantined=quarantined,
        changed=dict(sorted(changed.items())),
    )
    marker_part = partial_name(task.marker)
    with naming(task.marker), marker_part.open("x") as file:  # never through a link
        file.write(json.dumps({"outcome": asdict(written), "rows": rows}))
    return UnnamedShard(written, shard.parts, (marker_part, task.marker))


def _checker(options: ShardOptions) -> Callable[[Sample], _Checked]:
    """A function that reads, prepares and hashes an image, in any thread."""
    own = threading.local()  # a preparer keeps a scratch image

    def check(sample: Sample) -> _Checked:
        if not hasattr(own, "prepare"):
            own.prepare = Preparer(options.steps, options.size)
        try:
            image: Prepared = own.prepare(read_source(sample.path))
        except Rejected as rejected:
            return _Checked(rejected)
        sha256 = hashlib.sha256(image.jpeg).hexdigest()
        return _Checked(image, sha256, crc32c(image.jpeg))

    return check


def read_source(path: Path) -> bytes:
    """A source file's bytes; an ``OSError`` names it.

    Raises:
        Rejected: they are more than a photograph may have.
    """
    with naming(path), path.open("rb", buffering=0) as file:
        if (size := os.fstat(file.fileno()).st_size) > MOST_PHOTOGRAPH:
            raise Rejected(f"{size:,} bytes, and {MOST_PHOTOGRAPH:,} may be read")
        return file.readall()


def read_written(task: ShardTask) -> WrittenShard | None:
    """A shard finished earlier, by its marker; None if it has to be written (again).

    Tar and index are hashed, as a power cut may leave a marker without its data.
    """
    try:
        marker = json.loads(task.marker.read_text())
        written = _as_written(marker["outcome"])
        if any(len(row) != len(IndexRow._fields) for row in marker["rows"]):
            return None  # of an older version
        tar = task.folder / written.name
        hashes = [hash_file(tar), hash_file(tar.with_suffix(".idx"))]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return written if hashes == [written.sha256, written.index_sha256] else None


def _as_written(marker: Mapping[str, Any]) -> WrittenShard:
    quarantined = [QuarantinedImage(**image) for image in marker["quarantined"]]
    return WrittenShard(**{**marker, "quarantined": quarantined})


def read_index_rows(task: ShardTask) -> list[IndexRow]:
    """A finished shard's rows of the index, in the order in which they were written.

    They stay in the marker until then, so that memory does not grow with the set.
    """
    rows = json.loads(task.marker.read_text())["rows"]
    return [IndexRow(*row) for row in rows]


def _members(sample: Sample, jpeg: bytes) -> dict[str, bytes]:
    """The sample's three files in the tar, by their suffix."""
    about = {
        "source": sample.name,
        "grade": sample.grade,
        "patient": _utf8(sample.patient),
        "eye": sample.eye,
    }
    label = str(sample.grade).encode()
    return {"jpg": jpeg, "cls": label, "json": json.dumps(about).encode()}


def _utf8(name: str) -> str:
    """A name that every reader can take: files' names may hold other bytes."""
    return name.encode(errors="backslashreplace").decode()


def _row(
    sample: Sample, shard: int, offset: int, image: Prepared, checked: _Checked
) -> IndexRow:
    return IndexRow(
        key=sample.key,
        shard=shard,
        offset=offset,
        size=len(image.jpeg),
        label=sample.grade,
        patient=_utf8(sample.patient),
        eye=sample.eye,
        width=image.width,
        height=image.height,
        sha256=checked.sha256,
        patient_known=sample.patient_known,
        crc32c=checked.crc32c,
        components=image.components,
    )


def _quarantined(sample: Sample, reason: str) -> QuarantinedImage:
    return QuarantinedImage(
        key=sample.key,
        source=sample.path.name,
        split=sample.split,
        grade=sample.grade,
        reason=reason,
    )
