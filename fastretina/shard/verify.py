"""Read a whole data set again and compare it with its manifest.

fastretina shard --verify shards/

manifest.json --> SHA-256 of each tar
SPLIT.parquet --> members of the tar: place, size, SHA-256, grade, patient, eye
.idx beside it, byte for byte
each image, decoded in full
"""

from __future__ import annotations

import hashlib
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.compute as pc
from crc32c import crc32c
from tqdm import tqdm

from fastretina.data.prepare import Preparer, Rejected
from fastretina.data.whole_tar import BoundedHeader, UnfitMember, bounded_members
from fastretina.processes import in_processes
from fastretina.progress import hidden
from fastretina.shard.writer import IndexRow
from fastretina.terminal import printable
from loaders.cores import granted_cores
from loaders.errors import ShardError
from loaders.files import hash_file
from loaders.shards import (
    Manifest,
    ShardInfo,
    ShardSplit,
    read_manifest,
    shard_name,
)
from loaders.untrusted import MOST_JSON, parse_json


def verify(folder: Path, workers: int | None = None) -> dict[str, object]:
    """Check every shard, index, label and image of a data set.

    Args:
        folder: the data set.
        workers: number of processes; ``None`` for one per granted core.

    Returns:
        What the JSON line holds.

    Raises:
        ShardError: something differs; every difference is printed on its own line.
    """
    started = time.perf_counter()
    manifest = read_manifest(folder)
    shards = [shard for split in manifest.splits.values() for shard in split]
    samples = sum(shard.samples for shard in shards)
    found = _check_shards(folder, manifest, workers or granted_cores())
    # Once each: an index is read for each of its shards.
    problems = list(dict.fromkeys([*_check_folder(folder, manifest), *found]))
    for problem in problems:
        print(printable(problem))
    if problems:
        more = f" (and {len(problems) - 1:,} more)" if problems[1:] else ""
        raise ShardError(f"{folder} is damaged: {problems[0]}{more}; shard it again")
    seconds = time.perf_counter() - started
    print(f"{samples:,} images in {len(shards)} shards: all as the manifest says")
    return {
        "shards": str(folder),
        "samples": samples,
        "num_shards": len(shards),
        "problems": 0,
        "seconds": round(seconds, 3),
        "images_per_second": round(samples / seconds, 1),
    }


def _check_shards(folder: Path, manifest: Manifest, workers: int) -> list[str]:
    """List the faults of all shards, in their order, one line each."""
    work = [
        (folder, split, number)
        for split, shards in manifest.splits.items()
        for number in range(len(shards))
    ]
    samples = sum(s.samples for shards in manifest.splits.values() for s in shards)
    by_shard: dict[int, list[str]] = {}
    with (
        tqdm(total=samples, unit=" images", desc="verifying", disable=hidden()) as bar,
        closing(in_processes(_check, work, workers)) as checks,
    ):
        for place, by_shard[place] in checks:
            _, split, number = work[place]
            bar.update(manifest.splits[split][number].samples)
    return [problem for place in sorted(by_shard) for problem in by_shard[place]]


def _check(work: tuple[Path, str, int]) -> list[str]:
    """List the faults of one shard, one line each."""
    folder, name, number = work
    try:
        with ShardSplit(folder, name) as split:
            return list(_check_shard(folder, split, number))
    except ShardError as error:
        return [str(error)]
    except UnfitMember as error:
        return [f"{shard_name(name, number)}: {error}"]
    except Exception as error:  # rubbish can break tar, Parquet and JSON in any way
        return [f"{shard_name(name, number)} cannot be read: {error!r}"]


def _check_folder(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Compare the manifest with the indices and the files that are there."""
    listed = {shard.name for split in manifest.splits.values() for shard in split}
    for name in manifest.splits:
        try:
            ShardSplit(folder, name).close()
        except ShardError as error:
            yield str(error)
        except Exception as error:
            yield f"{name}.parquet cannot be read: {error!r}"
        for path in sorted(folder.glob(f"{name}-{6 * '[0-9]'}*.tar")):
            if path.name not in listed:  # a reader of train-*.tar would take it
                yield f"{path.name} is not in the manifest"


def _check_shard(folder: Path, split: ShardSplit, number: int) -> Iterator[str]:
    info = split.shards[number]
    path = folder / info.name
    if not path.exists():
        yield f"{info.name} is missing"
        return
    if not path.is_file():  # a pipe would be waited for, a device has no end
        yield f"{info.name} is no regular file"
        return
    if (size := path.stat().st_size) != info.bytes:
        yield f"{info.name} has {size:,} bytes, the manifest says {info.bytes:,}"
    elif hash_file(path) != info.sha256:
        yield f"{info.name}: its SHA-256 is not the manifest's"
    known = split.table.filter(pc.field("shard") == number).to_pylist()
    rows = [IndexRow(*(row.get(name) for name in IndexRow._fields)) for row in known]
    yield from _check_tar(path, info, rows)


def _check_tar(path: Path, info: ShardInfo, rows: list[IndexRow]) -> Iterator[str]:
    """Compare the tar's members with the index, the DALI index and the decoder."""
    prepare = Preparer()
    lines = [f"v1.2 {len(rows)}"]
    with tarfile.open(path, "r:", tarinfo=BoundedHeader) as tar:
        members = {member.name: member for member in bounded_members(tar)}
        if len(members) != 3 * len(rows):
            yield f"{info.name}: {len(members)} members for {len(rows)} samples"
        for row in rows:
            where = f"{info.name}, sample {row.key}"
            own = [members.get(f"{row.key}.{e}") for e in ("jpg", "cls", "json")]
            present = [member for member in own if member is not None]
            if len(present) < 3:
                yield f"{where}: a member is missing"
                continue
            parts = [
                f"{m.name.rpartition('.')[2]} {m.offset_data} {m.size} {m.name}"
                for m in present
            ]
            lines.append(" ".join(parts))
            content = [_read(tar, member) for member in present]
            if (present[0].offset_data, present[0].size) != (row.offset, row.size):
                yield f"{where}: the index points elsewhere"
            yield from (f"{where}: {fault}" for fault in _check_sample(row, content))
            try:
                ready = prepare(content[0])
            except Rejected as reason:
                yield f"{where}: {reason}"
                continue
            if (ready.width, ready.height) != (row.width, row.height):
                yield f"{where}: {ready.width}x{ready.height} pixels, not as indexed"
            if row.components not in (None, ready.components):
                yield f"{where}: {ready.components} components, not as indexed"
    index = path.with_suffix(".idx")
    expected = ("\n".join(lines) + "\n").encode()
    if (
        not index.exists()
        or index.stat().st_size != len(expected)  # it may be larger than memory
        or index.read_bytes() != expected
    ):
        yield f"{index.name} is missing or does not match its tar"
    elif info.index_sha256 not in (None, hash_file(index)):
        yield f"{index.name}: its SHA-256 is not the manifest's"


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file is not None else b""


def _check_sample(row: IndexRow, content: list[bytes]) -> Iterator[str]:
    jpeg, label, about = content
    if hashlib.sha256(jpeg).hexdigest() != row.sha256:
        yield "the image's SHA-256 is not the index's"
    if row.crc32c not in (None, crc32c(jpeg)):
        yield "the image's CRC-32C is not the index's"
    if label != str(row.label).encode():
        yield f"grade {label!r} in the tar, {row.label} in the index"
    known = {"patient": row.patient, "eye": row.eye, "grade": row.label}
    try:
        found = parse_json(about[:MOST_JSON])
    except ValueError:
        found = None
    listed = found if isinstance(found, dict) else {}
    for name, value in known.items():
        got = listed.get(name)
        if got != value:
            yield f"{name} {got!r} in the tar's JSON, {value!r} in the index"
