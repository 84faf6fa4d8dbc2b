"""Build a data set from its plan: what is there already, the workers, the manifest.

SHARDS/.progress/plan.json          which data set is being written here
SHARDS/.progress/train-000000.tar.json   a marker for each finished shard
SHARDS/manifest.json                last; then .progress goes
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from fastretina import __version__
from fastretina.processes import in_processes
from fastretina.shard.plan import (
    PROGRESS,
    Task,
    WrittenShard,
    fingerprint,
    read_outcome,
    read_rows,
    write_shard,
)
from loaders.cores import granted_cores
from loaders.errors import ShardError
from loaders.files import make_durable, naming, write_atomically
from loaders.shards import COLUMNS, FORMAT, MANIFEST, SPLITS, read_manifest

_REMEDY = "pass --overwrite to replace it, or name another folder"

# Decoding and hashing release the GIL, so a process can feed some cores; starting it
# takes 0.3 s.
_THREADS = 4

# Files that we write, and may remove; whatever else lies in SHARDS is the user's.
_NAMES = rf"(?:{'|'.join(SPLITS)})(?:-\d{{6,}}\.(?:tar|idx)|\.parquet)"
_OURS = re.compile(_NAMES)
_PARTIAL = re.compile(rf"\.(?:{_NAMES}|{re.escape(MANIFEST)})(?:\.\d+)?\.part")


@dataclass(frozen=True, slots=True)
class Built:
    """A finished data set, and how much of it this call has written."""

    manifest: dict[str, Any]
    written: int
    images_written: int


def build(
    tasks: Sequence[Task], *, layout: str, workers: int | None, overwrite: bool
) -> Built:
    """Write all shards that are not there yet, the index of each split, the manifest.

    Args:
        tasks: the plan; all for the same folder.
        layout: of the labels, for the manifest.
        workers: threads, up to four in a process; ``None`` for one per granted core.
        overwrite: replace a different data set.

    Raises:
        ShardError: the folder holds another data set, or another process writes here.
        OSError: a file can't be read or written; finished shards stay.
    """
    folder = tasks[0].folder
    progress = folder / PROGRESS
    identity = fingerprint(tasks)
    if not overwrite and not progress.exists():
        manifest = _finished(folder, identity)  # which may be on a read-only disk
        if manifest is not None:
            return Built(manifest, 0, 0)
    progress.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(progress / "lock", timeout=0):
            return _build(tasks, identity, layout, workers, overwrite)
    except Timeout:
        raise ShardError(
            f"another process is writing to {folder}; wait for it to end"
        ) from None


def _build(
    tasks: Sequence[Task],
    identity: str,
    layout: str,
    workers: int | None,
    overwrite: bool,
) -> Built:
    """The same, in a folder where no other process is at work."""
    folder = tasks[0].folder
    plan = folder / PROGRESS / "plan.json"
    try:
        _remove_partial(folder)  # of a run that was killed
        if not overwrite and (manifest := _finished(folder, identity)) is not None:
            plan.unlink(missing_ok=True)
            return Built(manifest, 0, 0)
        _claim(folder, plan, identity, overwrite)
        outcomes, written = _write_shards(tasks, workers or granted_cores())
        manifest = _write_index(tasks, outcomes, layout, identity)
        plan.unlink()
        return Built(
            manifest, len(written), sum(len(tasks[n].samples) for n in written)
        )
    finally:
        _remove_partial(folder)
        if not plan.exists():  # nothing is begun here
            shutil.rmtree(folder / PROGRESS)


def _finished(folder: Path, identity: str) -> dict[str, Any] | None:
    """The manifest of the very data set that is asked for, if it is complete."""
    if not (folder / MANIFEST).exists():
        return None
    manifest = read_manifest(folder)
    if manifest.raw.get("fingerprint") != identity:
        raise ShardError(f"{folder} holds a different data set; {_REMEDY}")
    sizes: dict[Path, int | None] = {}  # None: whatever it is
    for split, shards in manifest.splits.items():
        sizes[folder / f"{split}.parquet"] = None
        for shard in shards:
            sizes[folder / shard.name] = shard.bytes
            sizes[(folder / shard.name).with_suffix(".idx")] = None
    for path, size in sizes.items():
        if not path.exists() or size not in (None, path.stat().st_size):
            raise ShardError(
                f"{path} is missing or changed; pass --overwrite to write it again"
            )
    return dict(manifest.raw)


def _claim(folder: Path, plan: Path, identity: str, overwrite: bool) -> None:
    """Make sure that the folder is ours to write to; clear what is to be replaced."""
    begun = _begun(plan)
    if begun == identity and not (folder / MANIFEST).exists():
        return
    ours = [path for path in sorted(folder.iterdir()) if _OURS.fullmatch(path.name)]
    if begun is not None and not overwrite:
        raise ShardError(f"{folder} holds a different, unfinished data set; {_REMEDY}")
    if ours and not overwrite:
        raise ShardError(
            f"{folder} holds shards without a manifest ({ours[0].name}); {_REMEDY}"
        )
    (folder / MANIFEST).unlink(missing_ok=True)  # first: from here on, no data set
    for path in [*ours, *plan.parent.glob("*.json")]:
        path.unlink()
    with naming(plan):
        write_atomically(plan, json.dumps({"fingerprint": identity}))


def _begun(plan: Path) -> str | None:
    """The fingerprint of the data set that is being written; empty if unreadable."""
    try:
        return str(json.loads(plan.read_text())["fingerprint"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        return ""


def _remove_partial(folder: Path) -> None:
    for path in folder.iterdir():
        if _PARTIAL.fullmatch(path.name):
            path.unlink()


def _write_shards(
    tasks: Sequence[Task], workers: int
) -> tuple[list[WrittenShard], list[int]]:
    """Outcomes of all tasks, in order, and the numbers of those that were written."""
    known = {
        n: outcome for n, task in enumerate(tasks) if (outcome := read_outcome(task))
    }
    todo = [n for n in range(len(tasks)) if n not in known]
    total = sum(len(task.samples) for task in tasks)
    done = sum(len(tasks[n].samples) for n in known)
    processes = -(-workers // _THREADS)
    processes = max(min(processes, len(todo)), 1)
    write = partial(write_shard, threads=-(-workers // processes))
    # Without a terminal, no bar: the summary says how fast it was.
    with (
        tqdm(
            total=total, initial=done, unit=" images", desc="sharding", disable=None
        ) as bar,
        closing(in_processes(write, [tasks[n] for n in todo], processes)) as run,
    ):
        for place, outcome in run:
            # Here and not in the workers: while this waits for the disk, they decode.
            tar = tasks[0].folder / outcome.name
            for path in (tar, tar.with_suffix(".idx")):
                with naming(path):
                    make_durable(path)
            known[todo[place]] = outcome
            bar.update(len(tasks[todo[place]].samples))
    return [known[n] for n in range(len(tasks))], todo


def _write_index(
    tasks: Sequence[Task], outcomes: Sequence[WrittenShard], layout: str, identity: str
) -> dict[str, Any]:
    """Write ``SPLIT.parquet`` for each split, then the manifest."""
    if not any(outcome.samples for outcome in outcomes):
        first = outcomes[0].quarantined[0]
        raise ShardError(
            f"not one image can be used; the first, {first['source']}: "
            f"{first['reason']}"
        )
    folder, packing = tasks[0].folder, tasks[0].packing
    changed: Counter[str] = Counter()
    splits: dict[str, Any] = {}
    for split in SPLITS:
        own = [n for n, task in enumerate(tasks) if task.split == split]
        splits[split] = _describe([outcomes[n] for n in own])
        _write_table(folder / f"{split}.parquet", [tasks[n] for n in own])
        for outcome in (outcomes[n] for n in own):
            changed.update(outcome.changed)
    manifest = {
        "format": FORMAT,
        "tool": f"fastretina {__version__}",
        "fingerprint": identity,
        "source": {"layout": layout, "listed": _listed(outcomes)},
        "preprocessing": {"steps": packing.steps, "size": packing.size},
        "seed": packing.seed,
        "splits": splits,
        "changed": dict(sorted(changed.items())),
        "quarantine": [entry for o in outcomes for entry in o.quarantined],
    }
    with naming(folder / MANIFEST):
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _listed(outcomes: Iterable[WrittenShard]) -> int:
    return sum(outcome.samples + len(outcome.quarantined) for outcome in outcomes)


def _describe(outcomes: Sequence[WrittenShard]) -> dict[str, Any]:
    """One split, as the manifest holds it."""
    grades = [sum(outcome.grades[grade] for outcome in outcomes) for grade in range(5)]
    return {
        "samples": sum(outcome.samples for outcome in outcomes),
        "grades": {str(grade): count for grade, count in enumerate(grades)},
        "shards": [
            {
                "name": outcome.name,
                "samples": outcome.samples,
                "bytes": outcome.num_bytes,
                "sha256": outcome.sha256,
            }
            for outcome in outcomes
        ],
    }


def _write_table(path: Path, tasks: Iterable[Task]) -> None:
    """The split's index, a row group per shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()]
    )
    part = path.with_name(f".{path.name}.part")
    none: list[list[Any]] = [[] for _ in schema]
    with naming(path), part.open("wb") as file:
        with pq.ParquetWriter(file, schema) as writer:
            for task in tasks:
                rows = read_rows(task)
                columns = zip(*rows, strict=True) if rows else none
                arrays = [
                    pa.array(column, field.type)
                    for column, field in zip(columns, schema, strict=True)
                ]
                writer.write_table(pa.table(arrays, schema=schema))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
