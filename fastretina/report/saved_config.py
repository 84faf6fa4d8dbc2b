"""``config.json`` of a run, as far as a report reads it, as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fastretina.report.json_values import items, mapping, optional_whole, whole
from loaders.errors import RunError


class RunData(NamedTuple):
    """The data set that a run was made from.

    Attributes:
        raw: Content of the file's ``data``.
        train: Number of photographs to train on; None where it is unknown.
        validation: Number of photographs held out to choose the epoch.
        preprocessing: Steps done to the photographs when shards were written.
        fingerprint: Fingerprint of the shards; None where it is unknown.
        test_fingerprint: Fingerprint of the test shards, where they are others.
    """

    raw: Mapping[str, object]
    train: int | None
    validation: int
    preprocessing: Sequence[str]
    fingerprint: str | None
    test_fingerprint: str | None


class RunConfig(NamedTuple):
    """What a run was made with.

    Attributes:
        raw: Content of the file.
        data: The data set.
        image_shape: Height and width of what the network sees, pixels.
        shards: Folder or URL of the shards.
        test_shards: Folder or URL of the test shards; None where they are the same.
        loader: Name of the loader that fed training.
        device: Where it was trained, e.g. ``cpu``.
        precision: What it was computed in, e.g. ``fp32``.
    """

    raw: Mapping[str, object]
    data: RunData
    image_shape: tuple[int, int]
    shards: str
    test_shards: str | None
    loader: str
    device: str
    precision: str


def read_config(raw: Mapping[str, object], path: Path) -> RunConfig:
    """The content of ``config.json`` as records.

    Args:
        raw: Content of the file, with all that every reader of a run needs.
        path: The file, for errors.

    Raises:
        RunError: its data or its image shape can't be read.
    """
    try:
        data = _data(mapping(raw["data"]))
        height, width = (whole(side) for side in items(raw["image_shape"]))
    except ValueError as error:
        raise RunError(f"{path} is damaged: its data or image_shape is none") from error
    return RunConfig(
        raw=raw,
        data=data,
        image_shape=(height, width),
        shards=str(raw["shards"]),
        test_shards=_optional_text(raw.get("test_shards")),
        loader=str(raw["loader"]),
        device=str(raw.get("device", "unknown")),
        precision=str(raw["precision"]),
    )


def _data(raw: Mapping[str, object]) -> RunData:
    preprocessing = mapping(raw.get("preprocessing") or {})
    return RunData(
        raw=raw,
        train=optional_whole(raw.get("train")),
        validation=whole(raw.get("validation") or 0),
        preprocessing=[str(step) for step in items(preprocessing.get("steps") or [])],
        fingerprint=_optional_text(raw.get("fingerprint")),
        test_fingerprint=_optional_text(raw.get("test_fingerprint")),
    )


def _optional_text(value: object) -> str | None:
    return str(value) if value else None
