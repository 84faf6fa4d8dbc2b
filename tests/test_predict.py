"""``fastretina.predict``: single photographs, prepared as the training images were."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import photograph
from PIL import Image
from small_runs import Outcome, call, make_small, words

from fastretina import evaluate, predict, train
from fastretina.device import choose
from fastretina.evaluate import predict_all
from fastretina.run import Run
from fastretina.trained import load_trained
from loaders import LoaderConfig, make_loader, open_split
from loaders._course import GRADES

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
    with make_loader("pil", shards, "test", LoaderConfig(workers=0)) as loader:
        told = predict_all(trained.network, loader, choose("cpu", "off"))
    found = np.array([shares(row) for row in rows])
    assert found.std(axis=0).max() > 0.01, "the network tells the images apart"
    assert np.abs(found - told.probabilities).max() < 6e-5  # 4 digits are printed
    assert [row["image"] for row in rows] == [str(photo) for photo in photos]
    grades = told.probabilities.argmax(axis=1).tolist()
    assert [int(row["grade"]) for row in rows] == grades
    assert [row["name"] for row in rows] == [GRADES[grade] for grade in grades]
    assert outcome.json == {
        "run": str(run),
        "images": 11,
        "grades": grades,
        "weights_sha256": trained.weights_sha256,
    }
    assert outcome.err == ["Not a medical device."]
    accuracy = np.mean([g == t for g, t in zip(grades, told.labels, strict=True)])
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
            "fastretina.device.torch.autocast",
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
    told = predicts(run, *photos, "--format", form).out
    outcome = predicts(run, *photos, "--format", form, "--out", tmp_path / "table")
    assert outcome.out == told[-1:]
    assert (tmp_path / "table").read_text().splitlines() == told[:-1]
    nowhere = predicts(run, *photos, "--out", tmp_path / "no" / "table")
    assert nowhere.code == 1
    assert "No such file" in nowhere.complaint


def test_predict_names_what_it_cant_grade_and_grades_the_rest(
    run: Path, course: Path, tmp_path: Path, predicts: Predicts
):
    good = sorted((course / "data").iterdir())[:2]
    torn, text, gone = (tmp_path / name for name in ("torn.jpeg", "text.txt", "gone"))
    torn.write_bytes(photograph(3)[:900])
    text.write_text("a letter")
    outcome = predicts(run, good[0], torn, text, gone, tmp_path, good[1])
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
    assert "directory" in rows[4]["error"]
    told = [shares(row) for row in table(predicts(run, *good))]
    assert [shares(rows[0]), shares(rows[5])] == told
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
    turned, as_it_lies, told = map(shares, table(predicts(run, lying, plain, upright)))
    assert turned == told
    assert turned != as_it_lies


def test_predict_takes_png_as_sharding_would(
    run: Path, tmp_path: Path, predicts: Predicts
):
    from fastretina.prepare import Preparer

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
    config = {
        "data": {"preprocessing": {"steps": [], "size": None}},
        "image_shape": [64, 64],
        "square": square,
    }
    found, error = predict._prepare(path, SimpleNamespace(config=config))  # type: ignore[arg-type]
    assert error == ""
    assert found.shape == (64, 64, 3)
    across = int((found[32, :, 0] > 90).sum())
    down = int((found[:, 32, 0] > 90).sum())
    assert down > 55
    assert (across > 55) == square, (across, down)


def test_predict_preprocesses_as_the_shards_were(
    course: Path, tmp_path: Path, predicts: Predicts
):
    from fastretina import shard

    data, run = tmp_path / "shards", tmp_path / "run"
    flags = ["--preprocess", "crop,graham", "--size", "80", "--workers", "1"]
    assert shard.main([str(course), str(data), *flags]) == 0
    flags = ["--amp", "off", "--max-steps", "2", "--image-size", "64"]
    assert train.main(words(data, run, *flags)) == 0
    with open_split(data, "test") as split:
        keys = split.column("key")
    trained = load_trained(Run(run), choose("cpu", "off").device)
    config = LoaderConfig(workers=1, image_size=64)
    with make_loader("turbo", data, "test", config) as loader:
        told = predict_all(trained.network, loader, choose("cpu", "off"))
    rows = table(predicts(run, *[course / "data" / f"{key}.jpeg" for key in keys]))
    found = np.array([shares(row) for row in rows])
    assert np.abs(found - told.probabilities).max() < 6e-5


def test_predict_without_a_run_or_images(
    run: Path, tmp_path: Path, predicts: Predicts, course: Path
):
    photo = next((course / "data").iterdir())
    none = predicts(tmp_path, photo)
    assert none.code == 1
    assert "holds no run" in none.complaint
    for flags in ((run,), (), (run, photo, "--format", "xml")):
        wrong = predicts(*flags)
        assert wrong.code == 2
        assert len(wrong.err) == 1
