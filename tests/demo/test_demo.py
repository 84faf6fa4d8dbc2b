from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from golden_files import FOLDER, Golden
from PIL import Image

from fastretina.demo import command as demo
from fastretina.demo.camera import encode_photograph
from fastretina.demo.cohort import PlannedEye, plan_cohort
from fastretina.demo.fundus import draw_eye
from loaders.leftovers import partial_name

# patient, eye and grade
DRAWN = [(1, "left", 0), (2, "right", 2), (3, "left", 3), (4, "right", 4)]
SHARES = {0: 73.5, 1: 7.0, 2: 15.0, 3: 2.5, 4: 2.1}


def make(out: Path, *words: str) -> int:
    small = ("--images", "24", "--image-size", "96", "--workers", "1")
    return demo.main([str(out), *small, *words])


def contents(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def plan(images: int, test_share: float = 0.2) -> dict[str, list[PlannedEye]]:
    return plan_cohort(0, images, test_share, balanced=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "set"
    assert make(out) == 0
    return out


def test_demo_set_has_the_course_format(made: Path) -> None:
    listed = []
    for split in ("train", "test"):
        names = (made / f"{split}_img.csv").read_bytes()
        grades = (made / f"{split}_label.csv").read_bytes()
        assert names.endswith(b"\n")
        assert b"\r" not in names + grades
        assert len(names.splitlines()) == len(grades.splitlines())
        assert set(grades.splitlines()) <= {b"0", b"1", b"2", b"3", b"4"}
        listed += names.decode().splitlines()
    assert len(set(listed)) == len(listed) == 24
    assert {p.name for p in (made / "data").iterdir()} == {f"{n}.jpeg" for n in listed}


def test_same_seed_gives_same_bytes_with_two_workers(
    made: Path, tmp_path: Path
) -> None:
    assert make(tmp_path / "again", "--workers", "2") == 0
    assert contents(tmp_path / "again") == contents(made)


def test_another_seed_gives_other_images(made: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "other", "--seed", "1") == 0
    first, second = (
        {data for name, data in contents(out).items() if name.endswith(".jpeg")}
        for out in (made, tmp_path / "other")
    )
    assert not first & second


def test_what_ended_workers_were_writing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal ends them at once, half a photograph or not."""
    out = tmp_path / "out"
    part = out / "data" / ".7_left.jpeg.fastretina-4194305-0123abcd.part"

    def interrupted(*_: object) -> Iterator[tuple[int, None]]:
        part.touch()
        yield 0, None
        raise KeyboardInterrupt

    monkeypatch.setattr("fastretina.processes.in_processes", interrupted)
    assert make(out) == 130
    assert not list((out / "data").iterdir())


def test_killed_run_is_completed_by_running_it_again(
    made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    assert make(out) == 0
    whole = contents(out)
    (out / "train_img.csv").unlink()
    killed = sorted((out / "data").iterdir())[3]
    killed.rename(partial_name(killed))
    assert make(out) == 0
    assert contents(out) == whole == contents(made)


def test_last_line_of_stdout_is_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(tmp_path / "set", "--balanced", "--seed", "7") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["out"] == str(tmp_path / "set")
    assert result["images"] == 24
    assert result["seed"] == 7
    totals = [result["train"][g] + result["test"][g] for g in "01234"]
    assert sorted(totals) == [4, 5, 5, 5, 5]
    assert sum(result["test"].values()) == 5


@pytest.mark.parametrize("images", [200, 1400, 5003])
def test_grade_counts_are_exact_and_in_both_splits(images: int) -> None:
    cohort = plan(images=images)
    grades = {split: Counter(s.grade for s in cohort[split]) for split in cohort}
    assert all(grades[split][grade] > 0 for split in grades for grade in SHARES)
    assert len(cohort["test"]) == round(images * 0.2)
    for grade, share in SHARES.items():
        total = grades["train"][grade] + grades["test"][grade]
        assert abs(total - images * share / 100.1) < 1
        assert abs(grades["test"][grade] - 0.2 * total) <= 1


@pytest.mark.parametrize("test_share", [0.01, 0.99])
def test_lopsided_split_keeps_every_grade(test_share: float) -> None:
    cohort = plan(images=1000, test_share=test_share)
    assert all({s.grade for s in cohort[split]} == set(SHARES) for split in cohort)


@pytest.mark.parametrize("images", [2, 3, 7, 1400])
def test_no_patient_is_in_both_splits(images: int) -> None:
    cohort = plan(images=images)
    train, test = ({s.patient for s in cohort[split]} for split in ("train", "test"))
    assert train
    assert test
    assert not train & test
    names = [sample.name for split in cohort for sample in cohort[split]]
    assert len(set(names)) == len(names) == images


def test_most_patients_have_two_eyes_and_most_pairs_agree() -> None:
    eyes: dict[int, list[int]] = {}
    for samples in plan(images=3000).values():
        for sample in samples:
            eyes.setdefault(sample.patient, []).append(sample.grade)
    pairs = [grades for grades in eyes.values() if len(grades) == 2]
    assert 0.85 < 2 * len(pairs) / 3000 < 0.97
    assert 0.85 < sum(a == b for a, b in pairs) / len(pairs) < 0.89


def test_rows_are_shuffled() -> None:
    train = plan(images=1400)["train"]
    assert train != sorted(train)
    changes = sum(a.grade != b.grade for a, b in pairwise(train))
    assert changes > len(train) / 4
    neighbours = sum(a.patient == b.patient for a, b in pairwise(train))
    assert neighbours < 10


def test_cohort_changes_with_the_version_alone(golden: Golden) -> None:
    """What a seed stands for: else a folder begun before would hold two cohorts."""
    cohort = plan(images=24)
    lines = [
        f"{split} {eye.name} {eye.grade}" for split in cohort for eye in cohort[split]
    ]
    golden(f"demo/cohort-version-{demo.VERSION}.txt", "\n".join(lines))


def test_drawing_changes_with_the_version_alone(golden: Golden) -> None:
    """Means of blocks; another processor may round single pixels otherwise."""
    name = f"demo/drawing-version-{demo.VERSION}.txt"
    heads, values = [], []
    for eye in DRAWN:
        image, quality = draw_eye(0, *eye, 512)
        grain = np.abs(np.diff(image.astype(int), axis=0, append=0))
        heads.append(f"{eye}, quality {quality}: blocks of 64 x 64, then their grain")
        values.append([means(image), means(grain)])
    lines = [
        line
        for head, (mean, grain) in zip(heads, values, strict=True)
        for line in (head, *map(_as_line, mean), *map(_as_line, grain))
    ]
    path = FOLDER / name
    kept = path.read_text().splitlines() if path.exists() else []
    known = [line.split() for line in kept if not line.startswith("(")]
    same = [line for line in kept if line.startswith("(")] == heads and (
        np.abs(np.float64(known).ravel() - np.ravel(values)).max() < 0.1
    )
    golden(name, "\n".join(kept if same else lines))


def means(image: np.ndarray) -> np.ndarray:
    """float64[8, 8] of uint8[512, 512, 3]: the means of 8 x 8 blocks."""
    blocks: np.ndarray = image.reshape(8, 64, 8, 64, 3).mean((1, 3, 4))
    return blocks


def _as_line(values: np.ndarray) -> str:
    return " ".join(f"{value:.2f}" for value in values)


@pytest.mark.parametrize("grade", range(5))
def test_image_is_a_baseline_420_jpeg(grade: int) -> None:
    data = encode_photograph(*draw_eye(0, 1, "right", grade, 512))
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (512, 512))
    assert not image.info.get("progressive", False)
    assert [part[1:3] for part in image.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]
    image.load()
    assert 15_000 < len(data) < 150_000


def test_surround_is_black_and_fundus_is_not() -> None:
    for patient in range(6):
        image, _ = draw_eye(0, patient, "left", 4, 128)
        assert image[:3, :3].max() < 30
        assert image[48:80, 48:80].mean() > 25


def test_right_eye_has_its_disc_on_the_other_side() -> None:
    def brighter_side(eye: str) -> float:
        images = [draw_eye(3, patient, eye, 0, 96)[0] for patient in range(8)]
        mean = np.mean(images, axis=(0, 3))[32:64]
        return float(mean[:, 8:28].mean() - mean[:, 68:88].mean())

    assert brighter_side("left") > 0 > brighter_side("right")


def test_lesions_grow_with_the_grade() -> None:
    changes = np.zeros((12, 5))
    for patient in range(12):
        plain, _ = draw_eye(0, patient, "left", 0, 256)
        for grade in range(5):
            drawn, _ = draw_eye(0, patient, "left", grade, 256)
            changes[patient, grade] = np.abs(drawn.astype(int) - plain).mean()
    mean = changes.mean(0)
    assert mean[0] == 0
    assert np.all(np.diff(mean[:4]) > 0)
    assert mean[2] > 4 * mean[1]
    assert mean[3] > 1.5 * mean[2]
    assert mean[4] > 1.5 * mean[2]


def test_everything_but_the_lesions_ignores_the_grade() -> None:
    for patient in range(8):
        plain, quality = draw_eye(0, patient, "left", 0, 256)
        for grade in (1, 4):
            drawn, same = draw_eye(0, patient, "left", grade, 256)
            assert same == quality
            untouched = (drawn == plain).all(-1)
            assert untouched.mean() > (0.97 if grade == 1 else 0.35)


def test_mean_colour_does_not_tell_the_grade() -> None:
    def brightness(grade: int, first: int) -> np.ndarray:
        eyes = range(first, first + 20)
        return np.array([draw_eye(0, p, "left", grade, 64)[0].mean() for p in eyes])

    healthy, ill = brightness(0, 0), brightness(3, 20)
    spread = np.sqrt(healthy.var() / 20 + ill.var() / 20)
    assert abs(healthy.mean() - ill.mean()) < 3 * spread


def test_foreign_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train_img.csv").write_text("mine\n")
    assert make(tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "holds something else" in error
    assert contents(tmp_path) == {"train_img.csv": b"mine\n"}


def test_file_in_place_of_the_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set").write_text("mine")
    assert make(tmp_path / "set") == 1
    assert "is a file" in capsys.readouterr().err


def test_other_demo_set_is_refused_then_overwritten(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert make(out, "--seed", "5", "--images", "30") == 0
    before = contents(out)
    assert make(out) == 1
    assert "demo set of other options" in capsys.readouterr().err
    assert contents(out) == before
    assert make(out, "--overwrite") == 0
    assert contents(out) == contents(made)


def test_overwrite_leaves_foreign_images_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.jpeg").write_bytes(b"mine")
    assert make(tmp_path, "--overwrite") == 0
    assert (tmp_path / "data" / "mine.jpeg").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--images", "0"),
        ("--images", "1"),
        ("--test-share", "1.5"),
        ("--test-share", "0"),
        ("--test-share", "nan"),
        ("--image-size", "63"),
        ("--seed", "-1"),
        ("--workers", "0"),
    ],
)
def test_bad_value_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    assert demo.main([str(tmp_path / "set"), flag, value]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    words = " ".join(error.replace("\u2502", " ").split())  # tyro may draw a box
    assert f"{flag} must " in words
    assert f"got {value}" in words
    assert not (tmp_path / "set").exists()
