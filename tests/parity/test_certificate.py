"""``fastretina.parity``: a sound loader gets its certificate, a broken one is named."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
import torch
from drawn_photographs import drawn_course
from PIL import Image, ImageOps
from resealed import read_json, reseal, write_sealed
from small_runs import Outcome, call, make_small, words
from torch import nn

import loaders
from fastretina.nn import trained
from fastretina.parity import command as parity
from fastretina.parity.differences import Bound, Tally, bound_for, difference
from fastretina.parity.equivalence import (
    SidePredictions,
    difference_intervals,
    verdict,
)
from fastretina.parity.reference import PilReference
from fastretina.shard import command as shard
from fastretina.train import command as train
from loaders import Batch, Decoding, available, open_split

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

ROW = 12  # the training sample that is broken on purpose
INDEXED = [name for name in available() if not loaders.LOADERS[name].own_order]
Certifies = Callable[..., Outcome]
Change = Callable[[Batch], Batch]


@pytest.fixture
def certifies(capsys: pytest.CaptureFixture[str]) -> Certifies:
    def run(data: Path, shards: Path | str, *flags: object) -> Outcome:
        argv = ["--data", data, "--shards", shards, "--device", "cpu", "--workers", 1]
        return call(parity.main, [str(word) for word in (*argv, *flags)], capsys)

    return run


def summary(outcome: Outcome) -> dict[str, Any]:
    """The JSON line, which is there whatever the exit code."""
    found: dict[str, Any] = json.loads(outcome.out[-1])
    assert found["equal"] is (outcome.code == 0)
    return found


def faults(outcome: Outcome, split: str = "train") -> dict[str, list[str]]:
    """The keys of each fault; the report and the one line on stderr name the first."""
    assert outcome.code == 1
    found = summary(outcome)["splits"][split]["faults"]
    text = "\n".join(outcome.out[:-1])
    for name, fault in found.items():
        assert f"{split}: {name}, {fault['samples']:,} sample" in text
        assert fault["keys"][0] in text
    assert "does not equal plain PIL" in outcome.complaint
    return {name: fault["keys"] for name, fault in found.items()}


def key_of(shards: Path, row: int = ROW, split: str = "train") -> str:
    with open_split(shards, split) as opened:
        return opened.key(row)


# ---- what is sound


@pytest.mark.parametrize("name", available())
def test_every_loader_is_exact(
    name: str, course: Path, shards: Path, certifies: Certifies
):
    outcome = certifies(course, shards, "--loader", name)
    notes = ["note: DALI decodes on the CPU, as the device is cpu"]
    assert outcome.err == (notes if name.startswith("dali") else [])
    assert outcome.code == 0
    found = summary(outcome)
    assert found["exact"] is True
    assert found["loader"] == name
    for split, samples in (("train", 37), ("test", 11)):
        part = found["splits"][split]
        assert (part["samples"], part["delivered"]) == (samples, samples)
        assert part["faults"] == {}
        pixels = part["as_they_were"]
        assert (pixels["images"], pixels["exact_images"]) == (samples, samples)
        assert (pixels["largest"], pixels["mean"], pixels["worst_key"]) == (0, 0, None)
        assert pixels["exact_values_share"] == 1
        assert "encoded_again" not in part
    assert outcome.out[-2] == (
        f"{name} equals plain PIL exactly: every sample once, its label, and every "
        "value of its pixels"
    )


@pytest.mark.parametrize("name", available())
def test_every_loader_resizes_within_its_bound(
    name: str, course: Path, shards: Path, certifies: Certifies
):
    outcome = certifies(course, shards, "--loader", name, "--image-size", 48)
    assert outcome.code == 0, outcome.err
    pixels = summary(outcome)["splits"]["train"]["as_they_were"]
    largest, mean = pixels["bound"]
    assert largest == {"pil": 0, "turbo": 2, "webdataset": 2}.get(name, 32)
    assert pixels["largest"] <= largest
    assert pixels["mean"] <= mean
    assert (pixels["worst_key"] is None) is (pixels["largest"] == 0)


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_split_alone(split: str, course: Path, shards: Path, certifies: Certifies):
    assert list(summary(certifies(course, shards, "--split", split))["splits"]) == [
        split
    ]


def test_shards_on_a_web_server(course: Path, shards: Path, certifies: Certifies):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(shards))
    ) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        outcome = certifies(course, url, "--loader", "webdataset")
        server.shutdown()
        thread.join()
    assert summary(outcome)["exact"] is True


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of every kind, as a folder per grade in train and test."""
    root = tmp_path_factory.mktemp("odd")
    image = Image.open(io.BytesIO(picture(3)))
    turned = Image.Exif()
    turned[0x0112] = 6
    for split in ("train", "test"):
        folder = root / split / "2"
        folder.mkdir(parents=True)
        image.save(folder / f"{split}-progressive.jpg", progressive=True)
        image.convert("L").save(folder / f"{split}-grey.jpg")
        image.convert("CMYK").save(folder / f"{split}-cmyk.jpg")
        image.save(folder / f"{split}-turned.jpg", exif=turned, quality=95)
        image.save(folder / f"{split}-png.png")
        image.convert("P").save(folder / f"{split}-palette.png")
        (folder / f"{split}-broken.jpg").write_bytes(picture(4)[:900])
    return root


def picture(seed: int, size: int = 64) -> bytes:
    """A smooth JPEG that no turning or mirroring leaves as it is."""
    rng = np.random.Generator(np.random.PCG64(seed))
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    out = io.BytesIO()
    coarse.resize((size, size), Image.Resampling.BICUBIC).save(out, "JPEG", quality=92)
    return out.getvalue()


def sharded(data: Path, folder: Path, *flags: object) -> Path:
    argv = [data, folder, "--workers", 1, *flags]
    assert shard.main([str(word) for word in argv]) == 0
    return folder


@pytest.mark.parametrize("name", available())
def test_images_of_every_kind(
    name: str, odd: Path, tmp_path: Path, certifies: Certifies
):
    outcome = certifies(odd, sharded(odd, tmp_path / "shards"), "--loader", name)
    assert outcome.code == 0, outcome.err
    part = summary(outcome)["splits"]["train"]
    assert (part["samples"], part["set_aside"]) == (6, 1)
    assert part["as_they_were"]["images"] == 2
    assert part["as_they_were"]["largest"] == 0
    assert part["encoded_again"]["images"] == 4
    assert 0 < part["encoded_again"]["largest"] < 48
    assert summary(outcome)["exact"] is False
    assert "1 set aside when they were sharded" in "\n".join(outcome.out)
    assert "its pixels within the bound" in outcome.out[-2]


@pytest.mark.parametrize(
    "how",
    [
        ("--preprocess", "crop,clahe,graham", "--size", 48),
        ("--preprocess", "clahe"),
        ("--size", 32),
        ("--size", 64),
    ],
)
def test_preprocessed_shards(
    how: tuple[object, ...], course: Path, tmp_path: Path, certifies: Certifies
):
    made = sharded(course, tmp_path / "shards", *how)
    outcome = certifies(course, made, "--image-size", 40)
    assert outcome.code == 0, outcome.err
    part = summary(outcome)["splits"]["train"]
    kind = "as_they_were" if how == ("--size", 64) else "encoded_again"
    assert part[kind]["images"] == 37


def test_shards_preprocessed_in_another_way(
    course: Path, tmp_path: Path, certifies: Certifies
):
    """As if sharding had left out a step: the manifest promises CLAHE."""
    made = sharded(course, tmp_path / "shards")
    manifest = read_json(made)
    manifest["preprocessing"]["steps"] = ["clahe"]
    write_sealed(made, manifest)
    assert set(faults(certifies(course, made))) == {"differs"}


def test_shards_of_the_tars_of_other_shards(
    course: Path, shards: Path, tmp_path: Path, certifies: Certifies
):
    """Whose photographs lie in another layout."""
    tars = tmp_path / "tars"
    tars.mkdir()
    for tar in shards.glob("*.tar"):
        shutil.copy(tar, tars)
    made = sharded(tars, tmp_path / "shards")
    assert summary(certifies(course, made))["exact"] is True


@pytest.mark.parametrize("drawn", [("--seed", 5), ("--test-share", 0.5)])
def test_split_that_was_drawn_when_sharding(
    drawn: tuple[object, ...], course: Path, tmp_path: Path, certifies: Certifies
):
    """Labels without a test split: the one of the shards is taken."""
    data = tmp_path / "data"
    shutil.copytree(course / "data", data)
    rows = [("image", "level")]
    rows += [(path.stem, n % 5) for n, path in enumerate(sorted(data.glob("*")))]
    with (data / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    made = sharded(data, tmp_path / "shards", *drawn)
    assert summary(certifies(data, made))["exact"] is True
    named = certifies(data, made, "--labels", data / "labels.csv")
    assert summary(named)["exact"] is True


def test_all_real_photographs(real_data: Path, tmp_path: Path, certifies: Certifies):
    data = real_data / "retina512"
    made = sharded(data, tmp_path / "shards")
    outcome = certifies(data, made, "--loader", "turbo", "--workers", 2)
    found = summary(outcome)
    assert found["exact"] is True
    delivered = [part["delivered"] for part in found["splits"].values()]
    assert delivered == [866, 217]


def test_all_drawn_photographs(tmp_path: Path, certifies: Certifies):
    splits = {"train": range(12), "test": range(12, 20)}
    data = drawn_course(tmp_path / "data", splits, size=256)
    made = sharded(data, tmp_path / "shards")
    found = summary(certifies(data, made, "--loader", "turbo", "--workers", 2))
    assert found["exact"] is True
    delivered = [part["delivered"] for part in found["splits"].values()]
    assert delivered == [24, 16]


# ---- what is broken on purpose


class Broken:
    """A loader with something done to each of its training batches."""

    def __init__(self, loader: Any, change: Change) -> None:
        self._loader, self._change = loader, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __enter__(self) -> Broken:
        return self

    def __exit__(self, *_: object) -> None:
        self._loader.close()

    def epoch(self, number: int) -> Iterator[Batch]:
        for batch in self._loader.epoch(number):
            yield self._change(Batch(*(part.clone() for part in batch)))


Breaks = Callable[..., None]


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Breaks:
    make = loaders.make_loader

    def run(change: Change, wanted: str = "train") -> None:
        def broken(name: str, source: Any, split: str, config: Any) -> Any:
            loader = make(name, source, split, config)
            return Broken(loader, change) if split == wanted else loader

        monkeypatch.setattr("fastretina.data.loading.make_loader", broken)

    return run


def on_row(change: Callable[[torch.Tensor], torch.Tensor], row: int = ROW) -> Change:
    """Change the image of one row, uint8[H, W, 3]."""

    def changed(batch: Batch) -> Batch:
        for place in np.flatnonzero(batch.index.numpy() == row).tolist():
            batch.images[place] = change(batch.images[place].clone())
        return batch

    return changed


MISTAKES = {
    "channels swapped (BGR)": lambda image: image.flip(2),
    "mirrored left-right": lambda image: image.flip(1),
    "mirrored upside-down": lambda image: image.flip(0),
    "mirrored at the diagonal": lambda image: image.transpose(0, 1),
    "mirrored at the other diagonal": lambda image: image.flip(0, 1).transpose(0, 1),
    "turned by 90 degrees": lambda image: torch.rot90(image, -1, (0, 1)),
    "turned by 180 degrees": lambda image: image.flip(0, 1),
    "turned by 270 degrees": lambda image: torch.rot90(image, 1, (0, 1)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_rearranged_image_is_named(
    mistake: str, course: Path, shards: Path, certifies: Certifies, breaks: Breaks
):
    breaks(on_row(MISTAKES[mistake]))
    outcome = certifies(course, shards)
    assert faults(outcome) == {mistake: [key_of(shards)]}
    assert summary(outcome)["splits"]["test"]["faults"] == {}


@pytest.mark.parametrize("size", [(), ("--image-size", 40)])
@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize(
    "mistake", ["channels swapped (BGR)", "mirrored left-right", "turned by 90 degrees"]
)
def test_mistake_of_any_loader_is_named(
    name: str,
    mistake: str,
    size: tuple[object, ...],
    course: Path,
    shards: Path,
    certifies: Certifies,
    breaks: Breaks,
):
    breaks(on_row(MISTAKES[mistake]))
    outcome = certifies(course, shards, "--loader", name, "--split", "train", *size)
    assert faults(outcome) == {mistake: [key_of(shards)]}


def test_mistake_on_every_image_is_counted(
    course: Path, shards: Path, certifies: Certifies, breaks: Breaks
):
    def swapped(batch: Batch) -> Batch:
        return batch._replace(images=batch.images.flip(3))

    breaks(swapped)
    outcome = certifies(course, shards)
    first = [key_of(shards, row) for row in range(5)]
    assert faults(outcome) == {"channels swapped (BGR)": first}
    assert "channels swapped (BGR), 37 samples: " in outcome.complaint
    part = summary(outcome)["splits"]["train"]
    assert part["as_they_were"]["exact_images"] == 0
    assert part["as_they_were"]["largest"] > 100


@pytest.mark.parametrize(
    ("nearest", "fast", "mistake"),
    [
        (True, False, "nearest chroma upsampling"),
        (False, True, "fast DCT"),
        (True, True, "nearest chroma upsampling and fast DCT"),
    ],
)
def test_decoder_in_a_hurry_is_named(
    nearest: bool,
    fast: bool,
    mistake: str,
    course: Path,
    shards: Path,
    certifies: Certifies,
    breaks: Breaks,
):
    with open_split(shards, "train") as split:
        jpeg = bytes(split.read(ROW))
    hasty = simplejpeg.decode_jpeg(jpeg, fastupsample=nearest, fastdct=fast)
    breaks(on_row(lambda _: torch.from_numpy(hasty)))
    assert faults(certifies(course, shards)) == {mistake: [key_of(shards)]}


def test_image_of_another_sample_is_named_with_its_owner(
    course: Path, shards: Path, certifies: Certifies, breaks: Breaks
):
    def mixed_up(batch: Batch) -> Batch:
        if len(batch.index) > 20:
            batch.images[12], batch.images[20] = batch.images[20], batch.images[20]
        return batch

    breaks(mixed_up)
    outcome = certifies(course, shards)
    one, other = key_of(shards, 12), key_of(shards, 20)
    assert faults(outcome) == {"another sample's image": [one]}
    assert f"{one} ({other}'s)" in outcome.complaint


@pytest.mark.parametrize("name", INDEXED)
def test_index_that_points_to_another_image(
    name: str, course: Path, shards: Path, tmp_path: Path, certifies: Certifies
):
    doctored = Path(shutil.copytree(shards, tmp_path / "doctored"))
    about = ("key", "label", "patient", "eye", "sha256")

    def exchange(row: dict[str, Any], rows: list[Any]) -> dict[str, Any]:
        other = rows[13]
        rows[13] = other | {name: row[name] for name in about}
        return row | {name: other[name] for name in about}

    edit(doctored, exchange)
    found = faults(certifies(course, doctored, "--loader", name))
    both = [key_of(shards, 13), key_of(shards, 12)]  # as they come in the index now
    assert found == {"another sample's image": both}


def edit(
    folder: Path, change: Callable[[dict[str, Any], list[Any]], dict[str, Any]]
) -> None:
    """Change the row ``ROW`` of the training index."""
    table = pq.read_table(folder / "train.parquet")
    rows = table.to_pylist()
    rows[ROW] = change(rows[ROW], rows)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), folder / "train.parquet")
    reseal(folder)


def test_damaged_image_differs(
    course: Path, shards: Path, certifies: Certifies, breaks: Breaks
):
    def damaged(image: torch.Tensor) -> torch.Tensor:
        image[:8, :8] = 0
        return image

    breaks(on_row(damaged))
    outcome = certifies(course, shards)
    assert faults(outcome) == {"differs": [key_of(shards)]}
    pixels = summary(outcome)["splits"]["train"]["as_they_were"]
    assert pixels["worst_key"] == key_of(shards)
    assert pixels["exact_images"] == 36
    largest, mean = pixels["largest"], pixels["mean"] * 37
    wanted = f"{key_of(shards)} (largest {largest}, mean {mean:.2g})"
    assert outcome.complaint.endswith(wanted)
    assert 0.998 < pixels["exact_values_share"] < 1


def test_one_value_off_by_one_is_enough(
    course: Path, shards: Path, certifies: Certifies, breaks: Breaks
):
    def nudged(image: torch.Tensor) -> torch.Tensor:
        image[5, 7, 1] ^= 1
        return image

    breaks(on_row(nudged))
    outcome = certifies(course, shards)
    assert faults(outcome) == {"differs": [key_of(shards)]}
    (line,) = [line for line in outcome.out if line.startswith("train, as they were")]
    assert "99.99 %" in line  # never rounded to all of them


@pytest.mark.parametrize("name", INDEXED)
def test_wrong_label_in_the_index(
    name: str, course: Path, shards: Path, tmp_path: Path, certifies: Certifies
):
    doctored = Path(shutil.copytree(shards, tmp_path / "doctored"))
    edit(doctored, lambda row, _: row | {"label": 3})
    outcome = certifies(course, doctored, "--loader", name)
    assert faults(outcome) == {"wrong label": [key_of(shards)]}
    assert f"{key_of(shards)} (3, not 0)" in outcome.complaint


@pytest.mark.parametrize("name", available())
def test_wrong_label_from_the_loader(
    name: str, course: Path, shards: Path, certifies: Certifies, breaks: Breaks
):
    def relabelled(batch: Batch) -> Batch:
        batch.labels[batch.index == ROW] += 1
        return batch

    breaks(relabelled)
    outcome = certifies(course, shards, "--loader", name, "--split", "train")
    assert faults(outcome) == {"wrong label": [key_of(shards)]}


@pytest.fixture
def damaged(shards: Path, tmp_path: Path) -> Path:
    """The shards with 200 bytes of one image lost."""
    folder = Path(shutil.copytree(shards, tmp_path / "damaged"))
    row = pq.read_table(folder / "train.parquet").slice(ROW, 1).to_pylist()[0]
    with (folder / f"train-{row['shard']:06d}.tar").open("r+b") as tar:
        tar.seek(row["offset"])
        tar.write(bytes(200))
    return folder


def test_image_that_cant_be_decoded_ends_it(
    course: Path, damaged: Path, certifies: Certifies
):
    outcome = certifies(course, damaged)
    assert (outcome.code, len(outcome.err), outcome.out) == (1, 1, [])
    assert f"sample {key_of(damaged)}: " in outcome.complaint


def test_skipped_image_is_named_and_lost(
    course: Path, damaged: Path, certifies: Certifies
):
    outcome = certifies(course, damaged, "--on-corrupt", "skip")
    assert faults(outcome) == {"lost sample": [key_of(damaged)]}
    skipped, _ = outcome.err
    assert skipped.startswith("skipped: ")
    assert f"sample {key_of(damaged)}: " in skipped


def without(batch: Batch, row: int = ROW) -> Batch:
    kept = batch.index != row
    return Batch(*(part[kept] for part in batch))


def with_twice(batch: Batch, row: int = ROW) -> Batch:
    again = batch.index == row
    return Batch(*(torch.cat([part, part[again]]) for part in batch))


@pytest.mark.parametrize("name", available())
def test_lost_sample_is_named(
    name: str, course: Path, shards: Path, certifies: Certifies, breaks: Breaks
):
    breaks(without)
    outcome = certifies(course, shards, "--loader", name, "--split", "train")
    assert faults(outcome) == {"lost sample": [key_of(shards)]}
    assert summary(outcome)["splits"]["train"]["delivered"] == 36


@pytest.mark.parametrize("name", available())
def test_doubled_sample_is_named(
    name: str, course: Path, shards: Path, certifies: Certifies, breaks: Breaks
):
    breaks(with_twice)
    outcome = certifies(course, shards, "--loader", name, "--split", "train")
    assert faults(outcome) == {"doubled sample": [key_of(shards)]}
    assert f"{key_of(shards)} (2 times)" in outcome.complaint


def test_row_that_the_index_lacks_is_unknown(
    course: Path, shards: Path, certifies: Certifies, breaks: Breaks
):
    def renumbered(batch: Batch) -> Batch:
        batch.index[batch.index == ROW] = 1000
        return batch

    breaks(renumbered)
    found = faults(certifies(course, shards))
    assert found == {"unknown sample": ["row 1000"], "lost sample": [key_of(shards)]}


def test_two_faults_at_once(
    course: Path, shards: Path, certifies: Certifies, breaks: Breaks
):
    breaks(lambda batch: without(with_twice(batch, 3), 4))
    outcome = certifies(course, shards)
    assert faults(outcome) == {
        "lost sample": [key_of(shards, 4)],
        "doubled sample": [key_of(shards, 3)],
    }
    assert outcome.complaint.endswith("(and 1 more)")


@pytest.fixture
def shorter(course: Path, tmp_path: Path) -> tuple[Path, str]:
    """The folder with its first training sample taken off the list, and which one."""
    folder = Path(shutil.copytree(course, tmp_path / "shorter"))
    for name in ("train_img.csv", "train_label.csv"):
        first, _, rest = (folder / name).read_text().partition("\n")
        (folder / name).write_text(rest)
        if name == "train_img.csv":
            lost = first
    return folder, lost


def test_sample_lost_when_sharding(
    course: Path, shorter: tuple[Path, str], tmp_path: Path, certifies: Certifies
):
    made = sharded(shorter[0], tmp_path / "made")
    assert faults(certifies(course, made)) == {"lost sample": [shorter[1]]}


def test_sample_that_the_folder_does_not_list(
    shorter: tuple[Path, str], shards: Path, certifies: Certifies
):
    found = faults(certifies(shorter[0], shards))
    assert found == {"unknown sample": [shorter[1]]}


def test_sample_in_the_wrong_split(
    course: Path, shards: Path, tmp_path: Path, certifies: Certifies
):
    moved = Path(shutil.copytree(course, tmp_path / "moved"))
    for kind in ("img", "label"):
        head, _, rest = (moved / f"train_{kind}.csv").read_text().partition("\n")
        (moved / f"train_{kind}.csv").write_text(rest)
        test = moved / f"test_{kind}.csv"
        test.write_text(f"{test.read_text()}{head}\n")
    outcome = certifies(moved, shards)
    assert faults(outcome, "train") == {"unknown sample": ["10_left"]}
    assert faults(outcome, "test") == {"lost sample": ["10_left"]}


def test_orientation_that_sharding_did_not_see(
    odd: Path, tmp_path: Path, certifies: Certifies, monkeypatch: pytest.MonkeyPatch
):
    """The reference must not take sharding's word for what is upright."""
    with monkeypatch.context() as patch:
        patch.setattr("fastretina.data.prepare._by_segments", lambda _: (1, True))
        made = sharded(odd, tmp_path / "shards")
    assert faults(certifies(odd, made)) == {"turned by 270 degrees": ["train-turned"]}


@pytest.mark.parametrize("orientation", range(10))
def test_reference_turns_as_pillow_does(orientation: int, tmp_path: Path):
    path, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(io.BytesIO(picture(1))).resize((64, 40))
    image.save(path, exif=exif)
    with Image.open(path) as opened:
        wanted = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    found = PilReference()(path)
    assert np.array_equal(found.pixels, wanted)
    assert found.encoded_again is (2 <= orientation <= 8)


def test_orientation_in_xmp_alone_is_followed_as_pillow_does(
    course: Path, tmp_path: Path, certifies: Certifies
):
    data = Path(shutil.copytree(course, tmp_path / "data"))
    path = data / "data" / "10_left.jpeg"
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    segment = b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp
    jpeg = path.read_bytes()
    path.write_bytes(jpeg[:2] + segment + jpeg[2:])
    with Image.open(path) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = PilReference()(path)
    assert np.array_equal(found.pixels, wanted)
    assert found.encoded_again
    outcome = summary(certifies(data, sharded(data, tmp_path / "made")))
    part = outcome["splits"]["train"]
    assert part["encoded_again"]["images"] == 1
    assert part["as_they_were"]["largest"] == 0


# ---- numbers


def test_difference_counts_what_differs():
    wanted = np.zeros((2, 2, 3), np.uint8)
    delivered = wanted.copy()
    delivered[0, 0] = (255, 3, 0)
    found = difference(delivered, wanted)
    assert found == (255, 258 / 12, 12, 10)
    assert difference(wanted, wanted) == (0, 0.0, 12, 12)
    assert difference(wanted[:1], wanted) == (255, 255.0, 12, 0)
    tally = Tally()
    tally.add("one", found)
    tally.add("other", difference(wanted, wanted))
    assert tally.mean == 258 / 24
    assert tally.worst == (255, 258 / 12, "one")
    assert (tally.images, tally.exact_images, tally.exact_values) == (2, 1, 22)


@pytest.mark.parametrize(
    ("jpeg", "resize", "again", "bound"),
    [
        ("libjpeg-turbo", None, False, (0, 0.0)),
        ("libjpeg-turbo", "Pillow", False, (0, 0.0)),
        ("libjpeg-turbo", "torch", False, (2, 0.1)),
        ("libjpeg-turbo", "DALI", False, (32, 0.5)),
        ("nvJPEG, fancy upsampling", None, False, (4, 0.05)),
        ("nvJPEG, fancy upsampling", "DALI", False, (36, 0.55)),
        ("libjpeg-turbo", None, True, (48, 4.0)),
        ("libjpeg-turbo", "DALI", True, (80, 4.5)),
        ("another decoder", "another way", False, (0, 0.0)),
    ],
)
def test_bound_follows_from_who_decodes(
    jpeg: str, resize: str | None, again: bool, bound: tuple[int, float]
):
    decoding = Decoding("some package 1.0", jpeg, resize)
    assert bound_for(decoding, encoded_again=again) == bound


def test_bound_holds_for_largest_and_mean_alike():
    bound = Bound(8, 1.0)
    some = difference(np.full((4, 4, 3), 1, np.uint8), np.zeros((4, 4, 3), np.uint8))
    assert bound.allows(some)
    assert not bound.allows(some._replace(largest=9))
    assert not bound.allows(some._replace(mean=1.01))


def side(labels: np.ndarray, predicted: np.ndarray) -> SidePredictions:
    return SidePredictions(labels, np.eye(5, dtype=np.float32)[predicted])


def test_intervals_of_a_known_difference():
    """A tenth of the predictions turned wrong: 0.1, give or take 2 standard errors."""
    rng = np.random.Generator(np.random.PCG64(4))
    labels = rng.integers(0, 5, 2000)
    worse = np.where(np.arange(2000) % 10 == 0, (labels + 1) % 5, labels)
    one, other = side(labels, worse), side(labels, labels)
    low, high = difference_intervals(one, other)["accuracy"]
    assert low < -0.1 < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.1 * 0.9 / 2000), rel=0.1)
    assert difference_intervals(one, other) == difference_intervals(one, other)
    assert difference_intervals(one, one) == {"accuracy": [0, 0], "qwk": [0, 0]}
    assert difference_intervals(other, one)["qwk"][0] > 0


def test_score_that_is_undefined_decides_nothing():
    """Labels of one grade alone have no QWK, and one prediction of 1,000 is little."""
    labels = np.full(1000, 2)
    once = np.where(np.arange(1000) == 7, 1, labels)
    right, changed = side(labels, labels), side(labels, once)
    intervals = difference_intervals(changed, right)
    assert intervals["qwk"] is None
    assert -0.01 < intervals["accuracy"][0] <= intervals["accuracy"][1] == 0
    assert verdict(intervals, 1, 1000) == "equivalent"
    assert right.score().qwk is None
    assert difference_intervals(right, right) == {"accuracy": [0, 0], "qwk": None}


# ---- with a network


@pytest.fixture(scope="module")
def eyes(make_course: Callable[..., Path], tmp_path_factory: Any) -> Path:
    """A folder with 120 test photographs of 112 pixels, and its ``shards`` in it."""
    root = make_course(tmp_path_factory.mktemp("eyes"), train=10, test=120, size=112)
    sharded(root, root / "shards")
    return root


@pytest.fixture(scope="module")
def runs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs at the photographs' size, ``native``, and at 64: ``small``."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        for name, more in (("native", ()), ("small", ("--image-size", 64))):
            flags = ("--lr", 0.05, "--head-lr", 0.05, "--amp", "off", *more)
            assert train.main(words(shards, folder / name, *flags)) == 0
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


class Sides(nn.Module):
    """Grades by red on the left less blue on the right: knows channels and sides."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        half = images.shape[3] // 2
        red, blue = images[:, 0, :, :half], images[:, 2, :, half:]
        seen = red.mean((1, 2)) - blue.mean((1, 2))
        return -((seen[:, None] - torch.linspace(-0.6, 0.6, 5)) ** 2)


@pytest.fixture
def seeing(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs' networks are ``Sides``: the small ones have learnt next to nothing."""
    load = trained.load_trained

    def load_sides(*args: Any) -> trained.Trained:
        return replace(load(*args), network=Sides().eval())

    monkeypatch.setattr("fastretina.nn.trained.load_trained", load_sides)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", available())
def test_network_is_identical_under_every_loader(
    name: str, course: Path, shards: Path, runs: Path, certifies: Certifies
):
    outcome = certifies(course, shards, "--loader", name, "--run", runs / "native")
    assert outcome.code == 0, outcome.err
    found = summary(outcome)["network"]
    assert (found["verdict"], found["samples"]) == ("identical", 11)
    assert found["loader"] == found["plain_pil"]
    assert found["largest_logit_difference"] == 0
    assert found["intervals"] == {"accuracy": [0, 0], "qwk": [0, 0]}
    metrics = json.loads((runs / "native" / "metrics.json").read_text())
    for name in ("accuracy", "qwk"):
        assert found["plain_pil"][name] == metrics[f"test_{name}"]
    assert "verdict: identical" in "\n".join(outcome.out)


@pytest.mark.usefixtures("seeing")
def test_network_is_equivalent_under_a_loader_that_rounds(
    eyes: Path, runs: Path, certifies: Certifies
):
    flags = ("--loader", "turbo", "--run", runs / "small")
    outcome = certifies(eyes, eyes / "shards", *flags, "--image-size", 64)
    assert outcome.code == 0, outcome.err
    found = summary(outcome)["network"]
    assert (found["verdict"], found["samples"]) == ("equivalent", 120)
    assert 0 < found["mean_logit_difference"] <= found["largest_logit_difference"]
    assert found["largest_logit_difference"] < 1e-3
    assert summary(outcome)["exact"] is False


@pytest.mark.usefixtures("seeing")
@pytest.mark.parametrize("mirror", [2, 3])
def test_network_is_different_under_a_broken_loader(
    mirror: int, eyes: Path, runs: Path, certifies: Certifies, breaks: Breaks
):
    breaks(lambda batch: batch._replace(images=batch.images.flip(mirror)), "test")
    outcome = certifies(eyes, eyes / "shards", "--run", runs / "native")
    mistake = {2: "mirrored left-right", 3: "channels swapped (BGR)"}[mirror]
    assert set(faults(outcome, "test")) == {mistake}
    found = summary(outcome)["network"]
    assert found["verdict"] == "different"
    assert found["predictions_changed"] > 30
    assert len(found["changed_keys"]) == 5
    assert found["changed_keys"][0] in "\n".join(outcome.out)
    assert "verdict: different" in "\n".join(outcome.out)


@pytest.mark.usefixtures("seeing")
def test_verdict_alone_can_fail(
    eyes: Path,
    runs: Path,
    certifies: Certifies,
    monkeypatch: pytest.MonkeyPatch,
    breaks: Breaks,
):
    """Pixels within a bound that is too wide, but the network sees the difference."""
    monkeypatch.setattr(
        "fastretina.parity.epoch.bound_for", lambda *_, **__: Bound(255, 255.0)
    )
    breaks(lambda batch: batch._replace(images=batch.images.flip(3)), "test")
    outcome = certifies(eyes, eyes / "shards", "--run", runs / "native")
    assert outcome.code == 1
    assert summary(outcome)["splits"]["test"]["faults"] == {}
    assert "the network's predictions" in outcome.complaint


@pytest.mark.parametrize(
    ("intervals", "changed", "wanted"),
    [
        ([(0.0, 0.0), (0.0, 0.0)], 0, "equivalent"),
        ([(-0.01, 0.01), (0.004, 0.009)], 2, "equivalent"),
        ([(-0.011, 0.0), (0.0, 0.0)], 1, "undecided"),
        ([(0.0, 0.014), (-0.002, 0.002)], 1, "undecided"),
        ([(0.001, 0.014), (-0.002, 0.002)], 2, "different"),
        ([(-0.3, 0.3), (-0.5, -0.1)], 2, "different"),
        ([(0.0, 0.0), (0.0, 0.0)], 20, "different"),  # as many better as worse
        ([(-0.01, 0.0), None], 1, "equivalent"),
        ([(-0.011, 0.0), None], 1, "undecided"),
        ([(-0.3, -0.1), None], 2, "different"),
    ],
)
def test_verdict_follows_from_the_differences(intervals, changed, wanted):
    named = dict(zip(("accuracy", "qwk"), intervals, strict=True))
    assert verdict(named, changed, 217) == wanted


@pytest.mark.usefixtures("seeing")
def test_wrong_label_counts_for_the_accuracy(
    eyes: Path, runs: Path, certifies: Certifies, breaks: Breaks
):
    breaks(lambda batch: batch._replace(labels=4 - batch.labels), "test")
    outcome = certifies(eyes, eyes / "shards", "--run", runs / "native")
    assert set(faults(outcome, "test")) == {"wrong label"}
    found = summary(outcome)["network"]
    assert found["largest_logit_difference"] == 0
    assert found["verdict"] == "different"
    assert found["loader"]["accuracy"] != found["plain_pil"]["accuracy"]


@pytest.mark.usefixtures("small")
def test_network_computes_on_as_many_threads_as_the_run(
    course: Path,
    shards: Path,
    runs: Path,
    tmp_path: Path,
    certifies: Certifies,
    monkeypatch: pytest.MonkeyPatch,
):
    run = Path(shutil.copytree(runs / "native", tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"threads": 3}))
    used: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", used.append)
    summary(certifies(course, shards, "--run", run))
    assert 3 in used


def run_under(runs: Path, folder: Path, **loading: str) -> Path:
    """A run that was trained under another loader, or skipped what is damaged."""
    run = Path(shutil.copytree(runs / "native", folder / "run"))
    config = json.loads((run / "config.json").read_text())
    config |= {"loader": loading.get("loader", config["loader"])}
    config["loading"] |= loading
    (run / "config.json").write_text(json.dumps(config))
    return run


@pytest.mark.usefixtures("small")
def test_run_loads_as_it_was_trained(
    course: Path, damaged: Path, runs: Path, tmp_path: Path, certifies: Certifies
):
    run = run_under(runs, tmp_path, loader="pil", on_corrupt="skip")
    outcome = certifies(course, damaged, "--run", run)
    assert summary(outcome)["loader"] == "pil"
    assert faults(outcome) == {"lost sample": [key_of(damaged)]}
    assert outcome.err[0].startswith("skipped: ")
    outcome = certifies(course, damaged, "--run", run, "--loader", "turbo")
    assert summary(outcome)["loader"] == "turbo"
    outcome = certifies(course, damaged, "--run", run, "--on-corrupt", "raise")
    assert (outcome.code, len(outcome.err), outcome.out) == (1, 1, [])


@pytest.fixture
def no_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = loaders.LOADERS["dali"]._replace(module="no_such_package.loader")
    monkeypatch.setitem(loaders.LOADERS, "dali", entry)


@pytest.mark.usefixtures("small", "no_dali")
def test_run_whose_loader_is_not_installed_says_that_the_run_chose_it(
    course: Path, shards: Path, runs: Path, tmp_path: Path, certifies: Certifies
):
    run = ("--run", run_under(runs, tmp_path, loader="dali"))
    outcome = certifies(course, shards, *run)
    assert (outcome.code, len(outcome.err), outcome.out) == (1, 1, [])
    chosen = "; the run was trained under dali: name another with --loader"
    assert outcome.complaint.endswith(chosen)
    outcome = certifies(course, shards, *run, "--loader", "dali")
    assert "pip install 'fastretina[dali]'" in outcome.complaint
    assert chosen not in outcome.complaint
    assert certifies(course, shards, *run, "--loader", "turbo").code == 0


# ---- what can't be compared


@pytest.mark.usefixtures("small")
def test_input_that_cant_be_compared_is_one_line(
    course: Path,
    shards: Path,
    runs: Path,
    odd: Path,
    tmp_path: Path,
    certifies: Certifies,
):
    run = ("--run", runs / "small")
    cases = {
        "gone does not exist": (tmp_path / "gone", shards),
        "no data set in": (course, tmp_path / "none"),
        "holds no run": (course, shards, "--run", tmp_path),
        "--image-size must be 64, the run's, got 80": (
            course,
            shards,
            *run,
            "--image-size",
            80,
        ),
        "--device": (course, shards, "--device", "cuda:99"),
        "hold no labels": (odd, shards),
    }
    for text, (data, made, *flags) in cases.items():
        outcome = certifies(data, made, *flags)
        assert (outcome.code, len(outcome.err), outcome.out) == (1, 1, [])
        assert text in outcome.complaint


def test_shards_of_another_folder_are_one_line(
    shards: Path, course: Path, tmp_path: Path, certifies: Certifies
):
    other = Path(shutil.copytree(course, tmp_path / "other"))
    for path in [*other.glob("*_img.csv")]:
        path.write_text(re.sub("^", "x", path.read_text().strip(), flags=re.M))
    for path in [*(other / "data").iterdir()]:
        path.rename(path.with_name(f"x{path.name}"))
    outcome = certifies(other, shards)
    assert (outcome.code, len(outcome.err), outcome.out) == (1, 1, [])
    assert f"must be made of {other}, got 0 of its 48 keys there" in outcome.complaint


def test_photograph_that_has_gone_bad_is_one_line(
    course: Path, shards: Path, tmp_path: Path, certifies: Certifies
):
    bad = Path(shutil.copytree(course, tmp_path / "bad"))
    path = bad / "data" / "10_left.jpeg"
    path.write_bytes(path.read_bytes()[:1500])
    outcome = certifies(bad, shards)
    assert (outcome.code, len(outcome.err)) == (1, 1)
    assert "10_left.jpeg can't be decoded by Pillow" in outcome.complaint


def test_images_of_many_sizes_ask_for_one(
    make_course: Callable[..., Path], tmp_path: Path, certifies: Certifies
):
    data = make_course(tmp_path / "mixed", train=6, test=4)
    (data / "data" / "10_left.jpeg").write_bytes(picture(1, 96))
    made = sharded(data, tmp_path / "made")
    assert "pass --image-size" in certifies(data, made).complaint
    assert summary(certifies(data, made, "--image-size", 40))["equal"] is True


@pytest.mark.parametrize("name", available())
def test_empty_split_is_compared_too(
    name: str, make_course: Callable[..., Path], tmp_path: Path, certifies: Certifies
):
    """As its only photograph was set aside."""
    data = make_course(tmp_path / "data", train=5, test=1)
    (data / "data" / "13_left.jpeg").write_bytes(b"rubbish")
    made = sharded(data, tmp_path / "made")
    outcome = certifies(data, made, "--loader", name)
    part = summary(outcome)["splits"]["test"]
    assert (part["samples"], part["delivered"], part["set_aside"]) == (0, 0, 1)


@pytest.mark.usefixtures("no_dali")
def test_loader_that_is_not_installed_is_one_line(
    course: Path, shards: Path, certifies: Certifies
):
    outcome = certifies(course, shards, "--loader", "dali")
    assert (outcome.code, len(outcome.err)) == (1, 1)
    assert "pip install 'fastretina[dali]'" in outcome.complaint


@pytest.mark.usefixtures("no_dali")
def test_another_loader_takes_its_place_where_that_is_asked_for(
    course: Path, shards: Path, certifies: Certifies
):
    outcome = certifies(course, shards, "--loader", "dali", "--fallback")
    assert summary(outcome)["loader"] == "pil"
    (note,) = outcome.err
    assert note.startswith("note: ")
    assert note.endswith("; pil takes its place")


@pytest.mark.parametrize(
    "flags",
    [
        ("--loader", "dvd"),
        ("--split", "validation"),
        ("--workers", "-1"),
        ("--image-size", "4"),
        ("--run", "x", "--split", "train"),
    ],
)
def test_flags_that_cant_be_meant_exit_2(
    flags: tuple[str, ...], course: Path, shards: Path, certifies: Certifies
):
    outcome = certifies(course, shards, *flags)
    assert outcome.code == 2
    assert len(outcome.err) == 1


def test_folder_must_be_named(capsys: pytest.CaptureFixture[str]):
    outcome = call(parity.main, [], capsys)
    assert outcome.code == 2
    assert "--data" in outcome.complaint
