"""The audit finds what makes a score worth little, and mends the split."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from drawn_photographs import drawn_photograph
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastretina.audit import command as audit
from fastretina.audit import search as searching
from fastretina.audit.audited_data_set import AuditedDataSet, AuditError, Eye
from fastretina.audit.duplicates import (
    DuplicateGroup,
    Link,
    find_duplicates,
    group_links,
)
from fastretina.audit.findings import list_findings
from fastretina.audit.fingerprints import fingerprint, take_fingerprints
from fastretina.audit.fix import inseparable, new_split
from fastretina.audit.headers import read_label_files
from fastretina.audit.phash import TURNS, agreement, thumbnail
from fastretina.audit.search import search
from fastretina.audit.split_counts import (
    compare_fellow_eyes,
    grade_difference,
    split_numbers,
)
from fastretina.audit.split_writer import SplitNote, write_split
from fastretina.audit.survey import AuditResult
from fastretina.data.labels import read_table
from fastretina.metrics.baselines import Leak
from loaders.course import COURSE_FILES, IMAGE_WORDS, read_course_split
from loaders.folder import RetinopathyDataset
from loaders.shards import SPLITS

UInt8 = np.ndarray[Any, np.dtype[np.uint8]]


# --- made-up photographs ------------------------------------------------------------


def fundus(seed: int, size: int = 256) -> UInt8:
    """A lit disc with detail of every size, uint8[size, size, 3]."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size), 90.0)
    for cells, strength in ((4, 40), (12, 30), (32, 30)):
        noise = rng.standard_normal((cells, cells)).astype(np.float32)
        image += strength * cv2.resize(
            noise, (size, size), interpolation=cv2.INTER_CUBIC
        )
    across = np.arange(size) - (size - 1) / 2
    disc = across[:, np.newaxis] ** 2 + across**2 < (0.48 * size) ** 2
    image = np.where(disc, np.clip(image, 30, 250), 0)
    return (image[..., np.newaxis] * (1.0, 0.6, 0.4)).astype(np.uint8)


def jpeg(image: UInt8, quality: int = 92) -> bytes:
    content: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorsubsampling="420"
    )
    return content


def cropped(image: UInt8, share: float) -> UInt8:
    size = len(image)
    edge = round(size * share / 2)
    inner = image[edge : size - edge, edge : size - edge]
    return cv2.resize(inner, (size, size), interpolation=cv2.INTER_AREA)


def resized(image: UInt8) -> UInt8:
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return cv2.resize(half, image.shape[:2], interpolation=cv2.INTER_LINEAR)


CHANGES: dict[str, Callable[[UInt8], bytes]] = {
    "encoded again": lambda image: jpeg(image, 60),
    "resized and back": lambda image: jpeg(resized(image)),
    "brighter": lambda image: jpeg(np.clip(image * 1.1, 0, 255).astype(np.uint8)),
    "cropped by 3 %": lambda image: jpeg(cropped(image, 0.03)),
    "cropped by 6 %": lambda image: jpeg(cropped(image, 0.06)),
    "mirrored": lambda image: jpeg(image[:, ::-1]),
    "upside down": lambda image: jpeg(image[::-1, ::-1]),
    "turned": lambda image: jpeg(np.rot90(image)),
}


def commented(content: bytes) -> bytes:
    """Other bytes, the same pixels: a comment is put behind the JPEG's first marker."""
    return content[:2] + b"\xff\xfe\x00\x07other" + content[2:]


def write_course(
    root: Path, rows: Sequence[tuple[str, str, int]], header: bool = False
) -> Path:
    """The four CSVs of (split, name, grade)."""
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        part = [row for row in rows if row[0] == split]
        names = ["image"] * header + [name for _, name, _ in part]
        grades = ["level"] * header + [str(grade) for _, _, grade in part]
        (root / f"{split}_img.csv").write_text("\n".join(names) + "\n")
        (root / f"{split}_label.csv").write_text("\n".join(grades) + "\n")
    return root


def write_images(folder: Path, images: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in images.items():
        (folder / f"{name}.jpeg").write_bytes(content)
    return folder


def run(
    capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, Any, str]:
    """Exit code, the report, the JSON line with what is in ``--out``, stderr."""
    capsys.readouterr()
    with tempfile.TemporaryDirectory() as folder:
        details = Path(folder) / "all.json"
        asked = [] if "--out" in words else ["--out", details]
        code = audit.main([str(word) for word in (*words, *asked)])
        everything = json.loads(details.read_text()) if details.exists() else {}
    out, err = capsys.readouterr()
    *report, last = out.splitlines() or [""]
    result = {**everything, **json.loads(last)} if last.startswith("{") else None
    return code, "\n".join(report), result, err


def complaint(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code, _, _, err = run(capsys, *words)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    return code, lines[0]


def flat(report: str) -> str:
    """The report without its line breaks."""
    return " ".join(report.split())


def pairs_of(count: int, first: int = 0) -> list[str]:
    return [f"{p}_{side}" for p in range(first, first + count) for side in SIDES]


SIDES = ("left", "right")

MADE_OF = SplitNote(
    source_layout="course",
    seed=0,
    test_share=0.2,
    images={"train": 1, "test": 1},
    kept_together=2,
    looked_for_copies=False,
)


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    """8 patients: of 3 the right eye is in test, and there are copies.

    0_left is the same file as 7_left (test, another grade); 1_left is 6_left encoded
    anew and mirrored, both in train; 2_right (test) has the pixels of 3_left (train).
    """
    images = {name: jpeg(fundus(n)) for n, name in enumerate(pairs_of(8))}
    images["7_left"] = images["0_left"]
    images["6_left"] = jpeg(fundus(2)[:, ::-1], 60)
    images["2_right"] = commented(images["3_left"])
    rows = []
    for name in images:
        patient, side = name.split("_")
        test = patient == "7" or (patient in "012" and side == "right")
        grade = {"7": 3, "6": 1, "2": 1, "3": 1}.get(patient, int(patient) % 2)
        rows.append(("test" if test else "train", name, grade))
    root = write_course(tmp_path / "set", rows)
    write_images(root / "data", images)
    return root


# --- the course's own files ----------------------------------------------------------


def test_course_labels_have_the_known_numbers(
    real_data: Path, capsys: pytest.CaptureFixture[str]
):
    code, report, found, err = run(capsys, real_data / "course_labels")
    assert (code, err) == (0, "")
    assert (found["samples"], found["patients"]) == (35_126, 17_563)
    assert (found["leak"]["eyes"], found["leak"]["total"]) == (5_618, 7_026)
    rule = found["baselines"]["fellow_eye"]
    assert round(rule["accuracy"], 3) == 0.847
    assert round(rule["qwk"], 3) == 0.723
    assert round(rule["balanced_accuracy"], 3) == 0.625
    assert round(found["baselines"]["majority"]["accuracy"], 4) == 0.7336
    assert found["baselines"]["majority"]["balanced_accuracy"] == 0.2
    assert found["must_beat"]["accuracy"] == rule["accuracy"]
    eyes = found["left_and_right"]
    assert eyes["pairs"] == 17_563
    assert round(eyes["same"] / eyes["pairs"], 3) == 0.872
    assert round(eyes["near"] / eyes["pairs"], 3) == 0.957
    assert found["duplicates"] is None
    for line in (
        "5,618 of 7,026 test images (80.0%)",
        "the fellow eye's training label, else 0 84.7% 0.723 62.5%",
        "finds 28,099 samples and not 28,100: it loses 2576_right (grade 0)",
        "finds 7,025 samples and not 7,026: it loses 3798_left (grade 0)",
        "The images are not here",
    ):
        assert line in flat(report)


def test_course_labels_are_fixed_without_images(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "fixed"
    code, report, found, _ = run(capsys, real_data / "course_labels", "--fix", out)
    assert code == 0
    fixed = found["fix"]
    assert fixed["leak"]["eyes"] == 0
    assert fixed["patients_in_both"] == 0
    assert abs(fixed["images"]["test"] - 7_026) < 20
    for split in ("train", "test"):
        old, new = found["splits"][split]["grades"], fixed["splits"][split]["grades"]
        assert all(abs(old[g] - new[g]) < 0.15 * old[g] + 5 for g in old)
    assert "Put the photographs, or a link to their folder, at" in report
    assert not (out / "data").exists()
    code, _, again, _ = run(capsys, out)
    assert again["splits"] == fixed["splits"]
    assert again["baselines"]["fellow_eye"]["qwk"] == 0
    assert again["leak"]["eyes"] == 0


def test_real_photographs_raise_no_false_alarm(real_data: Path):
    paths = sorted((real_data / "retina512" / "data").iterdir())
    prints = take_fingerprints(
        lambda place: paths[place].read_bytes(), range(len(paths)), 2
    )
    assert not prints.unreadable
    found = find_duplicates(prints.by_place, lambda place: paths[place].read_bytes(), 2)
    alarms = [[paths[place].stem for place in group.places] for group in found.groups]
    # One eye, photographed twice and filed as left and right.
    assert alarms == [["10397_left", "10397_right"]]
    assert [paths[place].stem for place in found.blank] == ["766_left"]


@pytest.mark.parametrize("change", CHANGES)
def test_real_photographs_are_found_again_when_changed(real_data: Path, change: str):
    paths = sorted((real_data / "retina512" / "data").iterdir())[3::60]
    contents = [path.read_bytes() for path in paths]
    images = [simplejpeg.decode_jpeg(content) for content in contents]
    contents += [CHANGES[change](image) for image in images]
    prints = {place: fingerprint(content) for place, content in enumerate(contents)}
    found = find_duplicates(prints, contents.__getitem__, 1)
    size = len(paths)
    assert [group.places for group in found.groups] == [
        (n, n + size) for n in range(size)
    ]


# --- drawn photographs, for everyone -------------------------------------------------


def test_drawn_photographs_raise_no_false_alarm():
    """Fellow eyes are the hardest: both are drawn over one photograph."""
    contents = [
        drawn_photograph(patient, side, patient % 5)
        for patient in range(25)
        for side in SIDES
    ]
    prints = take_fingerprints(contents.__getitem__, range(len(contents)), 2)
    assert not prints.unreadable
    assert find_duplicates(prints.by_place, contents.__getitem__, 2) == ([], [])


def test_fellow_eyes_that_the_hash_takes_for_copies_are_told_apart():
    """Their details agree to 0.55 to 0.67: it is the second look that sees."""
    patients = (84, 109, 152, 165)
    contents = [drawn_photograph(p, side) for p in patients for side in SIDES]
    prints = {place: fingerprint(content) for place, content in enumerate(contents)}
    signs, zoomed = (
        np.stack([getattr(prints[place], name) for place in prints])
        for name in ("signs", "zoomed")
    )
    pairs = search(signs, zoomed)
    alike = set(zip(pairs.one.tolist(), pairs.other.tolist(), strict=True))
    assert alike >= {(0, 1), (2, 3), (4, 5), (6, 7)}, "or this tests nothing"
    assert find_duplicates(prints, contents.__getitem__, 1) == ([], [])


@pytest.mark.parametrize(
    "change",
    [
        lambda image: jpeg(
            cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA), 60
        ),
        lambda image: jpeg(resized(image)[:, ::-1], 30),
    ],
    ids=["a thumbnail at quality 60", "mirrored, resized and encoded at quality 30"],
)
def test_copy_that_barely_agrees_is_found(change: Callable[[UInt8], bytes]):
    """Of 40 drawn photographs the one that agrees least with its changed copies."""
    whole = drawn_photograph(10)
    contents = [whole, change(simplejpeg.decode_jpeg(whole)), drawn_photograph(11)]
    prints = {place: fingerprint(content) for place, content in enumerate(contents)}
    (group,) = find_duplicates(prints, contents.__getitem__, 1).groups
    assert group.places == (0, 1)
    assert group.links[0].agreement < 0.85, "or this tests nothing"


@pytest.mark.parametrize("change", CHANGES)
def test_drawn_photographs_are_found_again_when_changed(change: str):
    contents = [drawn_photograph(patient, grade=patient % 5) for patient in range(12)]
    images = [simplejpeg.decode_jpeg(content) for content in contents]
    contents += [CHANGES[change](image) for image in images]
    prints = {place: fingerprint(content) for place, content in enumerate(contents)}
    found = find_duplicates(prints, contents.__getitem__, 1)
    assert [group.places for group in found.groups] == [(n, n + 12) for n in range(12)]


def test_odd_drawn_files_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """As the real ones: turned, CMYK and progressive are one photograph's look."""
    whole, other = drawn_photograph(1), drawn_photograph(2)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {"plain": whole, "other": other, "cut": other[: len(other) // 2]}
    with Image.open(io.BytesIO(whole)) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
        for name, variant, options in (
            ("exif", turned, {"exif": exif}),
            ("cmyk", image.convert("CMYK"), {}),
            ("progressive", image, {"progressive": True}),
        ):
            buffer = io.BytesIO()
            variant.save(buffer, "JPEG", quality=90, **options)
            files[name] = buffer.getvalue()
    files["dark"] = jpeg(np.zeros((256, 256, 3), np.uint8))
    write_images(tmp_path / "set" / "0", files)
    write_images(tmp_path / "set" / "3", {"same": other})
    code, text, found, _ = run(capsys, tmp_path / "set")
    assert code == 0
    assert found["images"]["unreadable"] == 1
    assert found["images"]["blank"] == 1
    duplicates = found["duplicates"]
    assert (duplicates["bytes"], duplicates["look"]) == (1, 1)
    assert duplicates["images"] == 6
    assert duplicates["conflicting_grades"] == 1
    assert "1 photograph has more than one grade (1 by identical bytes)" in flat(text)


# --- findings ---------------------------------------------------------------------


def test_report_names_every_fault_of_a_leaking_set(
    leaking: Path, capsys: pytest.CaptureFixture[str]
):
    code, report, found, err = run(capsys, leaking)
    assert (code, err) == (0, "")
    assert found["leak"] == {"eyes": 3, "total": 5, "unknown": 0, "share": 0.6}
    assert found["duplicates"] == {
        "bytes": 1,
        "pixels": 1,
        "look": 1,
        "images": 6,
        "across_splits": 2,
        "test_images_in_train": 2,
        "conflicting_grades": 1,
    }
    assert found["findings"]["fellow eyes"] == "fault"
    for line in (
        "3 of 5 test images (60.0%) are of patients whose other eye is in train",
        "2 photographs are in train and in test, as 2 test images "
        "(1 by identical bytes, 1 by identical pixels)",
        "0_left (train, grade 0) = 7_left (test, grade 3): identical bytes",
        "3_left (train, grade 1) = 2_right (test, grade 1): identical pixels",
        "1 photograph has more than one grade (1 by identical bytes)",
        "1 photograph is more than once in a split, with the same grade (1 by look)",
        "1_left (train, grade 1) = 6_left (train, grade 1): mirrored, agreement",
    ):
        assert line in flat(report)


def test_the_json_line_is_short(leaking: Path, capsys: pytest.CaptureFixture[str]):
    assert audit.main([str(leaking)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    keys = "data layout own_split samples patients patients_unknown "
    keys += "patients_identified_from splits patients_in_both leak must_beat images "
    assert [
        *json.loads(line)
    ] == f"{keys}duplicates findings fix seconds wall_seconds".split()
    assert len(line) < 1300


def test_findings_come_worst_first(leaking: Path, capsys: pytest.CaptureFixture[str]):
    _, report, _, _ = run(capsys, leaking)
    ranks = {"fault": 0, "warning": 1, "note": 2, "ok": 3}
    seen = [
        ranks[line.split()[0]]
        for line in report.splitlines()
        if line[:1].isalpha() and line.split()[0] in ranks
    ]
    assert seen == sorted(seen)
    assert set(seen) == {0, 1, 2, 3}


def test_an_eye_filed_as_both_is_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    names = [*pairs_of(1), *pairs_of(3, 1)]
    root = write_course(
        tmp_path / "set", [("train", n, 0) for n in names] + [("test", "9_left", 1)]
    )
    images = {name: jpeg(fundus(2)) for name in names[2:]}
    images |= {name: jpeg(fundus(1)) for name in names[:2]}
    write_images(root / "data", images | {"9_left": jpeg(fundus(3))})
    _, report, found, _ = run(capsys, root)
    assert found["findings"]["duplicates"] == "warning"
    pair = "0_left (train, grade 0) = 0_right (train, grade 0)"
    assert f"{pair}: identical bytes, one eye filed as both" in flat(report)
    assert "2_right (train, grade 0) = 2 more: identical bytes" in flat(report)
    assert report.count("filed as both") == 1


def test_out_holds_every_name(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "all.json"
    _, _, line, _ = run(capsys, leaking, "--out", out)
    found = json.loads(out.read_text())
    assert found["leak"] == line["leak"]
    assert [
        (group["same"], [image["name"] for image in group["images"]])
        for group in found["groups"]
    ] == [
        ("bytes", ["0_left", "7_left"]),
        ("look", ["1_left", "6_left"]),
        ("pixels", ["3_left", "2_right"]),
    ]
    first, second, _ = found["groups"]
    assert first["across_splits"]
    assert first["conflicting_grades"]
    assert second["links"][0]["other_is"] == "mirrored"
    assert second["links"][0]["agreement"] > 0.8
    assert not second["across_splits"]


def test_clean_set_has_no_fault(course: Path, capsys: pytest.CaptureFixture[str]):
    code, report, found, _ = run(capsys, course, "--strict")
    assert code == 0
    assert "fault" not in found["findings"].values()
    assert "No test image's fellow eye is in train." in report
    assert "None among 48 images." in report


def test_strict_fails_on_a_leak_after_the_report(
    leaking: Path, capsys: pytest.CaptureFixture[str]
):
    code, report, found, err = run(capsys, leaking, "--strict")
    assert code == 1
    assert "5 test images" in flat(report)
    assert found["leak"]["eyes"] == 3
    assert err == (
        f"error: {leaking}: 3 of 5 test images are of patients in train, "
        "2 photographs in both splits, 1 photograph of several grades\n"
    )


def test_strict_fails_on_conflicting_grades_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [("train", "1_left", 0), ("train", "2_left", 4), ("test", "3_left", 0)]
    images = {"1_left": jpeg(fundus(1)), "3_left": jpeg(fundus(3))}
    images["2_left"] = images["1_left"]
    root = write_course(tmp_path / "set", rows)
    write_images(root / "data", images)
    code, line = complaint(capsys, root, "--strict")
    assert code == 1
    assert line.endswith(": 1 photograph of several grades")


def test_no_images_leaves_them_unread(
    leaking: Path, capsys: pytest.CaptureFixture[str]
):
    for path in (leaking / "data").iterdir():
        path.write_bytes(b"")
    code, report, found, _ = run(capsys, leaking, "--no-images")
    assert code == 0
    assert found["duplicates"] is None
    assert "duplicates are not looked for" in flat(report)


def test_unreadable_images_are_counted_and_named(
    leaking: Path, capsys: pytest.CaptureFixture[str]
):
    whole = (leaking / "data" / "4_left.jpeg").read_bytes()
    (leaking / "data" / "4_left.jpeg").write_bytes(whole[: len(whole) // 2])
    (leaking / "data" / "4_right.jpeg").write_bytes(b"no image")
    (leaking / "data" / "5_left.jpeg").write_bytes(b"")
    code, report, found, _ = run(capsys, leaking)
    assert code == 0
    assert found["images"]["unreadable"] == 3
    assert found["duplicates"]["images"] == 6
    assert "3 images can't be decoded" in report
    assert "4_left: Premature end of JPEG file" in report
    assert "4_right: the file is no JPEG, PNG, TIFF or WebP" in report


def test_odd_files_are_told_apart(real_data: Path, tmp_path: Path, capsys: Any):
    odd = real_data / "odd"
    root = tmp_path / "set"
    for path in odd.glob("*.jp*g"):
        grade = "3" if "folder3" in path.name else "0"
        (root / grade).mkdir(parents=True, exist_ok=True)
        (root / grade / path.name).symlink_to(path)
    code, report, found, _ = run(capsys, root)
    assert code == 0
    assert found["images"]["unreadable"] == 2
    assert found["images"]["blank"] == 1
    duplicates = found["duplicates"]
    assert (duplicates["bytes"], duplicates["conflicting_grades"]) == (1, 1)
    assert duplicates["look"] == 1  # the one that is turned by EXIF, CMYK, progressive
    assert "real_gray_dupbytes_folder3_17_right (train, grade 3)" in flat(report)


def test_blank_images_are_no_duplicates(
    leaking: Path, capsys: pytest.CaptureFixture[str]
):
    for value, name in ((3, "4_left"), (9, "5_left")):
        dark = np.full((128, 128, 3), value, np.uint8)
        (leaking / "data" / f"{name}.jpeg").write_bytes(jpeg(dark))
    _, report, found, _ = run(capsys, leaking)
    assert found["images"]["blank"] == 2
    assert found["duplicates"]["images"] == 6
    assert "2 images have next to nothing on it: 4_left, 5_left." in flat(report)


def test_missing_and_unlisted_images_are_counted(
    leaking: Path, capsys: pytest.CaptureFixture[str]
):
    (leaking / "data" / "4_left.jpeg").unlink()
    (leaking / "data" / "extra.jpeg").write_bytes(jpeg(fundus(99)))
    _, report, found, _ = run(capsys, leaking)
    assert found["images"]["missing"] == 1
    assert found["images"]["left_out"] == {"in no label file": 1}
    assert found["samples"] == 16
    assert "1 listed image is missing: 4_left." in flat(report)
    assert "left out, in no label file: data/extra.jpeg." in flat(report)
    assert "15 of them here; 1 other file not taken" in flat(report)


def test_names_without_an_eye_are_said_to_tell_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "train.csv"
    rows = [f"{n:04x}c1,{n % 5}" for n in range(50)]
    path.write_text("\n".join(["id_code,diagnosis", *rows]) + "\n")
    _, report, found, _ = run(capsys, tmp_path)
    assert found["layout"] == "aptos"
    assert found["left_and_right"] is None
    assert "50 photographs of unknown patients" in report
    assert (found["patients"], found["patients_unknown"]) == (0, 50)
    assert found["findings"]["fellow eyes"] == "warning"
    assert "No patient can be identified from eye markers" in report
    assert "so whether one is in both splits is unknown" in flat(report)
    assert "holds out whole patients" not in flat(report)


def test_a_column_identifies_the_patients(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [f"{n:04x}c1,{n % 5},p{n // 2}" for n in range(50)]
    (tmp_path / "train.csv").write_text(
        "\n".join(["id_code,diagnosis,patient", *rows]) + "\n"
    )
    _, report, found, _ = run(capsys, tmp_path, "--patient-column", "patient")
    assert (found["patients"], found["patients_unknown"]) == (25, 0)
    assert "50 photographs of 25 patients" in report
    assert found["findings"]["fellow eyes"] == "ok"
    assert found["patients_in_both"] == 0
    fixed = tmp_path.parent / f"{tmp_path.name}-fixed"
    flags = ("--patient-column", "patient", "--fix", fixed)
    _, _, found, _ = run(capsys, tmp_path, *flags)
    assert found["fix"]["patients_in_both"] == 0


def test_some_unknown_patients_are_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [("train", "1_OS", 0), ("train", "scan1", 1), ("test", "2_OD", 1)]
    rows += [("test", "scan2", 0)]
    _, report, found, _ = run(capsys, write_course(tmp_path / "set", rows))
    assert "4 photographs of 2 patients, 2 of them of unknown patients" in report
    assert found["splits"]["train"]["patients_unknown"] == 1
    assert found["findings"]["patients"] == "warning"
    assert "The patients of 2 of 4 photographs can't be identified" in flat(report)
    assert "in the image names: scan1, scan2." in flat(report)
    assert "in train, as far as patients are known." in flat(report)
    assert re.search(r"^patient unknown +1 +1$", report, re.MULTILINE)


def test_a_leak_of_other_markers_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [("train", f"P{n}_OD", n % 5) for n in range(10)]
    rows += [("test", f"P{n}_OS", n % 5) for n in range(4)]
    _, _, found, _ = run(capsys, write_course(tmp_path / "set", rows))
    assert found["leak"] == {"eyes": 4, "total": 4, "unknown": 0, "share": 1.0}
    assert found["findings"]["fellow eyes"] == "fault"


def test_patients_of_shards_are_what_they_are(
    shards: Path, capsys: pytest.CaptureFixture[str]
):
    code, line = complaint(capsys, shards, "--patient-pattern", "([0-9]+)_")
    assert code == 1
    assert "holds shards, whose patients were identified when they were written" in line


def test_a_run_is_no_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "config.json").write_text("{}")
    code, line = complaint(capsys, tmp_path)
    assert code == 1
    assert f"{tmp_path} holds a run, not photographs and their labels" in line


def test_a_leak_is_found_by_a_pattern(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [("train", f"{n}x1", n % 5) for n in range(10)]
    rows += [("test", f"{n}x2", n % 5) for n in range(4)]
    root = write_course(tmp_path / "set", rows)
    _, _, found, _ = run(capsys, root, "--patient-pattern", "^([0-9]+)x")
    assert found["leak"] == {"eyes": 4, "total": 4, "unknown": 0, "share": 1.0}
    assert found["patients_in_both"] == 4


def test_files_that_are_not_taken_are_counted_and_named(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (leaking / "data" / "scan.bmp").write_bytes(b"BM")
    (leaking / "notes.txt").write_text("mine")
    out = tmp_path / "all.json"
    _, report, found, _ = run(capsys, leaking, "--out", out)
    assert "all of them here; 2 other files not taken" in report
    assert found["findings"]["left out"] == "warning"
    assert "a format that is not read (.bmp 1): data/scan.bmp." in flat(report)
    assert json.loads(out.read_text())["left_out"] == {
        "in a format that is not read": ["data/scan.bmp"],
        "no images by their suffix": ["notes.txt"],
    }


# --- header ------------------------------------------------------------------------


def test_header_lines_are_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [("train", "1_left", 0), ("train", "2_left", 1), ("test", "3_left", 0)]
    _, report, found, _ = run(capsys, write_course(tmp_path / "set", rows, header=True))
    assert [files["lost"] for files in found["label_files"]] == [None, None]
    assert found["findings"]["header"] == "ok"
    assert "train_img.csv and train_label.csv have a header line" in flat(report)


def test_files_without_header_tell_the_row_that_is_lost(tmp_path: Path):
    rows = [("train", "1_left", 4), ("train", "2_left", 1), ("test", "3_left", 2)]
    train, test = read_label_files(write_course(tmp_path, rows), "course")
    assert (train.rows, train.rows_read) == (2, 1)
    assert (train.first, train.grade) == ("1_left", 4)
    assert (test.rows, test.rows_read) == (1, 0)
    assert (test.first, test.grade) == ("3_left", 2)
    assert not read_label_files(tmp_path, "kaggle")


def test_a_header_in_one_file_of_two_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [("train", "1_left", 0), ("train", "2_left", 1), ("test", "3_left", 0)]
    root = write_course(tmp_path / "set", rows)
    (root / "train_label.csv").write_text("level\n0\n1\n")
    _, report, found, _ = run(capsys, root)
    assert found["findings"]["header"] == "fault"
    assert found["splits"]["train"]["grades"]["1"] == 1
    assert "train_img.csv has no header line and its counterpart has" in flat(report)


def test_grades_that_have_slid_by_a_row_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    names = pairs_of(400)
    grades = [n // 2 % 5 for n in range(800)]
    rows = [("train", *row) for row in zip(names, grades, strict=True)]
    shifted = zip(names, [*grades[1:], 0], strict=True)
    rest = [("test", "999_left", 0), ("test", "999_right", 0)]
    right = write_course(tmp_path / "right", [*rows, *rest])
    wrong = write_course(
        tmp_path / "wrong", [*(("train", *row) for row in shifted), *rest]
    )
    _, report, found, _ = run(capsys, right)
    assert "by chance" not in report
    assert found["agree_by_chance"] == {}
    _, report, found, _ = run(capsys, wrong)
    text = flat(report)
    assert "warning left and right: In train, fellow eyes agree by chance alone" in text
    assert found["agree_by_chance"]["train"]["pairs"] == 400
    assert found["agree_by_chance"]["train"]["first"] == "0_left"


# --- layouts -----------------------------------------------------------------------


def kaggle(root: Path, count: int = 40) -> Path:
    root.mkdir()
    rows = [f"{name},{n // 2 % 5}" for n, name in enumerate(pairs_of(count))]
    (root / "trainLabels.csv").write_text("\n".join(["image,level", *rows]) + "\n")
    return root


def test_layout_without_test_split_shows_the_one_that_sharding_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], run_shard: Any
):
    root = kaggle(tmp_path / "set")
    write_images(root / "train", {n: jpeg(fundus(0, 32)) for n in pairs_of(40)})
    words = ("--test-share", "0.3", "--seed", "5")
    _, report, found, _ = run(capsys, root, "--no-images", *words)
    assert not found["own_split"]
    assert "holds out whole patients" in flat(report)
    _, out, _ = run_shard(root, tmp_path / "shards", *words)
    sharded = json.loads(out[-1])["splits"]
    assert {s: part["grades"] for s, part in found["splits"].items()} == sharded


def test_folders_have_a_split_if_there_is_a_test_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for split, names in (("train", "ab"), ("test", "cd")):
        for grade, name in enumerate(names):
            folder = tmp_path / "with" / split / str(grade)
            write_images(folder, {name: jpeg(fundus(ord(name)))})
            write_images(tmp_path / "without" / str(grade), {name: jpeg(fundus(1))})
    _, _, found, _ = run(capsys, tmp_path / "with")
    assert found["own_split"]
    _, _, found, _ = run(capsys, tmp_path / "without")
    assert not found["own_split"]
    assert found["duplicates"]["bytes"] == 1


def test_shards_are_audited_like_their_folder(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run_shard: Any
):
    whole = (leaking / "data" / "5_left.jpeg").read_bytes()
    (leaking / "data" / "5_left.jpeg").write_bytes(whole[:200])
    code, _, _ = run_shard(leaking, tmp_path / "shards", "--workers", "1")
    assert code == 0
    _, _, folder, _ = run(capsys, leaking)
    _, report, found, _ = run(capsys, tmp_path / "shards")
    assert found["layout"] == "shards"
    assert found["duplicates"] == folder["duplicates"]
    assert found["leak"] == folder["leak"]
    assert found["images"]["set_aside"] == 1
    assert "1 image is quarantined by sharding" in flat(report)


def test_named_labels_win_over_a_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = kaggle(tmp_path / "set")
    (root / "manifest.json").write_text("{}")
    code, line = complaint(capsys, root)
    assert code == 1
    assert "format must be" in line
    code, *_ = run(capsys, root, "--layout", "kaggle")
    assert code == 0


# --- fix ---------------------------------------------------------------------------


def test_fix_keeps_patients_and_copies_on_one_side(
    leaking: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    run_shard: Any,
):
    out = tmp_path / "fixed"
    code, report, found, _ = run(capsys, leaking, "--fix", out, "--test-share", "0.4")
    assert code == 0
    assert found["fix"]["leak"]["eyes"] == 0
    assert "old train" in report
    assert f"fastretina shard {out} shards" in report
    split = {
        name: mode
        for mode in ("train", "test")
        for name in read_course_split(out, mode)[0]
    }
    assert sorted(split) == sorted(pairs_of(8))
    for same in ("0_left 0_right 7_left 7_right", "1_left 6_right", "2_left 3_right"):
        assert len({split[name] for name in same.split()}) == 1
    assert (out / "data").is_symlink()
    assert not os.path.isabs(os.readlink(out / "data"))

    code, _, err = run_shard(out, tmp_path / "shards", "--workers", "1")
    assert (code, err) == (0, [])
    code, _, again, _ = run(capsys, tmp_path / "shards")
    assert again["splits"] == found["fix"]["splits"]
    assert again["duplicates"]["across_splits"] == 0
    assert again["leak"]["eyes"] == 0


def test_fix_keeps_every_grade_of_every_name(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def graded(folder: Path) -> dict[str, int]:
        pairs = [
            pair
            for mode in ("train", "test")
            for pair in zip(*read_course_split(folder, mode), strict=True)
        ]
        assert len(pairs) == len(dict(pairs))
        return dict(pairs)

    run(capsys, leaking, "--fix", tmp_path / "fixed")
    assert graded(tmp_path / "fixed") == graded(leaking)


def test_fix_repeated_gives_the_same_bytes(
    leaking: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    read_folder: Callable[[Path], dict[str, bytes]],
):
    first, second = tmp_path / "first", tmp_path / "second"
    run(capsys, leaking, "--fix", first, "--seed", 3)
    before = read_folder(first)
    assert {*COURSE_FILES, "split.json"} <= before.keys()
    run(capsys, leaking, "--fix", second, "--seed", 4)
    assert read_folder(second) != before
    for out in (first, second):
        code, *_ = run(capsys, leaking, "--fix", out, "--seed", 3)
        assert code == 0
        assert read_folder(out) == before


FORMULAS = ["=cmd|' C calc'!A0", "+1", "-2", "@SUM(A1)", "'=3", "''-4", "'plain"]


def test_fix_writes_no_formula_and_names_are_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], run_shard: Any
):
    """Into the table of sharding, and by a second --fix, too."""
    names = [*FORMULAS, *pairs_of(6)]
    graded = {name: n % 5 for n, name in enumerate(names)}
    rows = ["image,level", *(f'"{name}",{grade}' for name, grade in graded.items())]
    images = {name: jpeg(fundus(n, 48)) for n, name in enumerate(names)}
    write_images(tmp_path / "set" / "images", images)
    (tmp_path / "set" / "trainLabels.csv").write_text("\n".join(rows) + "\n")
    first, second = tmp_path / "first", tmp_path / "second"
    for data, out in ((tmp_path / "set", first), (first, second)):
        assert run(capsys, data, "--fix", out)[0] == 0
        cells = [
            cell
            for split in ("train", "test")
            for cell in (out / f"{split}_img.csv").read_text().splitlines()
        ]
        assert len(cells) == len(names)
        assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]
        table = read_table(out)
        assert {sample.name: sample.grade for sample in table.samples} == graded
    dataset = RetinopathyDataset(second / "data", "train")
    assert set(dataset.img_name) <= set(names)
    code, *_ = run_shard(second, tmp_path / "shards")
    assert code == 0


def test_names_in_files_of_others_are_taken_at_their_word(tmp_path: Path):
    names = ["'-1", "-1", "'=2"]
    rows = [(split, f"{name}{split}", 0) for split in SPLITS for name in names]
    root = write_course(tmp_path, rows)
    for note in (None, "{", "[]", '{"names_guarded": false}', "[" * 100_000):
        if note is not None:
            (root / "split.json").write_text(note)
        listed = [sample.name for sample in read_table(root, images=False).samples]
        assert listed == [name for _, name, _ in rows]


def test_fix_stratifies_by_grade(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = kaggle(tmp_path / "set", 200)
    _, _, found, _ = run(capsys, root, "--fix", tmp_path / "out", "--test-share", 0.25)
    grades = found["fix"]["splits"]["test"]["grades"]
    assert all(count == 20 for count in grades.values())
    assert run(capsys, tmp_path / "out")[2]["shares_differ"]["p"] == 1


def test_fix_of_a_layout_without_split_is_what_sharding_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], run_shard: Any
):
    for grade in range(3):
        for n, name in enumerate(pairs_of(4, 4 * grade)):
            content = jpeg(fundus(8 * grade + n, 64))
            write_images(tmp_path / "set" / str(grade), {name: content})
    (tmp_path / "set" / "2" / "note.txt").write_text("left alone")
    out = tmp_path / "fixed"
    _, report, found, _ = run(capsys, tmp_path / "set", "--fix", out)
    assert "the only one that carries a split" in report
    assert len(list((out / "data").iterdir())) == 24
    assert all(path.is_symlink() for path in (out / "data").iterdir())
    code, lines, err = run_shard(out, tmp_path / "shards", "--workers", "1")
    assert (code, err) == (0, [])
    assert json.loads(lines[-1])["splits"] == {
        split: part["grades"] for split, part in found["fix"]["splits"].items()
    }


def test_fix_links_images_of_several_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], run_shard: Any
):
    root = kaggle(tmp_path / "set", 6)
    for n, name in enumerate(pairs_of(6)):
        write_images(root / f"part{n % 2}", {name: jpeg(fundus(n, 64))})
    out = tmp_path / "fixed"
    for _ in range(2):  # the second time over the first one's links
        assert run(capsys, root, "--fix", out)[0] == 0
    code, _, err = run_shard(out, tmp_path / "shards", "--workers", "1")
    assert (code, err) == (0, [])


def test_fix_moves_with_its_photographs(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "there").mkdir()
    link = tmp_path / "by_link"
    link.symlink_to(tmp_path / "there")
    run(capsys, leaking, "--fix", link / "fixed")
    code, _, found, _ = run(capsys, tmp_path / "there" / "fixed")
    assert code == 0
    assert found["images"]["there"] == 16


def test_fix_without_looking_at_images_still_links_them(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "fixed"
    _, report, found, _ = run(capsys, leaking, "--fix", out, "--no-images")
    assert (out / "data").is_symlink()
    assert not found["fix"]["looked_for_copies"]
    assert "Copies of a photograph were not looked for" in report


def test_fix_that_fails_leaves_the_split_that_was_there(
    leaking: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    out = tmp_path / "fixed"
    run(capsys, leaking, "--fix", out)
    before = files_in(out)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(out))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", full)
        code, line = complaint(capsys, leaking, "--fix", out, "--seed", 3)
    assert (code, line) == (1, f"error: {out}: No space left on device")
    assert files_in(out) == before
    assert run(capsys, leaking, "--fix", out, "--seed", 3)[0] == 0
    assert files_in(out) != before


def files_in(out: Path) -> dict[str, bytes]:
    """Name to bytes of all that lies in a folder but links."""
    inside = [path for path in out.iterdir() if not path.is_symlink()]
    return {path.name: path.read_bytes() for path in inside}


def test_fix_that_fails_at_last_leaves_no_half_of_a_split(
    leaking: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    out = tmp_path / "fixed"
    run(capsys, leaking, "--fix", out)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(out))

    with monkeypatch.context() as patch:
        patch.setattr("fastretina.audit.split_writer.write_atomically", full)
        assert complaint(capsys, leaking, "--fix", out)[0] == 1
    assert sorted(path.name for path in out.iterdir()) == ["data", "split.json"]
    assert run(capsys, leaking, "--fix", out)[0] == 0


def test_fix_goes_on_where_its_first_attempt_was_killed(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Found by cutting the power: it took its own temporary files for somebody's."""
    out = tmp_path / "fixed"
    out.mkdir()
    (out / ".split.json.fastretina-4194303-0123abcd.part").write_text("{")
    (out / ".data.fastretina-4194303-0123abcd.part").symlink_to(tmp_path)
    code, _, _, err = run(capsys, leaking, "--fix", out)
    assert (code, err) == (0, "")
    assert not list(out.glob(".*"))


def test_fix_refuses_shards(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, line = complaint(capsys, shards, "--fix", tmp_path / "out")
    assert code == 1
    assert "--fix needs the photographs' folder" in line
    assert not (tmp_path / "out").exists()


def test_fix_refuses_a_folder_that_holds_something_else(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    code, line = complaint(capsys, leaking, "--fix", out)
    assert code == 1
    assert "it holds thesis.tex" in line
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    (out / "thesis.tex").rename(out / "train_img.csv")  # nobody else's labels, either
    code, line = complaint(capsys, leaking, "--fix", out)
    assert "it holds no split.json" in line
    assert (out / "train_img.csv").read_text() == "years of work"
    code, line = complaint(capsys, leaking, "--fix", out / "train_img.csv")
    assert line.endswith("can't be written (Not a directory): name another folder")


def test_fix_refuses_the_folder_it_reads(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for inside in (leaking, leaking / "fixed"):
        code, line = complaint(capsys, leaking, "--fix", inside)
        assert code == 2
        assert "--fix must lie outside DATA" in line
    out = tmp_path / "fixed"
    run(capsys, leaking, "--fix", out)
    before = (out / "train_img.csv").read_bytes()
    code, line = complaint(capsys, out / "data", "--fix", out)  # labels are in OUT
    assert code == 1
    assert "another folder than that of the labels" in line
    assert (out / "train_img.csv").read_bytes() == before


def test_fix_never_deletes_photographs(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "fixed"
    run(capsys, leaking, "--fix", out)
    (out / "data").unlink()
    before = files_in(out)
    photograph = write_images(out / "data", {"mine": b"my own"}) / "mine.jpeg"
    code, line = complaint(capsys, leaking, "--fix", out)
    assert code == 1
    assert "holds files that are no links: mine.jpeg" in line
    assert photograph.read_bytes() == b"my own"
    photograph.unlink()
    (out / "data").rmdir()
    assert files_in(out) == before
    (out / "data").write_text("a file")
    code, line = complaint(capsys, leaking, "--fix", out)
    assert (code, files_in(out)) == (1, before | {"data": b"a file"})
    assert "data is a file, where a link is to be" in line


def test_fix_of_too_few_patients_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [("train", "1_left", 0), ("train", "1_right", 0), ("test", "2_left", 1)]
    root = write_course(tmp_path / "set", rows)
    code, line = complaint(capsys, root, "--fix", tmp_path / "out")
    assert code == 1
    assert "the test split would be empty" in line


NAME = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@given(
    st.lists(st.tuples(NAME, st.integers(0, 4)), min_size=1, unique_by=lambda r: r[0])
)
@settings(max_examples=60, deadline=None)
def test_written_labels_are_read_as_they_were_or_refused(rows: list[tuple[str, int]]):
    eyes = [Eye(name, grade, "train", name, "") for name, grade in rows]
    eyes.append(Eye("the last", 2, "test", "the last", ""))
    with tempfile.TemporaryDirectory() as folder:
        data_set = AuditedDataSet(
            data=Path(folder), layout="kaggle", own_split=False, eyes=(), read=bytes
        )
        try:
            write_split(Path(folder) / "out", data_set, eyes, MADE_OF)
        except AuditError:
            names = [name for name, _ in rows]
            odd = [n for n in names if n.strip() != n or n.startswith("\ufeff")]
            assert odd or names[0].casefold() in IMAGE_WORDS
            return
        found = read_course_split(Path(folder) / "out", "train")
    assert found == ([name for name, _ in rows], [grade for _, grade in rows])


def test_names_with_a_suffix_or_a_comma_survive(tmp_path: Path):
    names = ["a.jpeg", 'b,"c"', "d.png.jpg", "e"]
    eyes = [Eye(name, 0, "train", name, "") for name in names]
    eyes.append(Eye("f", 1, "test", "f", ""))
    data_set = AuditedDataSet(
        data=tmp_path, layout="folders", own_split=False, eyes=(), read=bytes
    )
    write_split(tmp_path / "out", data_set, eyes, MADE_OF)
    assert read_course_split(tmp_path / "out", "train")[0] == names


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[list[Eye], list[DuplicateGroup]]:
    patients = draw(st.integers(1, 30))
    eyes = [
        Eye(f"{patient}_{side}", draw(st.integers(0, 4)), "train", str(patient), side)
        for patient in range(patients)
        for side in draw(st.sampled_from([("left",), ("right",), SIDES]))
    ]
    place = st.integers(0, len(eyes) - 1)
    sets = draw(st.lists(st.sets(place, min_size=2), max_size=6)) if eyes[1:] else []
    links = [Link(min(s), other, "look") for s in sets for other in s - {min(s)}]
    return draw(st.permutations(eyes)), group_links(links)


@given(data_sets(), st.floats(0.05, 0.95), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_new_split_never_parts_what_hangs_together(
    drawn: tuple[list[Eye], list[DuplicateGroup]], share: float, seed: int
):
    eyes, groups = drawn
    fixed = new_split(eyes, groups, share, seed)
    assert [eye._replace(split="") for eye in fixed] == [
        eye._replace(split="") for eye in eyes
    ]
    sides = defaultdict(set)
    for eye in fixed:
        sides[eye.patient].add(eye.split)
    for group in groups:
        sides[group].update(fixed[place].split for place in group.places)
    assert all(len(found) == 1 for found in sides.values())
    assert fixed == new_split(eyes, groups, share, seed)


@given(data_sets(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_new_split_does_not_depend_on_the_order_of_rows(
    drawn: tuple[list[Eye], list[DuplicateGroup]], random: Any
):
    eyes, groups = drawn
    order = list(range(len(eyes)))
    random.shuffle(order)
    moved = {old: new for new, old in enumerate(order)}
    links = [
        Link(moved[group.places[0]], moved[place], "look")
        for group in groups
        for place in group.places[1:]
    ]
    shuffled = new_split([eyes[n] for n in order], group_links(links), 0.3, 1)
    assert sorted(shuffled) == sorted(new_split(eyes, groups, 0.3, 1))


def test_patients_who_share_a_photograph_are_named_alike():
    eyes = [Eye(f"{p}_left", 0, "train", str(p), "left") for p in (3, 2, 1, 9)]
    assert inseparable(eyes, [DuplicateGroup((0, 2), "bytes", ())]) == [
        "1",
        "2",
        "1",
        "9",
    ]


# --- parts -------------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES)
def test_changed_photographs_are_found_again(change: str):
    images = [fundus(seed) for seed in range(12)]
    contents = [jpeg(image) for image in images]
    contents += [CHANGES[change](image) for image in images[:6]]
    prints = {place: fingerprint(content) for place, content in enumerate(contents)}
    found = find_duplicates(prints, contents.__getitem__, 1)
    assert [group.places for group in found.groups] == [(n, n + 12) for n in range(6)]
    assert {group.kind for group in found.groups} == {"look"}


def test_kind_of_a_group_is_its_weakest_link():
    image, other = fundus(1), fundus(2)
    same = jpeg(image)
    contents = [jpeg(other), same, jpeg(image, 60), commented(same), same]
    prints = {place: fingerprint(content) for place, content in enumerate(contents)}
    (group,) = find_duplicates(prints, contents.__getitem__, 1).groups
    assert group.places == (1, 2, 3, 4)
    assert group.kind == "look"
    assert Counter(link.kind for link in group.links) == {
        "bytes": 1,
        "pixels": 1,
        "look": 1,
    }


def test_many_copies_are_compared_once():
    copy = jpeg(fundus(1))
    prints = {place: fingerprint(copy) for place in range(300)}
    (group,) = find_duplicates(prints, lambda _: copy, 1).groups
    assert len(group.places) == 300
    assert len(group.links) == 299


def test_search_finds_every_pair_in_any_block(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    signs = rng.integers(-1, 2, (40, 16, 16)).astype(np.int8)
    turns = list(TURNS)
    wanted = {}
    for place, name in zip(range(30, 38), turns, strict=True):
        noisy = np.where(rng.random((16, 16)) < 0.1, 0, TURNS[name](signs[place - 25]))
        signs[place] = noisy
        # What undoes a quarter turn is the other one; all others undo themselves.
        swapped = {"turned by 90 degrees": turns[5], "turned by 270 degrees": turns[4]}
        wanted[place - 25, place] = swapped.get(name, name)
    for cells in (10**9, 130, 1):
        monkeypatch.setattr(searching, "_CELLS", cells)
        found = search(signs, rng.integers(-1, 2, signs.shape).astype(np.int8))
        pairs = zip(found.one.tolist(), found.other.tolist(), strict=True)
        assert dict(zip(pairs, found.turns, strict=True)) == wanted


def test_search_finds_what_only_a_closer_view_shows():
    rng = np.random.default_rng(1)
    signs = rng.integers(-1, 2, (6, 16, 16)).astype(np.int8)
    zoomed = rng.integers(-1, 2, (6, 16, 16)).astype(np.int8)
    zoomed[4] = signs[1]
    zoomed[0] = signs[3][:, ::-1]
    found = search(signs, zoomed)
    assert found.one.tolist() == [0, 1]
    assert found.other.tolist() == [3, 4]
    assert found.turns == ["mirrored", "as it is"]


def test_search_gives_up_where_all_look_alike(
    leaking: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(searching, "_TOO_MANY", 0)
    code, line = complaint(capsys, leaking)
    assert code == 1
    assert "more than 0 pairs of images look alike" in line
    assert "--no-images" in line


def test_search_of_nothing_finds_nothing():
    nothing = np.zeros((0, 16, 16), np.int8)
    assert search(nothing, nothing).turns == []
    dark = np.zeros((3, 16, 16), np.int8)  # no sign at all is like nothing
    assert search(dark, dark).turns == []


def test_turns_are_closed_under_undoing():
    grid = np.arange(12).reshape(3, 4)
    for turn in TURNS.values():
        assert any(
            np.array_equal(undo(turn(grid)), grid)
            for undo in TURNS.values()
            if undo(turn(grid)).shape == grid.shape
        )


def test_hash_and_agreement_know_only_the_same_photograph():
    one, other = (fingerprint(jpeg(fundus(seed))) for seed in (1, 2))
    again = fingerprint(jpeg(fundus(1), 60))
    hashes = [np.stack([p.signs, p.zoomed]) for p in (one, other, again)]
    signs, zoomed = np.stack(hashes, axis=1)
    pairs = search(signs, zoomed)
    assert (pairs.one.tolist(), pairs.other.tolist()) == ([0], [2])
    assert agreement(one.detail, again.detail) > 0.95
    assert agreement(one.detail, other.detail) < 0.5
    dark = np.zeros_like(one.detail)
    assert agreement(dark, one.detail) == agreement(one.detail, dark) == 0


def test_thumbnail_has_one_size_for_all():
    for size in (16, 95, 96, 500, 1100):
        assert thumbnail(jpeg(fundus(1, size))).shape == (96, 96)


def test_difference_of_shares_is_pearsons():
    found = grade_difference([10, 20, 0, 0, 0], [20, 10, 0, 0, 0])
    assert found is not None
    assert found.statistic == pytest.approx(60 * (10 * 10 - 20 * 20) ** 2 / 30**4)
    assert found.degrees == 1
    assert found.largest == pytest.approx(1 / 3)
    assert not found.few
    assert found.p < 0.01
    small = grade_difference([3, 1, 0, 0, 0], [1, 0, 0, 0, 0])
    assert small is not None
    assert small.few
    assert grade_difference([3, 0, 0, 0, 0], [1, 0, 0, 0, 0]) is None
    assert grade_difference([3, 1, 0, 0, 0], [0] * 5) is None


def test_fellows_are_counted_in_pairs():
    grades = {"1_left": 0, "1_right": 0, "2_left": 1, "2_right": 2, "3_right": 4}
    grades |= {"4_left": 0, "4_right": 4}
    eyes = [Eye(n, g, "train", *n.split("_")) for n, g in grades.items()]
    found = compare_fellow_eyes(eyes)
    assert found is not None
    assert (found.pairs, found.same, found.near) == (3, 1, 2)
    assert compare_fellow_eyes(eyes[:1]) is None


def test_an_empty_split_has_no_baseline():
    found = split_numbers([Eye("1_left", 0, "train", "1", "left")])
    assert found.baselines is None
    assert found.leak == Leak(eyes=0, total=0, unknown=0)
    data_set = AuditedDataSet(
        data=Path("set"), layout="course", own_split=True, eyes=(), read=bytes
    )
    findings = list_findings(
        AuditResult(data_set=data_set, numbers=found, fellows=None)
    )
    assert any(one.line == "The test split is empty." for one in findings)


def test_many_duplicates_are_cut_short_but_for_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pictures = [jpeg(fundus(seed, 64)) for seed in range(12)]
    rows = [("train", f"a{n}", n % 2) for n in range(12)]
    rows += [("test", f"b{n}", n % 2) for n in range(12)]
    root = write_course(tmp_path / "set", rows)
    write_images(
        root / "data", {f"{s}{n}": pictures[n] for s in "ab" for n in range(12)}
    )
    out = tmp_path / "all.json"
    _, report, found, _ = run(capsys, root, "--out", out)
    assert found["duplicates"]["across_splits"] == 12
    assert "and 2 more; --out FILE names all" in report
    assert report.count("identical bytes") == 11
    assert len(json.loads(out.read_text())["groups"]) == 12


# --- bad input ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--test-share", "1"], "--test-share must lie between 0 and 1, got 1.0"),
        (["--test-share", "nan"], "--test-share must lie between 0 and 1, got nan"),
        (["--seed", "-1"], "--seed must be 0 to 2^63 - 1, got -1"),
        (["--workers", "0"], "--workers must be 1 to 1,024, got 0"),
        (["--out", "no/where.json"], "--out must lie in a folder that exists"),
        (["--layout", "coco"], "invalid choice"),
        (["--fix"], "expected"),
    ],
)
def test_bad_flags_get_one_line(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, found = complaint(capsys, tmp_path, *words)
    assert code == 2
    assert line.lower() in found.lower()


def test_bad_folders_get_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, line = complaint(capsys, tmp_path / "nowhere")
    assert code == 1
    assert "does not exist" in line
    (tmp_path / "empty" / "empty").mkdir(parents=True)
    code, line = complaint(capsys, tmp_path / "empty" / "empty")
    assert code == 1
    assert "hold no labels" in line
    root = write_course(tmp_path / "set", [("train", "1", 0), ("test", "2", 0)])
    (root / "test_label.csv").write_text("7\n")
    code, line = complaint(capsys, root)
    assert code == 1
    assert "test_label.csv, line 1: a grade must be an integer from 0 to 4" in line
