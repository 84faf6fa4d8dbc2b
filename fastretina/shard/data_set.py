"""Write a data set from its plan: what is there already, the workers, the manifest.

    the plan's tasks --+--> finished before: their markers -----+--> SPLIT.parquet
                       |                                        |         |
                       '--> processes --> tar, .idx, a marker --'    manifest.json

SHARDS/.progress/plan.json               which data set is being written here
SHARDS/.progress/train-000000.tar.json   a marker for each finished shard
SHARDS/manifest.json                     last; then .progress goes
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from fastretina import __version__
from fastretina.processes import in_processes
from fastretina.progress import hidden
from fastretina.shard.own_files import data_files, refuse_other_folder, remove_partial
from fastretina.shard.plan import PROGRESS, ShardTask, plan_fingerprint
from fastretina.shard.replacing import aside_of, go_on, put_in_place, replacement_of
from fastretina.shard.writer import (
    WrittenShard,
    read_index_rows,
    read_written,
    write_shard,
)
from loaders.cores import granted_cores
from loaders.errors import ShardError
from loaders.files import (
    hash_file,
    make_folder,
    make_inner_folder,
    naming,
    refuse_link,
    sync_folder,
    write_atomically,
    writing,
)
from loaders.grades import GRADES
from loaders.index_table import COLUMNS
from loaders.manifest import (
    FORMAT,
    MANIFEST,
    SPLITS,
    Manifest,
    QuarantinedImage,
    read_manifest,
    sealed,
)

_REMEDY = "pass --overwrite to replace it, or name another folder"

# Threads of a process, where there are shards enough: decoding and hashing release the
# GIL, so a process can keep some cores busy; starting it takes 0.3 s.
_THREADS = 4


@dataclass(frozen=True, slots=True)
class DataSet:
    """A finished data set, and how much of it this call has written.

    Attributes:
        manifest: what the data set holds.
        shards_written: number of shards that this call has written.
        images_written: number of samples listed for these shards.
    """

    manifest: Manifest
    shards_written: int
    images_written: int

    @property
    def quarantined(self) -> list[QuarantinedImage]:
        """The images that sharding has left out, with their reasons."""
        return list(self.manifest.quarantine)

    @property
    def changed(self) -> dict[str, int]:
        """Kind of change to the number of images that were encoded again."""
        return dict(self.manifest.changed)


def write_data_set(
    tasks: Sequence[ShardTask],
    source: Mapping[str, object],
    *,
    workers: int | None,
    overwrite: bool,
) -> DataSet:
    """Write all shards that are not there yet, the index of each split, the manifest.

    Args:
        tasks: the plan; all for the same folder.
        source: the manifest's part on the folder that they are made of.
        workers: number of threads, four to a process, or more where there are fewer
            shards to write than that takes; ``None`` for one per granted core.
        overwrite: replace the data set that is there, once the new one is whole.

    Raises:
        ShardError: the folder holds another data set, or another process writes here.
        OSError: a file can't be read or written; finished shards stay.
    """
    folder = tasks[0].folder
    progress = folder / PROGRESS
    identity = plan_fingerprint(tasks)
    if not overwrite and not progress.exists() and not aside_of(folder).exists():
        manifest = _finished(folder, identity)  # which may be on a read-only disk
        if manifest is not None:
            return DataSet(manifest, 0, 0)
    refuse_other_folder(folder)
    aside = aside_of(folder)
    for each in (progress, replacement_of(folder), aside, aside / PROGRESS):
        refuse_link(each)
    make_folder(progress)
    try:
        with FileLock(progress / "lock", timeout=0):
            return _write(tasks, identity, source, workers, overwrite)
    except Timeout:
        raise ShardError(
            f"another process is writing to {folder}; wait for it to end"
        ) from None


def _write(
    tasks: Sequence[ShardTask],
    identity: str,
    source: Mapping[str, object],
    workers: int | None,
    overwrite: bool,
) -> DataSet:
    """Write the data set, in a folder where no other process is at work."""
    folder = tasks[0].folder
    progress, replacement = folder / PROGRESS, replacement_of(folder)
    try:
        remove_partial(folder)  # of a run that was killed
        replaced = go_on(folder)
        manifest = _finished(folder, identity, raises=not overwrite)
        if manifest is not None and (replaced or not overwrite):
            (progress / "plan.json").unlink(missing_ok=True)
            shutil.rmtree(replacement, ignore_errors=True)  # that nobody asks for now
            return DataSet(manifest, 0, 0)
        if (folder / MANIFEST).exists():
            return _replace(tasks, identity, source, workers)
        return _write_here(tasks, identity, source, workers, overwrite)
    finally:
        remove_partial(folder)
        begun = (progress / "plan.json").exists() or replacement.exists()
        if progress.exists() and not begun:
            shutil.rmtree(progress)
            sync_folder(folder)


def _replace(
    tasks: Sequence[ShardTask],
    identity: str,
    source: Mapping[str, object],
    workers: int | None,
) -> DataSet:
    """Write the data set beside the one that is there, then put it in its place."""
    folder = tasks[0].folder
    replacement = replacement_of(folder)
    make_inner_folder(replacement / PROGRESS)
    try:
        remove_partial(replacement)
        manifest = _finished(replacement, identity, raises=False)
        if manifest is not None:  # but not in its place
            data_set = DataSet(manifest, 0, 0)
        else:
            beside = [replace(task, folder=replacement) for task in tasks]
            data_set = _write_here(beside, identity, source, workers, True)
    finally:
        remove_partial(replacement)
    shutil.rmtree(replacement / PROGRESS)
    put_in_place(folder)
    return data_set


def _write_here(
    tasks: Sequence[ShardTask],
    identity: str,
    source: Mapping[str, object],
    workers: int | None,
    overwrite: bool,
) -> DataSet:
    """Write the data set into its folder, or what a killed process has left to do."""
    folder = tasks[0].folder
    plan = folder / PROGRESS / "plan.json"
    _claim(folder, plan, identity, overwrite)
    shards, new = _write_shards(tasks, workers or granted_cores())
    _write_index(tasks, shards, source, identity)
    plan.unlink()
    images = sum(len(tasks[number].samples) for number in new)
    return DataSet(read_manifest(folder), len(new), images)


def _finished(folder: Path, identity: str, *, raises: bool = True) -> Manifest | None:
    """The manifest of the very data set that is asked for, if it is complete.

    Raises:
        ShardError: another is there, or a damaged one, where ``raises``.
    """
    try:
        return _check_finished(folder, identity)
    except ShardError:
        if raises:
            raise
        return None


def _check_finished(folder: Path, identity: str) -> Manifest | None:
    if not (folder / MANIFEST).exists():
        return None
    manifest = read_manifest(folder)
    if manifest.fingerprint != identity:
        raise ShardError(f"{folder} holds a different data set; {_REMEDY}")
    sizes: dict[Path, int] = {}
    sums: dict[Path, str | None] = {}  # of what is small; None: whatever it is
    for split, shards in manifest.splits.items():
        index = manifest.indices.get(split)
        sums[folder / f"{split}.parquet"] = index.sha256 if index else None
        for shard in shards:
            sizes[folder / shard.name] = shard.bytes
            sums[(folder / shard.name).with_suffix(".idx")] = shard.index_sha256
    for path in [*sums, *sizes]:
        if (
            not path.exists()
            or sizes.get(path) not in (None, path.stat().st_size)
            or sums.get(path) not in (None, hash_file(path))
        ):
            raise ShardError(
                f"{path} is missing or changed; pass --overwrite to write it again"
            )
    return manifest


def _claim(folder: Path, plan: Path, identity: str, overwrite: bool) -> None:
    """Make sure that the folder is ours to write to; clear what is to be replaced."""
    begun = _begun(plan)
    if begun == identity and not (folder / MANIFEST).exists():
        return
    ours = data_files(folder)
    if begun is not None and not overwrite:
        raise ShardError(f"{folder} holds a different, unfinished data set; {_REMEDY}")
    if ours and not overwrite:
        raise ShardError(
            f"{folder} holds shards without a manifest ({ours[0].name}); {_REMEDY}"
        )
    if (folder / MANIFEST).exists():
        (folder / MANIFEST).unlink()  # first: from here on, no data set
        sync_folder(folder)
    old = [*ours, *plan.parent.glob("*.json")]
    for path in old:
        path.unlink()
    for each in (folder, plan.parent) if old else ():
        sync_folder(each)  # or old shards might be taken for new ones
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


def _write_shards(
    tasks: Sequence[ShardTask], workers: int
) -> tuple[list[WrittenShard], list[int]]:
    """All shards, in the tasks' order, and the places of those written just now."""
    known = {n: shard for n, task in enumerate(tasks) if (shard := read_written(task))}
    todo = [n for n in range(len(tasks)) if n not in known]
    total = sum(len(task.samples) for task in tasks)
    done = sum(len(tasks[n].samples) for n in known)
    processes = -(-workers // _THREADS)
    processes = max(min(processes, len(todo)), 1)
    write = partial(write_shard, threads=-(-workers // processes))
    # Without a terminal, no bar: the summary says how fast it was.
    with (
        tqdm(
            total=total, initial=done, unit=" images", desc="sharding", disable=hidden()
        ) as bar,
        closing(in_processes(write, [tasks[n] for n in todo], processes)) as run,
    ):
        for place, written in run:
            # Here and not in the workers: while this waits for the disk, they decode.
            written.put_in_place()
            known[todo[place]] = written.outcome
            bar.update(len(tasks[todo[place]].samples))
    return [known[n] for n in range(len(tasks))], todo


def _write_index(
    tasks: Sequence[ShardTask],
    shards: Sequence[WrittenShard],
    source: Mapping[str, object],
    identity: str,
) -> None:
    """Write ``SPLIT.parquet`` for each split, then the manifest.

    With an index on the disk, all that was named in the folder before is there, too.
    """
    if not any(shard.samples for shard in shards):
        first = shards[0].quarantined[0]
        raise ShardError(
            f"not one image can be used; the first, {first.source}: {first.reason}"
        )
    folder, options = tasks[0].folder, tasks[0].options
    splits = {}
    for split in SPLITS:
        own = [place for place, task in enumerate(tasks) if task.split == split]
        index = folder / f"{split}.parquet"
        _write_table(index, [tasks[place] for place in own])
        splits[split] = _describe([shards[place] for place in own], index)
    manifest = {
        "format": FORMAT,
        "tool": f"fastretina {__version__}",
        "fingerprint": identity,
        "source": source,
        "preprocessing": {"steps": options.steps, "size": options.size},
        "seed": options.seed,
        "splits": splits,
        "changed": _count_changes(shards),
        "quarantine": [asdict(bad) for shard in shards for bad in shard.quarantined],
    }
    with naming(folder / MANIFEST):
        write_atomically(
            folder / MANIFEST, json.dumps(sealed(manifest), indent=1) + "\n"
        )


def _count_changes(shards: Iterable[WrittenShard]) -> dict[str, int]:
    """Kind of change to the number of images in all shards that have it."""
    changed: Counter[str] = Counter()
    for shard in shards:
        changed.update(shard.changed)
    return dict(sorted(changed.items()))


def _describe(shards: Sequence[WrittenShard], index: Path) -> dict[str, object]:
    """The manifest's part on one split, whose index is written."""
    grades = range(len(GRADES))
    with naming(index):
        about = {"bytes": index.stat().st_size, "sha256": hash_file(index)}
    return {
        "samples": sum(shard.samples for shard in shards),
        "grades": {str(g): sum(shard.grades[g] for shard in shards) for g in grades},
        "index": about,
        "shards": [
            {
                "name": shard.name,
                "samples": shard.samples,
                "bytes": shard.num_bytes,
                "sha256": shard.sha256,
                "index_sha256": shard.index_sha256,
            }
            for shard in shards
        ],
    }


def _write_table(path: Path, tasks: Iterable[ShardTask]) -> None:
    """Write the split's index, a row group per shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()]
    )
    with writing(path) as file, pq.ParquetWriter(file, schema) as writer:
        for task in tasks:
            rows = read_index_rows(task)
            arrays = [
                pa.array([getattr(row, field.name) for row in rows], field.type)
                for field in schema
            ]
            writer.write_table(pa.table(arrays, schema=schema))
