"""Which samples of a folder should be in which split of its shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastretina.data.labels import LabelOptions, Sample, read_table
from fastretina.parity.reference import ParityError, PilReference
from loaders.place import place
from loaders.shards import (
    SPLITS,
    Manifest,
    Preprocessing,
    open_split,
    read_manifest,
)

_RELATED = 0.5  # share of the shards' keys that the folder must know


@dataclass(frozen=True, slots=True)
class MatchedData:
    """A folder beside its shards.

    Attributes:
        manifest: what the shards' manifest says.
        samples: split to key to the sample that the loader should deliver.
        set_aside: split to the number of bad images that sharding has left out.
    """

    manifest: Manifest
    samples: Mapping[str, Mapping[str, Sample]]
    set_aside: Mapping[str, int]

    def reference(self, image_size: int | None) -> PilReference:
        """Plain PIL for the folder's images, pre-processed as the shards are."""
        done = self.manifest.preprocessing or Preprocessing()
        return PilReference(steps=done.steps, size=done.size, image_size=image_size)


def match(data: Path, shards: str, labels: Path | None) -> MatchedData:
    """Read the folder's labels and hold its keys against those of the shards.

    Where the labels have no test split, the shards' own is taken.

    Raises:
        LabelError: the folder has no labels, or bad ones.
        NoShards: there are none.
        ParityError: the shards are of another folder.
    """
    manifest = read_manifest(place(shards))
    layout = manifest.origin.layout if labels is None else None
    if layout == "tars":  # of which the folder holds the photographs
        layout = None
    how = LabelOptions(layout=layout, labels=labels)
    table = read_table(data, how, allow_missing=True)
    samples = {sample.key: sample for sample in table.samples}
    indexed = {split: _keys(shards, split) for split in manifest.splits}
    _refuse_other_shards(data, shards, samples, indexed)
    chosen = {} if table.own_split else _split_of(indexed)
    left_out = {bad.key for bad in manifest.quarantine}
    expected: dict[str, dict[str, Sample]] = {split: {} for split in SPLITS}
    set_aside: dict[str, int] = dict.fromkeys(SPLITS, 0)
    for key, sample in samples.items():
        split = chosen.get(key, sample.split)
        if key in left_out:
            set_aside[split] += 1
        else:
            expected[split][key] = sample
    return MatchedData(manifest, expected, set_aside)


def _keys(shards: str, split: str) -> list[str]:
    with open_split(shards, split) as opened:
        return opened.column("key")


def _refuse_other_shards(
    data: Path,
    shards: str,
    samples: Mapping[str, Sample],
    indexed: Mapping[str, Sequence[str]],
) -> None:
    keys = {key for listed in indexed.values() for key in listed}
    common = len(keys & samples.keys())
    if common < _RELATED * len(keys):
        raise ParityError(
            f"{shards} must be made of {data}, got {common:,} of its {len(keys):,} "
            "keys there: name the folder that it was made of"
        )


def _split_of(indexed: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Key to its split in the shards; the first where it is in two."""
    splits: dict[str, str] = {}
    for split, keys in indexed.items():
        for key in keys:
            splits.setdefault(key, split)
    return splits
