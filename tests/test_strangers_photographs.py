"""Photographs and tars of strangers: nothing in them is run, none takes all memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crc32c import crc32c
from PIL import Image

from fastretina.data.labels import LabelOptions, SampleTable, read_table
from fastretina.data.prepare import Preparer, Rejected
from fastretina.data.tar_samples import TarSample
from fastretina.data.whole_tar import check_whole
from fastretina.parity.reference import ParityError, PilReference
from fastretina.predict.reading import Preparation, read_photograph
from fastretina.shard import command as shard
from fastretina.shard.verify import verify
from loaders import LoaderConfig, available, make_loader, open_split
from loaders.decode import Decoder, describe_failure, read_with_pillow
from loaders.errors import LabelError, SampleError, ShardError
from loaders.folder import RetinopathyDataset
from loaders.jpeg_structure import MOST_PHOTOGRAPH
from loaders.manifest import sealed
from loaders.tar import ShardWriter

EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n"
    b"(%pipe%touch bait) (w) file\nshowpage\n%%EOF\n"
)
SIDE = 64


def encoded(kind: str, mode: str = "RGB") -> bytes:
    ramp = np.linspace(0, 255, SIDE * SIDE * 3).astype(np.uint8)
    stream = io.BytesIO()
    image = Image.fromarray(ramp.reshape(SIDE, SIDE, 3))
    image.convert(mode).save(stream, kind)
    return stream.getvalue()


def reason(content: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        Preparer()(content)
    return str(caught.value)


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once ``gs`` has been started."""
    started, programs = tmp_path / "started", tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f'#!/bin/sh\necho "$@" >> {started}\n')
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # to be looked for
    return started


def test_the_stand_in_is_started_by_pillow_left_to_itself(ghostscript: Path) -> None:
    """Or the tests below would say nothing."""
    with pytest.raises(OSError, match=r".+"):
        Image.open(io.BytesIO(EPS)).convert("RGB")
    assert ghostscript.exists()


def shards_with(
    shards: Path,
    folder: Path,
    change: Callable[[bytes], bytes],
    components: int | None,
) -> Path:
    """A copy whose first test image is another, every checksum made to fit it."""
    out = Path(shutil.copytree(shards, folder / "copied"))
    manifest = json.loads((out / "manifest.json").read_text())
    split = manifest["splits"]["test"]
    table = pq.read_table(out / "test.parquet")
    rows = table.to_pylist()
    for number, about in enumerate(split["shards"]):
        tar = out / about["name"]
        content = tar.read_bytes()
        tar.unlink()
        tar.with_suffix(".idx").unlink()
        with ShardWriter(tar) as writer:
            for place, row in enumerate(rows):
                if row["shard"] != number:
                    continue
                jpeg = content[row["offset"] :][: row["size"]]
                if place == 0:
                    jpeg = change(jpeg)
                    if components is not None:
                        row["components"] = components
                label = str(row["label"]).encode()
                members = {"jpg": jpeg, "cls": label, "json": b"{}"}
                row["offset"] = writer.add(row["key"], members)
                row["size"], row["crc32c"] = len(jpeg), crc32c(jpeg)
                row["sha256"] = hashlib.sha256(jpeg).hexdigest()
            written = writer.finish()
        lines = tar.with_suffix(".idx").read_bytes()
        about |= {"bytes": written.num_bytes, "sha256": written.sha256}
        about["index_sha256"] = hashlib.sha256(lines).hexdigest()
    pq.write_table(
        pa.Table.from_pylist(rows, schema=table.schema), out / "test.parquet"
    )
    index = (out / "test.parquet").read_bytes()
    sha256 = hashlib.sha256(index).hexdigest()
    split["index"] = {"bytes": len(index), "sha256": sha256}
    (out / "manifest.json").write_text(json.dumps(sealed(manifest)))
    return out


def deliver(name: str, folder: Path) -> dict[int, np.ndarray]:
    config = LoaderConfig(batch_size=4, workers=0 if name == "pil" else 1)
    images: dict[int, np.ndarray] = {}
    with make_loader(name, folder, "test", config) as loader:
        for batch in loader:
            images |= zip(batch.index.tolist(), batch.images.numpy(), strict=True)
    return images


@pytest.mark.parametrize("components", [None, 1, 4])
@pytest.mark.parametrize("kind", ["EPS", "PNG"])
@pytest.mark.parametrize("name", available())
def test_what_is_no_jpeg_in_a_shard_is_refused_by_all_in_the_same_words(
    name: str,
    kind: str,
    components: int | None,
    shards: Path,
    tmp_path: Path,
    ghostscript: Path,
) -> None:
    with open_split(shards, "test") as split:
        height, width = split.dimensions[0]

    def other(jpeg: bytes) -> bytes:
        if kind == "EPS":
            return EPS.replace(b"64 64", f"{width} {height}".encode())
        stream = io.BytesIO()
        Image.open(io.BytesIO(jpeg)).save(stream, kind)
        return stream.getvalue()

    copied = shards_with(shards, tmp_path, other, components)
    with pytest.raises(SampleError) as caught:
        deliver(name, copied)
    assert caught.value.reason == "it is no JPEG"
    assert not ghostscript.exists()


@pytest.mark.parametrize(
    ("mode", "told"), [("RGB", 4), ("L", 3), ("RGB", 1), ("CMYK", 3)]
)
@pytest.mark.parametrize("name", available())
def test_components_that_an_index_lies_about_change_no_pixel(
    name: str, mode: str, told: int, shards: Path, tmp_path: Path
) -> None:
    changed: list[bytes] = []

    def again(jpeg: bytes) -> bytes:
        stream = io.BytesIO()
        Image.open(io.BytesIO(jpeg)).convert(mode).save(stream, "JPEG")
        changed.append(stream.getvalue())
        return changed[0]

    copied = shards_with(shards, tmp_path, again, told)
    expected = np.asarray(Image.open(io.BytesIO(changed[0])).convert("RGB"))
    assert np.array_equal(deliver(name, copied)[0], expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_decoders_agree_on_pixels_and_on_words(mode: str) -> None:
    jpeg = encoded("JPEG", mode)
    out = np.empty((SIDE, SIDE, 3), np.uint8)
    Decoder()(jpeg, out)
    expected = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    assert np.array_equal(out, expected)
    for broken in (jpeg[:-200], EPS, encoded("PNG"), b""):
        with pytest.raises(ValueError, match=r".+") as caught:
            Decoder()(broken, out)
        with pytest.raises(ValueError, match=r".+") as plain:
            read_with_pillow(broken)
        said = describe_failure(caught.value, broken)
        assert said == describe_failure(plain.value, broken)


def as_photograph(course: Path, tmp_path: Path, content: bytes) -> Path:
    root = Path(shutil.copytree(course, tmp_path / "set"))
    name = (root / "train_img.csv").read_text().split()[0]
    (root / "data" / f"{name}.jpeg").write_bytes(content)
    return root / "data" / f"{name}.jpeg"


def test_no_folder_starts_ghostscript(
    course: Path, tmp_path: Path, ghostscript: Path
) -> None:
    photograph = as_photograph(course, tmp_path, EPS)
    dataset = RetinopathyDataset(photograph.parent, "train")
    with pytest.raises(SampleError, match="no JPEG, PNG, TIFF or WebP") as caught:
        dataset[0]
    assert photograph.name in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ParityError, match=f"{photograph.name} can't be decoded"):
        PilReference()(photograph)
    assert "no JPEG, PNG, TIFF or WebP" in reason(EPS)
    read = read_photograph(photograph, Preparation((), None, (SIDE, SIDE), True))
    assert "no JPEG, PNG, TIFF or WebP" in read.error
    assert not ghostscript.exists()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_kinds_that_are_taken_are_read_from_a_folder(
    kind: str, course: Path, tmp_path: Path
) -> None:
    content = encoded(kind)
    photograph = as_photograph(course, tmp_path, content)
    image, _ = RetinopathyDataset(photograph.parent, "train")[0]
    expected = Image.open(io.BytesIO(content)).convert("RGB")
    assert np.array_equal(np.asarray(image), np.asarray(expected))


# --- sizes that are claimed ----------------------------------------------------------


def old_sparse(name: bytes, size: int) -> bytes:
    """The header of GNU tar's old sparse member: a hole and no bytes."""

    def number(value: int) -> bytes:
        large = b"\x80" + value.to_bytes(11, "big")
        return b"%011o\0" % value if value < 8**11 else large

    head = bytearray(512)
    head[: len(name)] = name
    head[100:107], head[124:135], head[136:147] = b"0000644", b"0" * 11, b"0" * 11
    head[156:157], head[257:265] = b"S", b"ustar  \0"
    head[386:398], head[398:410], head[483:495] = number(size), number(0), number(size)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def pax_sparse(records: dict[str, str]) -> bytes:
    with tarfile.open(fileobj=(stream := io.BytesIO()), mode="w") as tar:
        member = tarfile.TarInfo("1_left.jpg")
        member.pax_headers = records
        member.size = 1024
        tar.addfile(member, io.BytesIO(b"1\n0\n0\n".ljust(1024, b"\0")))
    return stream.getvalue()


SPARSE = {
    "old": old_sparse(b"1_left.jpg", 3_000_000_000) + bytes(1024),
    "0.0": pax_sparse(
        {"GNU.sparse.size": "3000000000", "GNU.sparse.numblocks": "0"},
    ),
    "0.1": pax_sparse({"GNU.sparse.size": "3000000000", "GNU.sparse.map": "0,0"}),
    "1.0": pax_sparse(
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        | {"GNU.sparse.realsize": "3000000000", "GNU.sparse.name": "1_left.jpg"},
    ),
}


@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_members_are_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(SPARSE[kind])
    with pytest.raises(LabelError, match=r"x\.tar: '1_left\.jpg' is sparse"):
        check_whole(tmp_path / "x.tar")


def test_sharding_refuses_a_sparse_member_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tars = tmp_path / "tars"
    tars.mkdir()
    (tars / "x.tar").write_bytes(SPARSE["old"])
    assert shard.main([str(tars), str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "is sparse" in line


def test_verification_refuses_a_sparse_member(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(shards, tmp_path / "copied"))
    tar = copied / "test-000000.tar"
    name = tar.read_bytes()[:100].rstrip(b"\0")
    size = tar.stat().st_size
    tar.write_bytes(old_sparse(name, 3_000_000_000).ljust(size, b"\0"))
    with pytest.raises(ShardError, match="damaged"):
        verify(copied, workers=1)
    shown = capsys.readouterr().out
    assert f"test-000000.tar: {name.decode()!r} is sparse" in shown


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def with_holes(path: Path, members: list[tuple[str, int, bytes]]) -> Path:
    """A tar of members that take no place on the disk."""
    with path.open("wb") as file:
        for name, size, kind in members:
            file.write(header(name, size, kind))
            file.seek(size + -size % 512, os.SEEK_CUR)
        file.truncate(file.tell() + 1024)
    return path


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("1_left.jpg", MOST_PHOTOGRAPH + 1)], "'1_left.jpg' has 536,870,913 bytes"),
        ([(f"1.{n}.jpg", MOST_PHOTOGRAPH) for n in range(17)], "'1' has 9,126,805,504"),
    ],
)
def test_members_beyond_the_limits_are_refused(
    members: list[tuple[str, int]], words: str, tmp_path: Path
) -> None:
    held = [(name, size, tarfile.REGTYPE) for name, size in members]
    with pytest.raises(LabelError, match=words):
        check_whole(with_holes(tmp_path / "x.tar", held))
    if len(members) > 1:
        check_whole(with_holes(tmp_path / "x.tar", held[:-1]))


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME]
)
def test_headers_beyond_the_limit_are_not_read(kind: bytes, tmp_path: Path) -> None:
    tar = with_holes(tmp_path / "x.tar", [("x", 3_000_000_000, kind)])
    with pytest.raises(LabelError, match="a header has 3,000,000,000 bytes"):
        check_whole(tar)


def test_long_names_and_attributes_are_read_as_before(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "x.tar", "w", format=form) as tar:
            member = tarfile.TarInfo("ä" * 300 + ".jpg")
            tar.addfile(member)
        check_whole(tmp_path / "x.tar")


def test_photograph_beyond_the_limit_is_an_error_and_is_not_read(
    course: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph = as_photograph(course, tmp_path, b"")
    os.truncate(photograph, 3_000_000_000)
    read = read_photograph(photograph, Preparation((), None, (SIDE, SIDE), True))
    assert read.error == "Has 3,000,000,000 bytes, and 536,870,912 may be read"
    with pytest.raises(OSError, match=photograph.name):
        PilReference()(photograph)
    with pytest.raises(OSError, match=photograph.name):
        RetinopathyDataset(photograph.parent, "train")[0]
    out = tmp_path / "out"
    assert shard.main([str(photograph.parents[1]), str(out), "--workers", "1"]) == 0
    (image,) = json.loads((out / "manifest.json").read_text())["quarantine"]
    assert image["reason"] == "3,000,000,000 bytes, and 536,870,912 may be read"


# --- time that is claimed ------------------------------------------------------------


def test_frames_of_a_tiff_are_not_counted() -> None:
    values = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: 8, 279: 64}
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in values.items())
    size, frames = 2 + len(tags) + 4, 110_000
    tiff = bytearray(b"II*\0" + struct.pack("<I", 8))
    for number in range(1, frames + 1):
        after = 8 + number * size if number < frames else 0
        tiff += struct.pack("<H", len(values)) + tags + struct.pack("<I", after)
    begin = time.perf_counter()
    assert "holds several images" in reason(bytes(tiff))
    assert time.perf_counter() - begin < 5  # 52 s where they are counted


def unpacked(folder: Path, members: list[tuple[str, bytes]]) -> SampleTable:
    (folder / "tars").mkdir(parents=True)
    with tarfile.open(folder / "tars" / "x.tar", "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (folder / "unpacked").mkdir()
    return read_table(
        folder / "tars", LabelOptions(), unpack_to=lambda: folder / "unpacked"
    )


def test_names_of_one_stem_are_told_apart_by_number(tmp_path: Path) -> None:
    names = [f"{a}{b}" for a in "一二三" for b in "左右"]
    members = [
        (f"{name}.{suffix}", content)
        for name in names
        for suffix, content in (("png" if "三" in name else "jpg", b""), ("cls", b"0"))
    ]
    unpacked(tmp_path, members)
    found = sorted(path.name for path in (tmp_path / "unpacked").iterdir())
    jpegs = ["--.1.jpg", "--.2.jpg", "--.3.jpg", "--.jpg"]
    assert found == sorted([*jpegs, "--.1.png", "--.png"])


def test_many_names_of_one_stem_take_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []
    exists = Path.exists

    def counted(path: Path) -> bool:
        looked.append(path)
        return exists(path)

    monkeypatch.setattr(Path, "exists", counted)
    letters = [chr(0x4E00 + number) for number in range(400)]
    unpacked(
        tmp_path,
        [(f"{c}.{s}", b"0") for c in letters for s in ("jpg", "cls")],
    )
    assert len(looked) < 3 * len(letters)


def test_json_of_a_sample_is_parsed_once_and_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed = []

    def parse(content: bytes) -> object:
        parsed.append(content)
        return json.loads(content)

    monkeypatch.setattr("fastretina.data.tar_samples.parse_json", parse)
    sample = TarSample(Path("x.tar"), "1", {"json": b'{"grade": 3}'})
    assert sample.grade() == 3
    assert sample.about == {"grade": 3}
    assert len(parsed) == 1
    monkeypatch.setattr("fastretina.data.tar_samples.MOST_JSON", 11)
    with pytest.raises(LabelError, match="12 bytes are more than 11"):
        TarSample(Path("x.tar"), "1", {"json": b'{"grade": 3}'}).grade()
