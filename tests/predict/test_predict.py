"""``fastretina.predict``: single photographs, prepared as the training images were."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import torch
from conftest import photograph
from PIL import Image, ImageDraw
from small_runs import Outcome, call, make_small, words
from torch import nn

from fastretina.evaluate import command as evaluate
from fastretina.metrics.both_eyes import fit_fusion
from fastretina.metrics.calibration import Calibration
from fastretina.metrics.predictions import (
    Predictions,
    PredictionSource,
    predict_split,
)
from fastretina.nn.augment import normalise
from fastretina.nn.device import choose
from fastretina.nn.distributed import ALONE
from fastretina.nn.trained import load_trained
from fastretina.predict import command as predict
from fastretina.predict.network import predict_probabilities
from fastretina.predict.reading import (
    Preparation,
    find_photographs,
    read_photograph,
)
from fastretina.run import Run
from fastretina.train import command as train
from loaders import LoaderConfig, make_loader, open_split
from loaders.grades import GRADES

Predicts = Callable[..., Outcome]
SHARES = [f"p{grade}" for grade in range(5)]


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of float32; read-only by agreement."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    flags = ("--recipe", "seed", "--lr", 0.3, "--amp", "off", "--full-epochs", 6)
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        assert train.main(words(shards, folder, *flags)) == 0
    return folder


@pytest.fixture
def predicts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Predicts:
    make_small(monkeypatch)

    def run(*flags: object) -> Outcome:
        return call(predict.main, [str(flag) for flag in flags], capsys)

    return run


def table(outcome: Outcome) -> list[dict[str, str]]:
    """The CSV on stdout, without the JSON line at its end."""
    return list(csv.DictReader(io.StringIO("\n".join(outcome.out[:-1]))))


def shares(row: dict[str, Any]) -> list[float]:
    return [float(row[name]) for name in SHARES]


def test_predict_equals_evaluation(
    run: Path, course: Path, shards: Path, predicts: Predicts
):
    with open_split(shards, "test") as split:
        keys = split.column("key")
    photos = [course / "data" / f"{key}.jpeg" for key in keys]
    outcome = predicts(run, *photos)
    rows = table(outcome)
    trained = load_trained(Run(run), choose("cpu", "off").device)
    cpu = choose("cpu", "off")
    with (
        open_split(shards, "test") as split,
        make_loader("pil", split, "test", LoaderConfig(workers=0)) as loader,
    ):
        expected = predict_split(trained.network, split, loader, cpu, ALONE)
    found = np.array([shares(row) for row in rows])
    assert found.std(axis=0).max() > 0.01, "the network tells the images apart"
    assert np.abs(found - expected.probabilities).max() < 6e-5  # 4 digits are printed
    assert [row["image"] for row in rows] == [str(photo) for photo in photos]
    grades = expected.probabilities.argmax(axis=1).tolist()
    assert [int(row["grade"]) for row in rows] == grades
    assert [row["name"] for row in rows] == [GRADES[grade] for grade in grades]
    assert outcome.json == {
        "run": str(run),
        "images": 11,
        "left_out": 0,
        "grade_counts": [grades.count(grade) for grade in range(5)],
        "warnings": 11,  # the photographs of the tests are no fundus
        "tta": False,
        "calibrated": False,
        "weights_sha256": trained.weights_sha256,
        "notice": "Not a medical device.",
    }
    assert len(outcome.err) == 12
    assert outcome.err[-1] == "Not a medical device."
    accuracy = np.mean([g == t for g, t in zip(grades, expected.labels, strict=True)])
    kept = json.loads((run / "metrics.json").read_text())
    assert kept["test_accuracy"] == accuracy


def test_predict_in_the_runs_own_precision(
    course: Path, shards: Path, tmp_path: Path, predicts: Predicts
):
    if choose("cpu", "auto").precision != "bf16":
        pytest.skip("no bf16 on this CPU")
    assert train.main(words(shards, tmp_path / "run", "--max-steps", 3)) == 0
    photos = sorted((course / "data").iterdir())[:3]
    amps: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "fastretina.nn.device.torch.autocast",
            lambda *kind: amps.append(kind) or nullcontext(),
        )
        assert predicts(tmp_path / "run", *photos).code == 0
        assert len(amps) == 1
        assert evaluate.main([str(tmp_path / "run")]) == 0
    assert len(set(amps)) == 1


def test_predict_does_not_depend_on_the_other_photographs(
    run: Path, course: Path, predicts: Predicts
):
    photos = sorted((course / "data").iterdir())[:40]  # two batches
    together = [shares(row) for row in table(predicts(run, *photos))]
    alone = [shares(row) for p in photos[30:34] for row in table(predicts(run, p))]
    assert np.abs(np.array(together[30:34]) - np.array(alone)).max() < 1.1e-4


def test_predict_as_json(run: Path, course: Path, predicts: Predicts):
    photos = sorted((course / "data").iterdir())[:2]
    as_csv = table(predicts(run, *photos))
    outcome = predicts(run, *photos, "--format", "json")
    rows = json.loads("\n".join(outcome.out[:-1]))
    assert outcome.json["images"] == 2
    assert [shares(row) for row in rows] == [shares(row) for row in as_csv]
    assert [row["image"] for row in rows] == [str(photo) for photo in photos]
    assert {row["error"] for row in rows} == {None}


@pytest.mark.parametrize("form", ["csv", "json"])
def test_predict_to_a_file(
    run: Path, course: Path, tmp_path: Path, predicts: Predicts, form: str
):
    photos = sorted((course / "data").iterdir())[:2]
    expected = predicts(run, *photos, "--format", form).out
    outcome = predicts(run, *photos, "--format", form, "--out", tmp_path / "table")
    assert outcome.out == expected[-1:]
    assert (tmp_path / "table").read_text().splitlines() == expected[:-1]
    nowhere = predicts(run, *photos, "--out", tmp_path / "no" / "table")
    assert nowhere.code == 2, "before anything is graded"
    assert "--out must lie in a folder that exists" in nowhere.complaint


def test_predict_names_what_it_cant_grade_and_grades_the_rest(
    run: Path, course: Path, tmp_path: Path, predicts: Predicts
):
    good = sorted((course / "data").iterdir())[:2]
    torn, text, gone = (tmp_path / name for name in ("torn.jpeg", "text.txt", "gone"))
    torn.write_bytes(photograph(3)[:900])
    text.write_text("a letter")
    empty = tmp_path / "empty"
    empty.mkdir()
    outcome = predicts(run, good[0], torn, text, gone, empty, good[1])
    assert outcome.code == 1
    assert f"4 of 6 images can't be graded: {torn}: " in outcome.complaint
    rows = list(csv.DictReader(io.StringIO("\n".join(outcome.out))))
    assert [bool(row["error"]) for row in rows] == [
        False,
        True,
        True,
        True,
        True,
        False,
    ]
    assert [bool(row["grade"]) for row in rows] == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]
    assert "No such file" in rows[3]["error"]
    assert rows[4]["error"].startswith("the folder holds no photograph: no JPEG, ")
    expected = [shares(row) for row in table(predicts(run, *good))]
    assert [shares(rows[0]), shares(rows[5])] == expected
    nothing = predicts(run, gone)
    assert nothing.code == 1
    assert "1 of 1 images" in nothing.complaint


def picture(seed: int = 7) -> Image.Image:
    return Image.open(io.BytesIO(photograph(seed)))


def test_predict_turns_a_photograph_upright(
    run: Path, tmp_path: Path, predicts: Predicts
):
    lying, plain, upright = (tmp_path / n for n in ("a.jpeg", "b.jpeg", "c.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    picture().save(lying, exif=exif, quality=95)
    picture().save(plain, quality=95)
    with Image.open(lying) as image:
        image.transpose(Image.Transpose.ROTATE_270).save(upright)
    rows = table(predicts(run, lying, plain, upright))
    turned, as_it_lies, expected = map(shares, rows)
    assert turned == expected
    assert turned != as_it_lies


def test_predict_takes_png_as_sharding_would(
    run: Path, tmp_path: Path, predicts: Predicts
):
    from fastretina.data.prepare import Preparer

    picture().save(tmp_path / "a.png")
    ready = Preparer()((tmp_path / "a.png").read_bytes())
    (tmp_path / "b.jpeg").write_bytes(ready.jpeg)
    rows = table(predicts(run, tmp_path / "a.png", tmp_path / "b.jpeg"))
    assert shares(rows[0]) == shares(rows[1])


def disc(width: int, height: int = 120, radius: int = 55) -> np.ndarray:
    """A bright fundus on black, uint8[H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < radius**2
    return np.where(inside[..., None], np.uint8([180, 90, 50]), 0).astype(np.uint8)


@pytest.mark.parametrize("square", [True, False])
def test_predict_crops_to_the_fundus_if_training_images_were_square(
    tmp_path: Path, square: bool
):
    # What was trained on images squeezed into a square is to see the like again.
    path = tmp_path / "wide.png"
    Image.fromarray(disc(240)).save(path)
    how = Preparation(steps=[], size=None, shape=(64, 64), square=square)
    found, error = read_photograph(path, how)[1::2]
    assert error == ""
    assert found.shape == (64, 64, 3)
    across = int((found[32, :, 0] > 90).sum())
    down = int((found[:, 32, 0] > 90).sum())
    assert down > 55
    assert (across > 55) == square, (across, down)


def test_predict_preprocesses_as_the_shards_were(
    course: Path, tmp_path: Path, predicts: Predicts
):
    from fastretina.shard import command as shard

    data, run = tmp_path / "shards", tmp_path / "run"
    flags = ["--preprocess", "crop,graham", "--size", "80", "--workers", "1"]
    assert shard.main([str(course), str(data), *flags]) == 0
    flags = ["--amp", "off", "--max-steps", "2", "--image-size", "64"]
    assert train.main(words(data, run, *flags)) == 0
    with open_split(data, "test") as split:
        keys = split.column("key")
    trained = load_trained(Run(run), choose("cpu", "off").device)
    config = LoaderConfig(workers=1, image_size=64)
    cpu = choose("cpu", "off")
    with (
        open_split(data, "test") as split,
        make_loader("turbo", split, "test", config) as loader,
    ):
        expected = predict_split(trained.network, split, loader, cpu, ALONE)
    rows = table(predicts(run, *[course / "data" / f"{key}.jpeg" for key in keys]))
    found = np.array([shares(row) for row in rows])
    assert np.abs(found - expected.probabilities).max() < 6e-5


def test_predict_without_a_run_or_images(
    run: Path, tmp_path: Path, predicts: Predicts, course: Path
):
    photo = next((course / "data").iterdir())
    none = predicts(tmp_path, photo)
    assert none.code == 1
    assert "holds no run" in none.complaint
    for flags in (
        (run,),
        (),
        (run, photo, "--format", "xml"),
        (run, photo, "--overlays", photo),
        (run, course, "--overlays", course),
        (run, course, "--overlays", course / "data" / "overlays"),
    ):
        wrong = predicts(*flags)
        assert wrong.code == 2
        assert len(wrong.err) == 1


# ---- folders


def test_predict_takes_the_images_of_a_folder_in_order(
    run: Path, course: Path, tmp_path: Path, predicts: Predicts
):
    photos = sorted((course / "data").iterdir())[:4]
    for name, photo in zip(("b.JPG", "a.jpeg", "c.jpg", ".d.jpg"), photos, strict=True):
        (tmp_path / name).write_bytes(photo.read_bytes())
    (tmp_path / "notes.txt").write_text("none of them")
    (tmp_path / "deeper.png").mkdir()
    rows = table(predicts(run, photos[3], tmp_path, photos[0]))
    names = [photos[3], *(tmp_path / name for name in ("a.jpeg", "b.JPG", "c.jpg"))]
    assert [row["image"] for row in rows] == [*map(str, names), str(photos[0])]
    alone = table(predicts(run, *photos))
    assert [shares(row) for row in rows] == [shares(alone[n]) for n in (3, 1, 0, 2, 0)]


def test_find_photographs_keeps_what_it_cant_find(tmp_path: Path):
    found = find_photographs([tmp_path, tmp_path / "gone"])
    assert found == ([tmp_path, tmp_path / "gone"], 0, [])


def test_predict_goes_through_folders_and_names_what_it_leaves_out(
    run: Path, tmp_path: Path, predicts: Predicts
):
    photos = tmp_path / "photos"
    (photos / "visit" / "one").mkdir(parents=True)
    image = Image.open(io.BytesIO(photograph(3)))
    image.save(photos / "a.tif")
    image.save(photos / "visit" / "b.webp", lossless=True)
    image.save(photos / "visit" / "one" / "c.png")
    image.save(photos / "visit" / "d.bmp")
    (photos / "visit" / "notes.txt").write_text("a letter")
    outcome = predicts(run, photos)
    rows = table(outcome)
    names = ["a.tif", "visit/b.webp", "visit/one/c.png"]
    assert [row["image"] for row in rows] == [str(photos / name) for name in names]
    assert shares(rows[0]) == shares(rows[1]) == shares(rows[2])
    assert outcome.json["left_out"] == 2
    assert (
        f"warning: 1 image in {photos}/ left out, in a format that is not read "
        "(.bmp 1): visit/d.bmp" in outcome.err
    )
    assert (
        f"warning: 1 file in {photos}/ left out, no images by their suffix: "
        "visit/notes.txt" in outcome.err
    )


def test_predict_says_why_a_folder_cant_be_listed(
    run: Path, tmp_path: Path, predicts: Predicts, monkeypatch: pytest.MonkeyPatch
):
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if path == tmp_path:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    outcome = predicts(run, tmp_path)
    assert outcome.complaint.endswith(
        f"{tmp_path}: the folder can't be listed: Permission denied"
    )


# ---- gradability


def test_predict_warns_of_what_is_not_gradable_and_grades_it(
    run: Path, tmp_path: Path, predicts: Predicts
):
    for name, level in (("black", 0), ("white", 255)):
        Image.new("RGB", (80, 80), (level,) * 3).save(tmp_path / f"{name}.png")
    fundus = np.kron(disc(120)[..., :1] > 0, np.ones((4, 4, 1), bool))
    rng = np.random.default_rng(0)  # with vessels, or what passes for them
    vessels = rng.integers(60, 200, (480, 480, 3)) * np.array([1, 0.6, 0.3])
    Image.fromarray((vessels * fundus).astype(np.uint8)).save(tmp_path / "good.png")
    outcome = predicts(run, tmp_path)
    rows = {Path(row["image"]).stem: row for row in table(outcome)}
    assert rows["black"]["warning"] == "too dark: 95 % of its pixels are below 0 of 255"
    assert rows["white"]["warning"].startswith("no fundus found")
    assert rows["good"]["warning"] == ""
    assert all(row["grade"] and not row["error"] for row in rows.values())
    assert outcome.json["warnings"] == 2
    assert outcome.err == [
        f"warning: {tmp_path / name}.png: {rows[name]['warning']}"
        for name in ("black", "white")
    ] + ["Not a medical device."]


def test_predict_judges_the_photograph_and_not_what_was_made_of_it(tmp_path: Path):
    Image.fromarray(disc(240) // 12).save(tmp_path / "dark.png")
    how = Preparation(["crop", "graham"], size=64, shape=(64, 64), square=True)
    found = read_photograph(tmp_path / "dark.png", how)
    assert found.warning.startswith("too dark")
    assert found.image.mean() > 100  # Ben Graham's grey


def test_predict_refuses_a_network_gone_astray(
    run: Path, course: Path, predicts: Predicts, monkeypatch: pytest.MonkeyPatch
):
    class Astray(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 5), torch.nan)

    trained = load_trained(Run(run), torch.device("cpu"))
    astray = replace(trained, network=Astray().eval())
    monkeypatch.setattr("fastretina.nn.trained.load_trained", lambda *_: astray)
    outcome = predicts(run, next((course / "data").iterdir()))
    assert outcome.code == 1
    assert "not finite" in outcome.complaint


# ---- test-time augmentation


def test_predict_with_flips_is_the_mean_over_four(
    run: Path, course: Path, predicts: Predicts
):
    photos = sorted((course / "data").iterdir())[:5]
    trained = load_trained(Run(run), torch.device("cpu"))
    how = Preparation.of_run(trained.config)
    images = np.stack([read_photograph(p, how).image for p in photos])
    views = (images, images[:, ::-1], images[:, :, ::-1], images[:, ::-1, ::-1])
    with torch.inference_mode():
        expected = [
            trained.network(normalise(torch.from_numpy(view.copy()))).softmax(1)
            for view in views
        ]
    mean = torch.stack(expected).double().mean(0).numpy()
    outcome = predicts(run, *photos, "--tta")
    found = np.array([shares(row) for row in table(outcome)])
    assert np.abs(found - mean).max() < 6e-5
    assert np.abs(found - expected[0].numpy()).max() > 1e-3, "the flips tell something"
    assert outcome.json["tta"] is True
    counts = np.bincount(mean.argmax(1), minlength=5).tolist()
    assert outcome.json["grade_counts"] == counts


@pytest.mark.usefixtures("predicts")  # makes the network small
def test_probabilities_with_flips_are_those_of_the_mirrored_image(run: Path):
    network = load_trained(Run(run), torch.device("cpu")).network
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=rng)
    compute = choose("cpu", "off")
    expected = predict_probabilities(network, images, compute, tta=True)
    for dims in ([1], [2], [1, 2]):
        found = predict_probabilities(network, images.flip(dims), compute, tta=True)
        assert np.abs(found - expected).max() < 1e-6
    assert expected.dtype == np.float64
    assert expected.sum(axis=1) == pytest.approx(np.ones(3))


# ---- overlays


def test_predict_draws_what_it_looked_at(
    run: Path, course: Path, tmp_path: Path, predicts: Predicts
):
    photos = sorted((course / "data").iterdir())[:3]
    expected = predicts(run, *photos)
    outcome = predicts(run, *photos, "--overlays", tmp_path / "new" / "overlays")
    assert outcome.out == expected.out
    files = sorted((tmp_path / "new" / "overlays").iterdir())
    for number, (row, file) in enumerate(zip(table(expected), files, strict=True), 1):
        percent = 100 * max(shares(row))
        stem, likely = file.stem.rsplit("_", 1)
        assert stem == f"{number:05d}_{Path(row['image']).stem}_grade{row['grade']}"
        assert abs(int(likely) - percent) <= 0.51
        drawn = np.asarray(Image.open(file))
        assert drawn.shape[1] > 2 * 384
        how = Preparation.of_run(Run(run).config())
        seen = read_photograph(Path(row["image"]), how).image
        large = cv2.resize(seen, (384, 384), interpolation=cv2.INTER_LINEAR)
        tops = [
            n for n in range(80) if np.array_equal(drawn[n : n + 384, 8:392], large)
        ]
        assert len(tops) == 1, "the photograph is in it as the network saw it"
        beside = drawn[tops[0] : tops[0] + 384, 400:784]
        assert not np.array_equal(beside, large)


def test_predict_overlays_say_what_they_are(
    run: Path, tmp_path: Path, predicts: Predicts, monkeypatch: pytest.MonkeyPatch
):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (80, 80)).save(photos / "black.png")
    (photos / f"{'y' * 200}.jpeg").write_bytes(photograph(3))
    lines: list[str] = []

    def text(pen: ImageDraw.ImageDraw, place: object, line: str, *how: object) -> None:
        lines.append(line)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    rows = table(predicts(run, photos, "--overlays", tmp_path / "out"))
    percent = 100 * max(shares(rows[0]))
    grade, name = rows[0]["grade"], rows[0]["name"]
    title = re.fullmatch(rf"black\.png: grade {grade}, {name}, (\d+) %", lines[0])
    assert title is not None
    assert abs(int(title[1]) - percent) <= 0.51
    assert lines[1] == f"warning: {rows[0]['warning']}"
    assert lines[2].endswith("Not a medical device.")
    assert lines[3].startswith("...yyy"), "the end is kept, where the grade is"
    assert lines[3].endswith(" %")
    assert len(lines) == 6


def test_predict_overlays_dont_collide_or_leave_their_folder(
    run: Path, tmp_path: Path, predicts: Predicts
):
    here, there = tmp_path / "a", tmp_path / "b"
    names = (
        "10_left.jpeg",
        "a..%2f..jpeg",
        "x" * 200 + ".jpeg",
        "\u7db2 \u819c\n.jpeg",
    )
    for folder in (here, there):
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(photograph(3))
    (here / "torn.jpeg").write_bytes(b"\xff\xd8")
    out = tmp_path / "out"
    outcome = predicts(run, here, there, here / names[0], "--overlays", out)
    assert "1 of 10 images can't be graded" in outcome.complaint
    files = sorted(path.name for path in out.iterdir())
    assert len(files) == 9
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+\.png", name) for name in files)
    places = [int(name[:5]) for name in files]
    rows = csv.DictReader(io.StringIO("\n".join(outcome.out)))
    assert places == [n for n, row in enumerate(rows, 1) if row["grade"]]
    beside = {path.name for path in tmp_path.iterdir()}
    assert beside == {"a", "b", "out"}


def test_predict_overlays_of_two_batches_keep_their_numbers(
    run: Path, course: Path, tmp_path: Path, predicts: Predicts
):
    photos = sorted((course / "data").iterdir())[:34]
    rows = table(predicts(run, *photos, "--overlays", tmp_path / "out"))
    files = sorted(path.stem for path in (tmp_path / "out").iterdir())
    assert [file.rsplit("_", 1)[0] for file in files] == [
        f"{number:05d}_{photo.stem}_grade{row['grade']}"
        for number, (photo, row) in enumerate(zip(photos, rows, strict=True), 1)
    ]


# ---- calibration


@pytest.fixture
def other(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be written to."""
    shutil.copytree(run, tmp_path / "other", ignore=shutil.ignore_patterns("*board"))
    return tmp_path / "other"


CALIBRATION = {
    "temperature": 1.7,
    "thresholds": [0.4, 0.9, 1.2, 3.1],
    "samples": 60,
    "error_before": 0.1,
    "error_after": 0.05,
}


def rewrite(run: Path, **what: object) -> None:
    kept = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(kept | what))


def test_predict_calibrated(other: Path, course: Path, predicts: Predicts):
    photos = sorted((course / "data").iterdir())[:12]
    plain = table(predicts(other, *photos))
    raw = np.array([shares(row) for row in plain])
    middle = float(np.median(raw @ np.arange(5)))
    found_then = CALIBRATION | {"thresholds": [0.0, middle, 3.9, 3.95]}
    rewrite(other, calibration=found_then)
    outcome = predicts(other, *photos, "--calibrated")
    rows = table(outcome)
    calibration = msgspec.convert(found_then, Calibration)
    found = np.array([shares(row) for row in rows])
    assert np.abs(found - calibration.cooled(raw)).max() < 1e-3
    assert np.abs(found - raw).max() > 0.01
    assert [row["grade"] for row in rows] == [row["grade"] for row in plain]
    expected = [int(row["threshold_grade"]) for row in rows]
    assert expected == calibration.grades(raw).tolist()
    assert set(expected) == {1, 2}
    assert [*rows[0]] == [*plain[0], "threshold_grade"]
    assert outcome.json["calibrated"] is True


def test_predict_calibrated_without_a_calibration(
    other: Path, course: Path, predicts: Predicts
):
    photo = next((course / "data").iterdir())
    rewrite(other, calibration=None)
    outcome = predicts(other, photo, "--calibrated")
    assert outcome.code == 1
    assert "has no calibration: it held no validation patients out" in outcome.complaint
    assert outcome.out == []
    rewrite(other, calibration=CALIBRATION | {"thresholds": [0.4, 0.9]})
    complaint = predicts(other, photo, "--calibrated").complaint
    assert "metrics.json is damaged" in complaint
    assert "`$.calibration.thresholds`" in complaint
    rewrite(other, calibration=CALIBRATION, weights_sha256="0" * 64)
    assert "has gone on since" in predicts(other, photo, "--calibrated").complaint


# ---- both eyes


def hold_out(run: Path, pairs: int = 60, sha256: str | None = None) -> Predictions:
    """Write predictions as a run with validation patients leaves them."""
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(0, 5, pairs), 2)
    chances = np.eye(5)[labels] + rng.exponential(0.4, (2 * pairs, 5))
    sha256 = sha256 or Run(run).result().weights_sha256
    validation = Predictions(
        rows=np.arange(2 * pairs),
        keys=[f"{n // 2}_{('left', 'right')[n % 2]}" for n in range(2 * pairs)],
        patients=[str(n // 2) for n in range(2 * pairs)],
        eyes=["left", "right"] * pairs,
        labels=labels,
        probabilities=chances / chances.sum(axis=1, keepdims=True),
        source=PredictionSource(weights_sha256=sha256),
    )
    validation.save(run / "validation.parquet")
    return validation


@pytest.fixture
def eyes(tmp_path: Path) -> Path:
    """Photographs that pass for gradable: the test photographs, each in a disc."""
    folder = tmp_path / "eyes"
    (folder / "more").mkdir(parents=True)
    names = ("10_left.png", "10_right.png", "11_left.png", "more/12_RIGHT.png")
    for n, name in enumerate((*names, "more/12_left.png", "nobody.png")):
        rng = np.random.default_rng(n)
        image = rng.integers(60, 90 + 30 * n, (120, 120, 3)) * [1, 0.7, 0.4]
        image[disc(120)[..., 0] == 0] = 0
        Image.fromarray(image.astype(np.uint8)).save(folder / name)
    return folder


def test_predict_of_both_eyes(other: Path, eyes: Path, predicts: Predicts):
    fusion = fit_fusion(hold_out(other))
    plain = table(predicts(other, eyes))
    outcome = predicts(other, eyes, "--pairs")
    rows = {Path(row["image"]).stem: row for row in table(outcome)}
    raw = {Path(row["image"]).stem: np.array([shares(row)]) for row in plain}
    fused = [f"fused_{name}" for name in SHARES]
    assert [*rows["10_left"]] == [*plain[0], "fellow", "fused_grade", *fused]
    for own, fellow in (
        ("10_left", "10_right"),
        ("10_right", "10_left"),
        ("12_left", "12_RIGHT"),
        ("12_RIGHT", "12_left"),
    ):
        expected = fusion.fused(raw[own], raw[fellow])[0]
        found = np.array([float(rows[own][name]) for name in fused])
        assert np.abs(found - expected).max() < 2e-3
        assert Path(rows[own]["fellow"]).stem == fellow
        assert int(rows[own]["fused_grade"]) == found.argmax()
        assert shares(rows[own]) == raw[own][0].tolist()
    for lone in ("11_left", "nobody"):
        assert rows[lone]["fellow"] == ""
        assert rows[lone]["fused_grade"] == rows[lone]["grade"]
        assert [float(rows[lone][name]) for name in fused] == raw[lone][0].tolist()
    note = next(line for line in outcome.err if line.startswith("note: "))
    assert "2 of 6 images have no gradable fellow eye" in note
    assert "11_left.png" in note
    grades = [int(row["fused_grade"]) for row in rows.values()]
    counts = np.bincount(grades, minlength=5).tolist()
    assert outcome.json["fused_grade_counts"] == counts


def test_predict_fuses_on_one_scale_where_it_calibrates(
    other: Path, eyes: Path, predicts: Predicts
):
    """The fused columns are as without --calibrated, of eyes alone as of pairs."""
    hold_out(other)
    rewrite(other, calibration=CALIBRATION)
    plain = table(predicts(other, eyes, "--pairs"))
    calibrated = table(predicts(other, eyes, "--pairs", "--calibrated"))
    fused = ["fellow", "fused_grade", *(f"fused_{name}" for name in SHARES)]
    assert {bool(row["fellow"]) for row in plain} == {True, False}
    for before, row in zip(plain, calibrated, strict=True):
        assert [row[name] for name in fused] == [before[name] for name in fused]
        assert shares(row) != shares(before)


def test_predict_does_not_fuse_with_an_eye_that_cant_be_graded(
    other: Path, eyes: Path, predicts: Predicts
):
    hold_out(other)
    Image.new("RGB", (80, 80)).save(eyes / "10_right.png")
    (eyes / "11_right.png").write_bytes(b"torn")
    outcome = predicts(other, eyes, "--pairs", "--format", "json", "--out", eyes / "t")
    assert "1 of 7 images can't be graded" in outcome.complaint
    expected = json.loads((eyes / "t").read_text())
    rows = {Path(row["image"]).stem: row for row in expected}
    assert rows["10_left"]["fellow"] is None
    assert rows["10_left"]["fused_grade"] == rows["10_left"]["grade"]
    assert rows["10_right"]["fellow"] == str(eyes / "10_left.png")
    assert rows["11_left"]["fellow"] is None
    assert rows["11_right"]["fused_grade"] is None


def test_predict_refuses_an_eye_that_is_there_twice(
    other: Path, eyes: Path, predicts: Predicts
):
    hold_out(other)
    (eyes / "more" / "10_left.jpg").write_bytes(photograph(1))
    outcome = predicts(other, eyes, "--pairs")
    assert outcome.code == 1
    assert outcome.out == []
    assert "each eye must be one photograph" in outcome.complaint
    for name in ("10_left.png", "10_left.jpg"):
        assert name in outcome.complaint
    assert predicts(other, eyes).code == 0


def test_predict_of_both_eyes_without_what_fusion_is_fitted_on(
    other: Path, eyes: Path, predicts: Predicts
):
    (other / "validation.parquet").unlink(missing_ok=True)
    none = predicts(other, eyes, "--pairs")
    assert none.code == 1
    assert "held no validation patients out" in none.complaint
    hold_out(other, pairs=5)
    assert (
        "at least 20 patients with both eyes"
        in predicts(other, eyes, "--pairs").complaint
    )
    hold_out(other, sha256="0" * 64)
    assert "has gone on since" in predicts(other, eyes, "--pairs").complaint
    (other / "validation.parquet").write_bytes(b"torn")
    assert "is damaged" in predicts(other, eyes, "--pairs").complaint


def test_predict_of_all_at_once(
    other: Path, eyes: Path, tmp_path: Path, predicts: Predicts
):
    hold_out(other)
    rewrite(other, calibration=CALIBRATION)
    flags = ("--tta", "--calibrated", "--pairs", "--overlays", tmp_path / "out")
    outcome = predicts(other, eyes, *flags)
    rows = table(outcome)
    names = ["image", "grade", "name", *SHARES, "error", "warning", "threshold_grade"]
    assert [*rows[0]][: len(names)] == names
    for row, file in zip(rows, sorted((tmp_path / "out").iterdir()), strict=True):
        assert abs(int(file.stem.rsplit("_", 1)[1]) - 100 * max(shares(row))) <= 0.51
    assert outcome.json["images"] == len(rows) == 6
