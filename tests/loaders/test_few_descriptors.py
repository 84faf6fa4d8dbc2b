"""Loaders where few files may be open: one line, and nobody waits for ever."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import small_runs  # noqa: F401 (whose server has imported torch)
from torture.child import in_child

from loaders import available

TRAIN = 37  # samples in the fixture's split

pytestmark = pytest.mark.timeout(120)


def epochs(name: str, shards: Path, spare: int) -> str | int:
    """What a loader says, or the samples that it delivers, with few descriptors."""
    from loaders import LoaderConfig, make_loader
    from loaders.errors import DataError

    config = LoaderConfig(batch_size=2, workers=2, prefetch=8, on_corrupt="skip")
    with make_loader(name, shards, "train", config) as loader:
        next(iter(loader))  # whatever it opens once is open
        used = len(list(Path("/proc/self/fd").iterdir()))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, hard))
        try:
            rows = sum(len(batch.labels) for batch in loader)
        except (DataError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return rows + len(loader.skipped)


@pytest.mark.parametrize("spare", [0, 9, 14])
def test_pil_hands_over_every_batch_or_says_what_it_lacks(
    shards: Path, spare: int
) -> None:
    said = in_child(epochs, "pil", shards, spare, seconds=60)
    assert said == TRAIN or "(ulimit -n)" in str(said)
    assert "\n" not in str(said)


@pytest.mark.parametrize("name", sorted({*available()} - {"pil"}))
def test_other_loaders_deliver_all_or_say_why(shards: Path, name: str) -> None:
    said = in_child(epochs, name, shards, 0, seconds=60)
    assert said == TRAIN or "Too many open files" in str(said)
    assert "\n" not in str(said)
