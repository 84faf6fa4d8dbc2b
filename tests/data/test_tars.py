"""Tars without an index as a layout: names, patients, how a sample is written."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from fastretina.data.labels import LabelOptions, Sample, SampleTable, read_table
from fastretina.data.patient_names import patient_source
from fastretina.data.tar_samples import read_samples
from fastretina.data.tars import find_tars
from loaders.errors import LabelError


def write_members(path: Path, members: list[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content.encode())
            tar.addfile(about, io.BytesIO(content.encode()))
    return path


def read(
    tmp_path: Path, members: list[tuple[str, str]], how: LabelOptions | None = None
) -> SampleTable:
    write_members(tmp_path / "tars" / "x.tar", members)
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    return read_table(
        tmp_path / "tars", how or LabelOptions(), unpack_to=lambda: unpacked
    )


def by_name(table: SampleTable) -> dict[str, Sample]:
    return {sample.name: sample for sample in table.samples}


@pytest.mark.parametrize(
    ("members", "name", "suffix"),
    [
        ("10_left.jpg 10_left.cls", "10_left", "jpg"),
        ("./10_left.jpg ./10_left.cls", "10_left", "jpg"),
        ("10_left.cls 10_left.PNG", "10_left", "png"),
        ("a/b/10_left.jpeg a/b/10_left.cls", "a/b/10_left", "jpeg"),
        ("v1.0/10_left.tif v1.0/10_left.cls", "v1.0/10_left", "tif"),
        ("1.2.840.jpg 1.2.840.cls", "1.2.840", "jpg"),
        ("10_left.image.jpg 10_left.grade.cls", "10_left", "jpg"),
        ("10_left.fundus.jpg 10_left.cls 10_left.txt", "10_left", "jpg"),
        ("10_left.cls 10_left.mask.txt 10_left.jpg", "10_left", "jpg"),
        ("._10_left.jpg 10_left.jpg ._10_left.cls 10_left.cls", "10_left", "jpg"),
        ("d/._1.jpg d/1.jpg d/._1.cls d/1.cls", "d/1", "jpg"),
        ("1.jpg .git/x.txt 1.cls", "1", "jpg"),
    ],
)
def test_members_make_a_sample(
    members: str, name: str, suffix: str, tmp_path: Path
) -> None:
    table = read(tmp_path, [(member, "3") for member in members.split()])
    (sample,) = table.samples
    assert (sample.name, sample.grade) == (name, 3)
    assert sample.path.suffix == f".{suffix}"
    assert sample.path.read_text() == "3"
    assert table.left_out == ()


def test_names_with_dots_are_told_apart(tmp_path: Path) -> None:
    names = ["1.2.840.1", "1.2.840.2", "1.2.841"]
    members = [
        (f"{name}.{suffix}", str(grade))
        for grade, name in enumerate(names)
        for suffix in ("cls", "jpg")
    ]
    members += [("1.2.900.jpg", "x"), ("1.2.901.cls", "0")]
    table = read(tmp_path, members)
    assert {s.name: s.grade for s in table.samples} == dict(
        zip(names, range(3), strict=True)
    )
    assert {s.name: s.path.read_text() for s in table.samples} == {
        name: str(grade) for grade, name in enumerate(names)
    }
    left_out = {each.reason: each.names for each in table.left_out}
    assert left_out == {
        "without an image": ("x.tar: 1.2.901",),
        "without a grade": ("x.tar: 1.2.900",),
    }


def test_a_mask_beside_the_photograph_is_named(tmp_path: Path) -> None:
    members = [("1.cls", "2"), ("1.jpg", "photograph"), ("1.mask.png", "mask")]
    table = read(tmp_path, members)
    (sample,) = table.samples
    assert sample.path.read_text() == "photograph"
    (left_out,) = table.left_out
    assert left_out.reason == "without a grade"
    assert left_out.names == ("x.tar: 1.mask",)


def test_names_that_fall_together_as_files(tmp_path: Path) -> None:
    names = ["a/b", "a-b", "a+b", "a b"]
    members = [
        (f"{name}.{suffix}", str(grade))
        for grade, name in enumerate(names)
        for suffix in ("cls", "jpg")
    ]
    table = read(tmp_path, members)
    found = {sample.name: sample for sample in table.samples}
    assert [found[name].path.read_text() for name in names] == ["0", "1", "2", "3"]
    assert len({sample.key for sample in table.samples}) == 4


@pytest.mark.parametrize(
    ("about", "grade"),
    [
        ({"grade": 2}, 2),
        ({"label": "3"}, 3),
        ({"level": 4.0}, 4),
        ({"grade": 1, "label": 4}, 1),
        ({"grade": None, "label": float("nan"), "level": 0}, None),
        ({"label": 1, "level": "?"}, 1),
    ],
)
def test_grades_of_json(
    about: dict[str, object], grade: int | None, tmp_path: Path
) -> None:
    members = [("1.jpg", ""), ("1.json", json.dumps(about))]
    tar = write_members(tmp_path / "x.tar", members)
    (sample,) = read_samples(tar)
    if grade is None:
        with pytest.raises(LabelError, match="from 0 to 4, got ''"):
            sample.grade()
    else:
        assert sample.grade() == grade


def test_other_words_in_json_beside_a_cls_are_not_its_grade(tmp_path: Path) -> None:
    members = [("1.jpg", ""), ("1.cls", "3\n"), ("1.json", '{"label": "referable"}')]
    (sample,) = read_samples(write_members(tmp_path / "x.tar", members))
    assert sample.grade() == 3


@pytest.mark.parametrize("record", ["[1, 2]", '"text"', "7", "null"])
def test_json_that_is_no_record(record: str, tmp_path: Path) -> None:
    members = [("1.jpg", ""), ("1.cls", "3"), ("1.json", record)]
    (sample,) = read_samples(write_members(tmp_path / "x.tar", members))
    assert sample.grade() == 3


def one_eye(tmp_path: Path, key: str, about: str, **flags: str) -> Sample:
    how = LabelOptions(
        patients=patient_source(flags.get("column"), flags.get("pattern"))
    )
    members = [(f"{key}.jpg", ""), (f"{key}.cls", "0"), (f"{key}.json", about)]
    (sample,) = read(tmp_path, members, how).samples
    return sample


@pytest.mark.parametrize(
    ("key", "about", "expected"),
    [
        ("10_left", "{}", ("10", "left", True)),
        ("0/10_left", "{}", ("10", "left", True)),  # in folders by grade
        ("img", "{}", ("img", "", False)),
        ("img", '{"patient": "P7", "eye": "OD"}', ("P7", "right", True)),
        ("img", '{"patient": 7, "eye": "both"}', ("7", "", True)),
        ("img", '{"patient": 7.0, "eye": null}', ("7", "", True)),
        ("10_left", '{"patient": "P7"}', ("P7", "left", True)),
        ("10_left", '{"patient": "P7", "eye": "R"}', ("P7", "right", True)),
        ("10_left", '{"patient": null, "eye": "right"}', ("10", "right", True)),
        ("10_left", '{"patient": NaN}', ("10", "left", True)),
        ("10_left", '{"patient": "10_left", "eye": ""}', ("10_left", "", False)),
        ("a-b", '{"patient": "a b", "source": "a b"}', ("a b", "", False)),
    ],
)
def test_patients_and_eyes(
    key: str, about: str, expected: tuple[str, str, bool], tmp_path: Path
) -> None:
    sample = one_eye(tmp_path, key, about)
    assert (sample.patient, sample.eye, sample.patient_known) == expected


def test_a_pattern_finds_patients_in_the_whole_name(tmp_path: Path) -> None:
    about = '{"patient": "P7", "eye": "OD"}'
    sample = one_eye(tmp_path, "s3/img_1", about, pattern="^s([0-9]+)/")
    assert (sample.patient, sample.eye, sample.patient_known) == ("3", "right", True)


def test_a_column_is_a_name_in_the_json(tmp_path: Path) -> None:
    about = '{"patient": "P7", "subject": 12}'
    sample = one_eye(tmp_path, "9_OS", about, column="subject")
    assert (sample.patient, sample.eye, sample.patient_known) == ("12", "left", True)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="identified from the column subject"):
        one_eye(tmp_path, "9_OS", '{"patient": "P7"}', column="subject")


def test_without_a_folder_to_unpack_to(tmp_path: Path) -> None:
    write_members(tmp_path / "x.tar", [("1.jpg", ""), ("1.cls", "0")])
    for images in (True, False):
        with pytest.raises(LabelError, match=r"tars without an index: 'fastretina sha"):
            read_table(tmp_path, images=images)


def test_tars_are_found_wherever_they_lie(tmp_path: Path) -> None:
    names = ["b.tar", "a/c.TAR", "a/b/d.tar", ".hidden.tar", "e.tar.gz", "x/f.tar"]
    for name in names:
        write_members(tmp_path / name, [])
    found = find_tars(tmp_path, [tmp_path / "x"])
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "a/b/d.tar",
        "a/c.TAR",
        "b.tar",
    ]
    (tmp_path / "x" / "1.webp").touch()
    assert find_tars(tmp_path, [tmp_path / "x"]) == found
    assert find_tars(tmp_path) == []


def test_labels_in_the_folder_around_are_farther(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image,level\n1,3\n")
    table = read(tmp_path, [("1.jpg", ""), ("1.cls", "0")])
    assert table.layout == "tars"
    assert [sample.grade for sample in table.samples] == [0]


def test_labels_beside_them_win(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "train.csv").write_text("image,level\n1,3\n")
    with pytest.raises(LabelError, match="1 of 1 listed images is missing"):
        read(tmp_path, [("1.jpg", ""), ("1.cls", "0")])
