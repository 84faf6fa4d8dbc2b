"""Manifests made to fit what was changed: by a forger, or as an older version wrote."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from loaders.manifest import MANIFEST, sealed


def read_json(folder: Path) -> dict[str, Any]:
    """A data set's manifest as it stands."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return manifest


def write_sealed(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with the right checksum of itself."""
    (folder / MANIFEST).write_text(json.dumps(sealed(manifest), indent=1) + "\n")


def reseal(folder: Path) -> None:
    """Have the manifest fit the index files that are there now."""
    manifest = read_json(folder)
    for name, split in manifest["splits"].items():
        index = folder / f"{name}.parquet"
        labels = pq.read_table(index)["label"].to_pylist()
        split["grades"] = Counter(str(label) for label in labels if label is not None)
        split["index"] = {"bytes": index.stat().st_size, "sha256": _sha256(index)}
        for shard in split["shards"]:
            path = (folder / shard["name"]).with_suffix(".idx")
            shard["index_sha256"] = _sha256(path)
    write_sealed(folder, manifest)


def without_checksums(folder: Path) -> None:
    """Have the manifest hold what those of older versions did."""
    manifest = read_json(folder)
    del manifest["sha256"]
    for split in manifest["splits"].values():
        del split["index"]
        for shard in split["shards"]:
            del shard["index_sha256"]
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
