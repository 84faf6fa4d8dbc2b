"""``manifest.json``: what a data set holds, with checksums of its files and of itself.

Read strictly: each value has its type and lies in its range, no key comes twice, and
the checksums agree, or it is refused in one line.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import msgspec

from loaders.contents import describe_mistake, look_into
from loaders.errors import NoShards, ShardError
from loaders.place import Place, Url
from loaders.untrusted import MOST_MANIFEST, read_place

FORMAT = 1
MANIFEST = "manifest.json"
SplitName = Literal["train", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "test")

_SEAL = "sha256"  # the manifest's checksum of itself
_FEW = 100_000  # values, of whatever length
_LEAST_BYTES = 16  # of a value in the mean; those that are written have 37 at least
_SPLIT_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


def shard_name(split: str, number: int) -> str:
    """File name of a shard, e.g. ``train-000007.tar``."""
    return f"{split}-{number:06d}.tar"


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard as the manifest lists it.

    Attributes:
        name: the tar's file name.
        samples: number of samples in it.
        bytes: size of the tar.
        sha256: hex digest of the tar.
        index_sha256: hex digest of the DALI index beside it; None in a manifest of an
            older version.
    """

    name: str
    samples: _Count
    bytes: _Count
    sha256: _Sha256
    index_sha256: _Sha256 | None = None


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A split's index, ``SPLIT.parquet``, as the manifest lists it.

    Attributes:
        bytes: its size.
        sha256: hex digest of it.
    """

    bytes: _Count
    sha256: _Sha256


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What was done to the photographs when shards were written.

    Attributes:
        steps: their names, in order.
        size: pixels square that the images were resized to; None if they were not.
    """

    steps: tuple[str, ...] = ()
    size: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a data set's photographs come from; None where it is not told.

    Attributes:
        source: what the person who sharded them has said.
        layout: how its labels were kept, e.g. ``kaggle``.
        listed: number of photographs that the labels list.
        drawn: number of them that ``fastretina demo`` has drawn.
        patients: what their patients were identified from.
    """

    source: str | None = None
    layout: str | None = None
    listed: int | None = None
    drawn: int | None = None
    patients: str | None = None


@dataclass(frozen=True, slots=True)
class QuarantinedImage:
    """A sample that was left out, as the manifest lists it.

    Attributes:
        key: the name that it would have in the shards.
        source: its file's name.
        split: ``train`` or ``test``.
        grade: 0 to 4.
        reason: why its image can't be used.
    """

    key: str
    source: str
    split: str
    grade: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What ``manifest.json`` says about a data set.

    Attributes:
        splits: split name to its shards, in order.
        counts: split name to the number of samples of each grade, "0" to "4".
        indices: split name to its index; without those that an older version wrote.
        fingerprint: what the data set was made from and how, hashed.
        preprocessing: what was done to the photographs; None where it is not told.
        origin: where the photographs come from.
        changed: kind of change to the number of images that were encoded again.
        quarantine: the images that were left out, with their reasons.
    """

    splits: Mapping[str, tuple[ShardInfo, ...]]
    counts: Mapping[str, Mapping[str, int]]
    indices: Mapping[str, IndexFile]
    fingerprint: str | None
    preprocessing: Preprocessing | None
    origin: Origin
    changed: Mapping[str, int]
    quarantine: tuple[QuarantinedImage, ...]


class _SplitEntry(msgspec.Struct):
    """The manifest's part on one split."""

    grades: dict[str, _Count]
    shards: tuple[ShardInfo, ...]
    samples: _Count | None = None
    index: IndexFile | None = None


class _Content(msgspec.Struct):
    """All of the manifest that is looked at but for its format."""

    splits: dict[str, _SplitEntry]
    fingerprint: str | None = None
    preprocessing: Preprocessing | None = None
    source: Origin | None = None
    changed: dict[str, _Count] = {}
    quarantine: tuple[QuarantinedImage, ...] = ()
    sha256: _Sha256 | None = None


def read_manifest(folder: Place) -> Manifest:
    """Read and check ``manifest.json``.

    Raises:
        NoShards: there is none.
        ShardError: it is damaged, or of a format that this version does not read.
    """
    path = folder / MANIFEST
    try:
        content = read_place(path, MOST_MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        if isinstance(folder, Path) and (mistake := _describe_mistake(folder)):
            raise NoShards(mistake) from None
        raise NoShards(
            f"no data set in {folder}{_state(folder)}: make one with "
            f"'fastretina shard data/ {folder}'; for photographs to try, "
            "'fastretina demo data/'"
        ) from None
    except OSError as error:
        raise ShardError(f"{path} cannot be read ({error})") from error
    try:
        return _parse(content)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path} is damaged ({error}); shard again") from error
    except _OtherFormat as error:
        raise ShardError(
            f"{path}: format must be {FORMAT}, got {error}; "
            "shard again with this version of fastretina"
        ) from None


def sealed(manifest: Mapping[str, object]) -> dict[str, object]:
    """The manifest's JSON with the checksum of all its rest behind it.

    That is the SHA-256 of the rest as ``json.dumps(rest, sort_keys=True,
    separators=(",", ":"))`` writes it, so that it is the same however the file is
    indented.
    """
    rest = {name: value for name, value in manifest.items() if name != _SEAL}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return {**rest, _SEAL: hashlib.sha256(text.encode()).hexdigest()}


class _OtherFormat(Exception):
    """The manifest is of another format, which is the text."""


def _parse(content: bytes) -> Manifest:
    """The manifest in its file's bytes.

    Raises:
        ValueError: it is no manifest, or not the one that was written.
        RecursionError: it is nested too deep to be one.
        _OtherFormat: it can't be read by this version.
    """
    _bound(content)
    raw: Any = json.loads(
        content.decode("utf-8"),
        object_pairs_hook=_without_repetition,
        parse_constant=_refuse_constant,
    )
    version = raw.get("format") if isinstance(raw, dict) else raw
    if type(version) is not int or version != FORMAT:
        raise _OtherFormat(_shortened(version))
    if _SEAL in raw and raw[_SEAL] != sealed(raw)[_SEAL]:
        raise ValueError("it is not what was written, as its checksum tells")
    parsed = msgspec.convert(raw, _Content)
    _check(parsed)
    return Manifest(
        splits={name: split.shards for name, split in parsed.splits.items()},
        counts={name: split.grades for name, split in parsed.splits.items()},
        indices={n: s.index for n, s in parsed.splits.items() if s.index is not None},
        fingerprint=parsed.fingerprint,
        preprocessing=parsed.preprocessing,
        origin=parsed.source or Origin(),
        changed=parsed.changed,
        quarantine=parsed.quarantine,
    )


def _bound(content: bytes) -> None:
    """Refuse JSON of more values than a manifest of its length has.

    Python takes 27 times the bytes of empty lists, 6 times those of shards, and of
    what passes here 11 times at most: 0.7 GB.
    """
    values = sum(content.count(sign) for sign in (b",", b"[", b"{"))
    if values > _FEW and values * _LEAST_BYTES > len(content):
        raise ValueError(f"{values:,} values in {len(content):,} bytes are too many")


def _without_repetition(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """A JSON object, unless a key of it comes twice: readers differ on which counts."""
    known = dict(pairs)
    if len(known) < len(pairs):
        for name, _ in pairs:
            if name not in known:
                raise ValueError(f"the key {_shortened(name)} comes twice")
            del known[name]
    return known


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _shortened(value: object) -> str:
    """A value as an error quotes it: ASCII, and not the whole of a long one."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check(parsed: _Content) -> None:
    """Hold the manifest's parts against each other.

    Raises:
        ValueError: they differ, or a part is missing.
    """
    if not parsed.splits:
        raise ValueError("it lists no split")
    for name, split in parsed.splits.items():
        if not _SPLIT_NAME.fullmatch(name):
            raise ValueError(f"no split can be called {_shortened(name)}")
        for place, shard in enumerate(split.shards):
            if shard.name != (expected := shard_name(name, place)):
                got = _shortened(shard.name)
                raise ValueError(f"a shard must be called {expected}, got {got}")
        listed = sum(shard.samples for shard in split.shards)
        if split.samples not in (None, listed):
            raise ValueError(
                f"it counts {split.samples:,} samples in {name}, and {listed:,} in its "
                "shards"
            )
        of_files = [split.index, *(shard.index_sha256 for shard in split.shards)]
        has = [checksum is not None for checksum in of_files]
        if any(has) != (parsed.sha256 is not None) or any(has) != all(has):
            raise ValueError("some of its checksums are missing")


def _describe_mistake(path: Path) -> str | None:
    """What a path holds in place of a data set, and what to do; None if nothing."""
    kind = look_into(path)
    if kind == "photographs":
        out = "shards" if path.name != "shards" else "new_shards"
        remedy = f"run 'fastretina shard {path} {out}' and name {out}"
    elif kind == "part of shards":
        remedy = f"name that folder, {path.parent}"
    elif kind == "other" and _holds_tars(path):
        return (
            f"{path} holds tars without an index, not shards: run 'fastretina shard "
            f"{path} new_shards', which makes shards of them, and name new_shards"
        )
    elif kind in ("nothing", "other"):
        return None
    else:
        remedy = "name the folder that 'fastretina shard' has written"
    return f"{path} {describe_mistake(path)}, not shards: {remedy}"


def _holds_tars(folder: Path) -> bool:
    """Whether a folder holds tars, and not such as are being written there."""
    return not (folder / ".progress").exists() and any(folder.glob("*.tar"))


def _state(folder: Place) -> str:
    """Why there is no manifest, as far as can be seen."""
    if isinstance(folder, Url):
        return ""
    if not folder.exists():
        return " (the folder does not exist)"
    return " (an unfinished one)" if (folder / ".progress").exists() else ""
