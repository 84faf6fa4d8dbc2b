"""What is no JPEG in a stranger's shard or folder: refused, and no program of its own.

Pillow hands EPS, a program in PostScript, to Ghostscript, which it finds on the PATH.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crc32c import crc32c
from PIL import EpsImagePlugin, Image
from resealed import reseal

from fastretina.data.prepare import Preparer, Rejected
from fastretina.parity.reference import ParityError, PilReference
from loaders import LOADERS, LoaderConfig, make_loader
from loaders.errors import SampleError
from loaders.folder import RetinopathyDataset

EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n"
    b"(%pipe%id) (w) file\nshowpage\n%%EOF\n"
)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    return file.getvalue()


STRANGE = {"EPS": EPS, "PNG": png(), "EPS behind SOI": b"\xff\xd8" + EPS}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once the Ghostscript on the PATH has been started."""
    told, program = tmp_path / "ran", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # looked for once
    return told


def forged(shards: Path, folder: Path, content: bytes, components: int) -> Path:
    """Shards whose first sample of train is other bytes, with every checksum right."""
    shutil.copytree(shards, folder)
    table = pq.read_table(folder / "train.parquet")
    rows = table.to_pylist()
    room = rows[0]["size"]
    assert len(content) < room
    content = content + bytes(room - len(content))
    with (folder / "train-000000.tar").open("r+b") as tar:
        tar.seek(rows[0]["offset"])
        tar.write(content)
    rows[0] |= {
        "sha256": hashlib.sha256(content).hexdigest(),
        "crc32c": crc32c(content),
        "components": components,
    }
    pq.write_table(pa.Table.from_pylist(rows, table.schema), folder / "train.parquet")
    reseal(folder)
    return folder


def key_of(folder: Path) -> str:
    return str(pq.read_table(folder / "train.parquet")["key"][0])


@pytest.mark.parametrize("components", [3, 4])
@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("loader", LOADERS)
def test_what_is_no_jpeg_is_refused_by_every_loader(
    loader: str, kind: str, components: int, shards: Path, tmp_path: Path, ran: Path
) -> None:
    folder = forged(shards, tmp_path / "forged", STRANGE[kind], components)
    config = LoaderConfig(batch_size=8, workers=1)
    with (
        make_loader(loader, folder, "train", config) as opened,
        pytest.raises(SampleError) as caught,
    ):
        for _ in opened:
            pass
    reason = "its JPEG header can't be read" if "SOI" in kind else "it is no JPEG"
    assert f"sample {key_of(folder)}: {reason}; shard" in str(caught.value)
    assert not ran.exists()


@pytest.mark.parametrize("kind", ["EPS", "EPS behind SOI"])
def test_eps_in_a_folder_is_run_by_nobody(
    kind: str, course: Path, tmp_path: Path, ran: Path
) -> None:
    shutil.copytree(course, tmp_path / "course")
    data = tmp_path / "course" / "data"
    dataset = RetinopathyDataset(data, "train")
    path = Path(dataset.paths[0])
    path.write_bytes(STRANGE[kind])
    with pytest.raises(OSError, match="cannot identify"):
        dataset[0]
    with pytest.raises(ParityError, match="cannot identify"):
        PilReference()(path)
    with pytest.raises(Rejected):
        Preparer()(STRANGE[kind])
    assert not ran.exists()


def test_stand_in_is_started_where_the_kind_is_left_open(ran: Path) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 (whatever comes of no pixels)
        Image.open(io.BytesIO(EPS)).load()
    assert ran.exists()
