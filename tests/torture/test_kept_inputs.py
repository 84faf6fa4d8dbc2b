"""Inputs that fuzzing has found a fault by, each mended, and its like."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from fastretina.data.patient_names import read_name
from fastretina.nn.weights_file import WeightsError, read_weights
from loaders.errors import RunError
from torture import fuzz_files as good
from torture.fuzz_targets import TARGETS

LONG = 131_072  # characters: the most that Python's csv takes for a cell


@pytest.mark.parametrize(
    "name",
    [
        "_" * LONG,
        "1" * LONG,
        "1" + "_" * LONG,
        "1" * (LONG // 2) + "_" * (LONG // 2),
        "1-" * (LONG // 4) + "_" * (LONG // 2),
        "1_l" + "_" * LONG,
        "1" + "_l" * (LONG // 2),
    ],
    ids=lambda name: f"{name[:4]}-{name[-1]}",
)
def test_long_names_take_no_square_of_their_length(name: str) -> None:
    """They took hours, or a name of 255 characters a third of a second."""
    started = time.monotonic()
    read_name(name)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("kind", ["run-config", "run-metrics", "experiment"])
def test_half_a_surrogate_pair_is_damage(kind: str, tmp_path: Path) -> None:
    """JSON may hold it as a name, and what can't be encoded ended with a traceback."""
    (content,) = TARGETS[kind].good()
    damaged = content.replace(b"{", b'{"\\ud800": 1, ', 1)
    with pytest.raises(RunError, match=r"\.json is damaged, or of an older version"):
        TARGETS[kind].parse(damaged, tmp_path)


def test_zip_of_several_disks_is_damage(tmp_path: Path) -> None:
    """``zipfile.is_zipfile`` raises an error of its own there."""
    _, content = good.weights()
    place = content.index(b"PK\x06\x07")  # the locator of a large archive's end
    disks = struct.pack("<4sLQL", b"PK\x06\x07", 0, 7, 9)
    damaged = content[:place].replace(b"PK\x03\x04", b"PK\x03\x05") + disks
    (tmp_path / "weights.pth").write_bytes(damaged + content[place + len(disks) :])
    with pytest.raises(WeightsError, match="damaged or cut short: fetch it again"):
        read_weights(tmp_path / "weights.pth")
