"""Label files and image folders as people have them, and what may be wrong there."""

import csv
import os
import re
import string
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastretina.data.keys import assign_keys
from fastretina.data.labels import LabelOptions, Sample, read_table
from fastretina.data.layout_names import LAYOUTS
from fastretina.data.patient_names import patient_source
from loaders.course import (
    COURSE_FILES,
    GRADE_WORDS,
    IMAGE_SUFFIXES,
    IMAGE_WORDS,
    find_course_csvs,
    index_images,
    read_column,
    read_course_split,
)
from loaders.errors import LabelError
from loaders.grades import GRADES

REPO = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("FASTRETINA_REAL_DATA", REPO / "../shared/data"))

needs_real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"no real data in {REAL}; set FASTRETINA_REAL_DATA"
)


def raises(*parts):
    """A LabelError whose one line has every part, in this order."""
    return pytest.raises(LabelError, match=".*".join(map(re.escape, parts)))


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("column", ["image", "level"])
def test_a_column_that_stands_twice_is_refused(tmp_path, column):
    """Nobody can tell which is meant."""
    extra = {"image": "1_right", "level": "4"}[column]
    write(tmp_path / "a.csv", f"image,level,{column}", f"1_left,0,{extra}")
    with raises("a.csv, line 1", f"column {column} once", "2 times"):
        read_table(tmp_path, images=False)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_other_encodings_are_named(tmp_path, encoding):
    text = "1_left\n1_right\n"
    for split in ("train", "test"):
        (tmp_path / f"{split}_img.csv").write_bytes(text.encode(encoding))
        write(tmp_path / f"{split}_label.csv", 0, 1)
    with raises("train_img.csv", "save it as 'CSV UTF-8'"):
        read_table(tmp_path, images=False)


def test_a_nul_is_named_with_its_line(tmp_path):
    write(tmp_path / "a.csv", "image,level", "1_left,0", "1_ri\0ght,1")
    with raises("a.csv, line 3", "NUL"):
        read_table(tmp_path, images=False)


@pytest.mark.parametrize("cell", ["x" * 100_000, "," * 100_000])
def test_messages_show_no_endless_cell(tmp_path, cell):
    course(tmp_path)
    write(tmp_path / "train_label.csv", cell, 2)
    with pytest.raises(LabelError, match=r"train_label\.csv") as found:
        read_table(tmp_path, images=False)
    assert len(str(found.value)) < 1000


def course(folder, train=(("1_left", 0), ("1_right", 2)), test=(("2_left", 4),)):
    """The four CSVs without images."""
    for mode, rows in (("train", train), ("test", test)):
        write(folder / f"{mode}_img.csv", *(name for name, _ in rows))
        write(folder / f"{mode}_label.csv", *(grade for _, grade in rows))
    return folder


@pytest.fixture
def root(tmp_path):
    """A folder whose parent holds nothing else."""
    root = tmp_path / "set"
    root.mkdir()
    return root


def names(table, split=None):
    return [s.name for s in table.samples if split in (None, s.split)]


# --- a column ---------------------------------------------------------------------


def column(tmp_path, data, words=IMAGE_WORDS):
    path = tmp_path / "column.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return [cell for _, cell in read_column(path, words)]


@pytest.mark.parametrize(
    "data",
    [
        "a\nb\n",
        "a\nb",
        "a\r\nb\r\n",
        "a\rb\r",
        "\ufeffa\nb\n",
        "a\nb\n\n\r\n  \n",
        '"a"\n"b"\n',
        " a \nb\t\n",
        "image\na\nb\n",
        "IMAGE\r\na\r\nb\r\n",
        '\ufeff"Image"\na\nb\n',
        "id_code\na\nb\n",
    ],
)
def test_read_column_variants(tmp_path, data):
    assert column(tmp_path, data) == ["a", "b"]


@pytest.mark.parametrize("data", ["", "\n", "\r\n\r\n", "\ufeff", "image\n", "image"])
def test_read_column_empty(tmp_path, data):
    assert column(tmp_path, data) == []


@pytest.mark.parametrize("first", ["0", "1", "imagery", "1_left", "my image", "level"])
def test_read_column_takes_no_other_first_line_for_a_header(tmp_path, first):
    assert column(tmp_path, f"{first}\nb\n") == [first, "b"]


def test_read_column_header_words_only_count_in_the_first_line(tmp_path):
    assert column(tmp_path, "a\nimage\n") == ["a", "image"]
    assert column(tmp_path, "image\nimage\n") == ["image"]


def test_read_column_header_words_in_any_case(tmp_path):
    assert column(tmp_path, "photo\na\n", frozenset({"PhoTo"})) == ["a"]


def test_read_column_quoted_comma_and_quote(tmp_path):
    assert column(tmp_path, '"a,b"\n"c""d"\n') == ["a,b", 'c"d']


def test_read_column_blank_line_in_the_middle(tmp_path):
    with raises("column.csv, line 2 is blank; fill or remove that line"):
        column(tmp_path, "a\n\nb\n")
    with raises("column.csv, line 1 is blank"):
        column(tmp_path, "\na\n")


def test_read_column_of_two_columns(tmp_path):
    with raises("column.csv, line 2: must be one column, got 2: 'b,0'"):
        column(tmp_path, "a\nb,0\n")


def test_read_column_unfinished_quote(tmp_path):
    with raises("column.csv: no CSV after line 1 (", "mend its quotes"):
        column(tmp_path, 'a\n"b\nc\n')


def test_read_column_not_utf8(tmp_path):
    with raises("column.csv is not UTF-8; save it as 'CSV UTF-8'"):
        column(tmp_path, "a\nb\n".encode("utf-16"))


def test_read_column_missing_file(tmp_path):
    with raises("nothing.csv: No such file"):
        read_column(tmp_path / "nothing.csv", IMAGE_WORDS)


# No control characters, and nothing that stripping would change.
cells = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(
    lambda text: text.strip() == text and text.casefold() not in IMAGE_WORDS
)


@given(
    st.lists(cells),
    st.sampled_from(["utf-8-sig", "utf-8"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from([None, "image", "ID_Code"]),
    st.integers(0, 3),
)
def test_read_column_round_trip(listed, encoding, newline, quoting, header, num_blank):
    if encoding == "utf-8" and listed and listed[0].startswith("\ufeff"):
        encoding = "utf-8-sig"  # without a mark of its own the name would be the mark
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "column.csv")
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, lineterminator=newline, quoting=quoting)
            writer.writerows([cell] for cell in ([header] if header else []) + listed)
            file.write(newline * num_blank)
        cells = read_column(path, IMAGE_WORDS)
        assert [cell for _, cell in cells] == listed


# --- the course's four files ------------------------------------------------------


def test_read_course_split_keeps_the_first_row(root):
    course(root)
    assert read_course_split(root, "train") == (["1_left", "1_right"], [0, 2])
    assert read_course_split(root, "test") == (["2_left"], [4])


@pytest.mark.parametrize("image_header", [(), ("image",), ("Name",)])
@pytest.mark.parametrize("label_header", [(), ("label",), ("Level",)])
def test_read_course_split_with_and_without_headers(root, image_header, label_header):
    write(root / "test_img.csv", *image_header, "a", "b")
    write(root / "test_label.csv", *label_header, "3", "0")
    assert read_course_split(root, "test") == (["a", "b"], [3, 0])


def test_read_course_split_of_an_image_called_0(root):
    course(root, train=[("0", 1), ("1", 0)])
    assert read_course_split(root, "train") == (["0", "1"], [1, 0])


def test_read_course_split_strips_image_suffixes_only(root):
    listed = ["a.jpeg", "b.JPG", "c.Png", "d.bmp", "e.1", ".jpg"]
    course(root, train=[(name, 0) for name in listed])
    assert read_course_split(root, "train")[0] == [
        "a",
        "b",
        "c",
        "d.bmp",
        "e.1",
        ".jpg",
    ]


@pytest.mark.parametrize(
    "grade", ["5", "-1", "2.0", "x", "", "00", "1 0", "+1", "\u0661"]
)
def test_read_course_split_bad_grade(root, grade):
    course(root, train=[("a", 0), ("b", f'"{grade}"'), ("c", 1)])
    if grade:
        expected = (
            "train_label.csv, line 2: a grade must be an integer from 0 to 4, got "
        )
        with raises(expected + repr(grade)):
            read_course_split(root, "train")
    else:
        with raises("train_label.csv, line 2 is blank"):
            read_course_split(root, "train")


def test_read_course_split_counts_lines_with_the_header(root):
    write(root / "train_img.csv", "a", "b")
    write(root / "train_label.csv", "label", "0", "7")
    with raises("train_label.csv, line 3: ", "got '7'; correct or remove that line"):
        read_course_split(root, "train")


def test_read_course_split_lengths_differ(root):
    course(root)
    write(root / "train_label.csv", *[0] * 1234)
    with raises("train_img.csv", "train_label.csv", "2 images and 1,234 grades"):
        read_course_split(root, "train")


@pytest.mark.parametrize("again", ["a", "a.jpg"])
def test_read_course_split_name_twice(root, again):
    course(root, test=[("a", 0), ("b", 0), (again, 0)])
    with raises("test_img.csv, line 3: ", "got 'a' again", "test_img.csv, line 1"):
        read_course_split(root, "test")


def test_read_course_split_empty(root):
    course(root, test=[])
    with raises("test_img.csv lists no image"):
        read_course_split(root, "test")


def test_read_course_split_missing_file(root):
    course(root)
    (root / "test_label.csv").unlink()
    with raises("test_label.csv: No such file"):
        read_course_split(root, "test")


def test_read_course_split_unknown_mode(root):
    with pytest.raises(ValueError, match="mode must be 'train' or 'test', got 'val'"):
        read_course_split(root, "val")


def test_find_course_csvs_in_root_or_beside_it(root, monkeypatch):
    assert find_course_csvs(root) is None
    course(root.parent)
    assert find_course_csvs(root) == root.parent
    monkeypatch.chdir(root)
    assert find_course_csvs(Path(".")) == root.parent
    course(root)
    assert find_course_csvs(root) == root


@pytest.mark.parametrize("missing", COURSE_FILES)
def test_find_course_csvs_wants_all_four(root, missing):
    course(root)
    (root / missing).unlink()
    assert find_course_csvs(root) is None


# --- image files ------------------------------------------------------------------


def test_index_images_in_any_case_by_stem(root):
    touch(
        root, "b.JPG", "a.jpeg", "c.d.PNG", "e.Jpeg", "f.bmp", "g", "._a.jpeg", ".jpg"
    )
    (root / "folder.jpg").mkdir()
    (root / "gone.jpg").symlink_to(root / "nowhere")
    assert index_images(root) == {
        "a": root / "a.jpeg",
        "b": root / "b.JPG",
        "c.d": root / "c.d.PNG",
        "e": root / "e.Jpeg",
    }
    assert list(index_images(root)) == ["a", "b", "c.d", "e"]


@pytest.mark.parametrize("other", ["a.png", "a.JPG", "a.jpeg"])
def test_index_images_stem_with_two_files(root, other):
    touch(root, "a.jpg", other)
    one, two = sorted(["a.jpg", other])
    with raises(f"image 'a' must be one file, got {one} and {two}; remove or rename"):
        index_images(root)


def test_index_images_without_a_folder(root):
    with raises("nowhere: No such file"):
        index_images(root / "nowhere")


def test_grades_and_suffixes_are_pinned():
    assert GRADES == ("No DR", "Mild", "Moderate", "Severe", "Proliferative")
    assert IMAGE_SUFFIXES == (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
    assert not {str(grade) for grade in range(5)} & (GRADE_WORDS | IMAGE_WORDS)


# --- layout: course ---------------------------------------------------------------

COURSE_IMAGES = ("1_left.jpeg", "1_right.JPG", "2_left.png")


def test_course_table_in_full(root):
    touch(course(root), *COURSE_IMAGES)
    table = read_table(root)
    assert table.samples == (
        Sample("1_left", root / "1_left.jpeg", 0, "train", "1", "left", True, "1_left"),
        Sample(
            "1_right", root / "1_right.JPG", 2, "train", "1", "right", True, "1_right"
        ),
        Sample("2_left", root / "2_left.png", 4, "test", "2", "left", True, "2_left"),
    )
    assert (table.layout, table.warnings, table.missing) == ("course", (), ())
    assert table.counts() == {
        "train": {0: 1, 1: 0, 2: 1, 3: 0, 4: 0},
        "test": {0: 0, 1: 0, 2: 0, 3: 0, 4: 1},
    }


def test_course_csvs_beside_the_image_folder(root):
    course(root)
    data = touch(root / "data", *COURSE_IMAGES)
    assert read_table(root) == read_table(data)
    assert {sample.path.parent for sample in read_table(root).samples} == {data}


def test_course_wins_over_what_lies_beside_it(root):
    touch(course(root), *COURSE_IMAGES)
    write(root / "trainLabels.csv", "image,level", "1_left,0")
    touch(root / "0", "1_left.jpeg")
    assert read_table(root).layout == "course"
    assert (
        read_table(root, LabelOptions(layout="kaggle"), images=False).layout == "kaggle"
    )


def test_nearer_layout_wins_over_the_parents(root):
    course(root.parent)
    write(root / "labels.csv", "image,level", "a,0")
    touch(root, "a.png")
    assert read_table(root).layout == "kaggle"


def test_course_name_in_train_and_test(root):
    course(root, test=[("9_left", 0), ("1_right", 2)])
    with raises("test_img.csv, line 2: ", "'1_right'", "train_img.csv, line 2"):
        read_table(root, images=False)


def test_course_without_images_says_where_they_are_expected(root):
    table = read_table(course(root), images=False)
    assert [s.path for s in table.samples] == [
        root / f"{name}.jpeg" for name in ("1_left", "1_right", "2_left")
    ]


def test_course_with_a_file_missing_is_no_layout(root):
    course(root)
    (root / "test_label.csv").unlink()
    with raises(
        "hold no labels", "found only train_img.csv, train_label.csv, test_img"
    ):
        read_table(root)


# --- layouts: kaggle and aptos ----------------------------------------------------


def kaggle(root, *rows, name="trainLabels.csv", header="image,level"):
    write(root / name, header, *(rows or ("1_left,0", "1_right,1", "2_left,2")))
    return root


@pytest.mark.parametrize(
    "name", ["trainLabels.csv", "train.csv", "labels.csv", "x.CSV"]
)
@pytest.mark.parametrize("where", [".", "train", "train/train"])
def test_kaggle_recognised(root, name, where):
    kaggle(root, name=name)
    folder = touch(root / where, "1_left.jpeg", "1_right.jpeg", "2_left.jpeg")
    table = read_table(root)
    assert table.layout == "kaggle"
    assert table.warnings in ((), ("the test split is empty",))
    assert {s.path.parent for s in table.samples} == {folder}


def test_kaggle_csv_beside_the_image_folder(root):
    kaggle(root)
    touch(root / "train", "1_left.jpeg", "1_right.jpeg", "2_left.jpeg")
    assert read_table(root / "train") == read_table(root)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("image,level", "1_left,3"),
        ("level,image", "3,1_left"),
        ("Unnamed: 0.1,Unnamed: 0,image,level", "0,0,1_left,3"),
        (",image,level", "0,1_left,3"),
        ("image;level", "1_left;3"),
        ("image\tlevel\tnote", '1_left\t3\t"a, b; c"'),
        (" Image , LEVEL", "1_left.jpeg , 3"),
        ('\ufeff"image","level"', '"1_left","3"'),
    ],
)
def test_kaggle_columns_are_found_by_name(root, header, row):
    kaggle(root, row, header=header)
    (sample,) = read_table(root, images=False).samples
    assert (sample.name, sample.grade) == ("1_left", 3)


def test_aptos_recognised(root):
    write(root / "train.csv", "id_code,diagnosis", "000c1434d8d7,2", "001639a390f0,4")
    write(root / "test.csv", "id_code", "0005cfc8afb6")
    write(root / "sample_submission.csv", "id_code,diagnosis", "0005cfc8afb6,0")
    touch(root / "train_images", "000c1434d8d7.png", "001639a390f0.png")
    touch(root / "test_images", "0005cfc8afb6.png")
    table = read_table(root)
    assert table.layout == "aptos"
    assert {(s.patient, s.eye, s.grade) for s in table.samples} == {
        ("000c1434d8d7", "", 2),
        ("001639a390f0", "", 4),
    }
    assert table.warnings == (
        "the test split is empty",
    )  # two grades, one patient each
    assert read_table(root, images=False).samples[0].path == root / "000c1434d8d7.png"


def test_sample_submission_alone_is_no_layout(root):
    kaggle(root, name="sampleSubmission.csv")
    with raises("hold no labels"):
        read_table(root)


def test_usual_name_wins_over_another_csv(root):
    kaggle(root, name="train.csv")
    kaggle(root, "3_left,0", name="cropped.csv")
    assert len(read_table(root, images=False).samples) == 3


def test_two_csvs_are_ambiguous(root):
    kaggle(root, name="trainLabels_cropped.csv")
    kaggle(root, name="trainLabels_all.csv")
    with raises(
        "must hold one layout, got 2: kaggle (trainLabels_all.csv), kaggle "
        "(trainLabels_cropped.csv)",
        "--labels FILE",
    ):
        read_table(root)
    table = read_table(
        root, LabelOptions(labels=root / "trainLabels_all.csv"), images=False
    )
    assert len(table.samples) == 3


def test_two_layouts_are_ambiguous(root):
    kaggle(root)
    touch(root / "0", "1_left.jpeg")
    with raises("got 2: kaggle (trainLabels.csv), folders (set); choose with --layout"):
        read_table(root)
    assert read_table(root, LabelOptions(layout="folders")).layout == "folders"
    assert (
        read_table(root, LabelOptions(layout="kaggle"), images=False).layout == "kaggle"
    )


def test_labels_in_another_place(root, tmp_path):
    path = write(tmp_path / "else" / "mine.csv", "id_code,diagnosis", "a,1")
    touch(root, "a.png")
    assert read_table(root, LabelOptions(labels=path)).layout == "aptos"
    assert read_table(root, LabelOptions(labels=path, layout="aptos")).layout == "aptos"


@pytest.mark.parametrize("layout", [None, "kaggle"])
def test_labels_without_a_header(root, layout):
    path = write(root / "mine.csv", "1_left,0", "1_right,1")
    with raises(
        "mine.csv, line 1: must be a header with the columns image and level",
        "got '1_left, 0'",
    ):
        read_table(root, LabelOptions(labels=path, layout=layout))


def test_labels_of_another_layout_than_asked_for(root):
    path = write(root / "train.csv", "id_code,diagnosis", "a,1")
    with raises("must be a header with the columns image and level, got 'id_code, dia"):
        read_table(root, LabelOptions(labels=path, layout="kaggle"))


@pytest.mark.parametrize("layout", ["course", "folders"])
def test_labels_with_a_layout_that_has_no_single_file(root, layout):
    with raises(
        "--labels goes with the layouts kaggle and aptos", f"--layout {layout}"
    ):
        read_table(root, LabelOptions(layout=layout, labels=root / "x.csv"))


def test_labels_that_do_not_exist(root):
    with raises("x.csv does not exist; --labels must name a CSV file"):
        read_table(root, LabelOptions(labels=root / "x.csv"))


def test_csv_bad_grade(root):
    kaggle(root, "1_left,0", "1_right,5")
    with raises("trainLabels.csv, line 3: a grade must be", "got '5'"):
        read_table(root)


def test_csv_ragged_row(root):
    kaggle(root, "1_left,0", "1_right")
    with raises("trainLabels.csv, line 3: must have 2 columns", "got 1"):
        read_table(root)


def test_csv_empty_name(root):
    kaggle(root, ",0")
    with raises("trainLabels.csv, line 2: column image must name an image"):
        read_table(root)


def test_csv_name_twice(root):
    kaggle(root, "1_left,0", "1_left.jpeg,0")
    with raises(
        "trainLabels.csv, line 3: ", "'1_left' again", "trainLabels.csv, line 2"
    ):
        read_table(root)


def test_csv_without_rows(root):
    write(root / "trainLabels.csv", "image,level")
    with raises("trainLabels.csv lists no image"):
        read_table(root)


# --- layout: folders --------------------------------------------------------------


@pytest.mark.parametrize(
    "folders",
    [
        ("0", "1", "2", "3", "4"),
        ("No_DR", "Mild", "Moderate", "Severe", "Proliferate_DR"),
        ("no dr", "MILD", "moderate", "Severe", "Proliferative DR"),
        ("No-DR", "mild", "Moderate", "severe", "proliferative"),
        ("NoDR", "1", "Moderate", "3", "Proliferative-DR"),
    ],
)
def test_folders_recognised(root, folders):
    for grade, folder in enumerate(folders):
        touch(root / folder, f"{9 - grade}_left.jpeg", f"{9 - grade}_right.png")
    table = read_table(root)
    assert table.layout == "folders"
    assert names(table) == sorted(names(table))
    assert all(sample.grade == 9 - int(sample.patient) for sample in table.samples)
    assert all(sample.path.is_file() for sample in table.samples)
    assert read_table(root, images=False) == table


def test_folders_in_train_and_test(root):
    touch(root / "Train" / "0", "b.png", "a.png")
    touch(root / "Train" / "4", "c.png")
    touch(root / "test" / "No_DR", "0.png")
    table = read_table(root)
    assert names(table, "train") == ["a", "b", "c"]
    assert names(table) == ["a", "b", "c", "0"]
    assert table.warnings == ()


@pytest.mark.parametrize("val", ["val", "valid", "VAL"])
def test_folders_val_counts_as_train(root, val):
    touch(root / "train" / "0", "a.png")
    touch(root / "test" / "0", "b.png")
    touch(root / val / "1", "c.png")
    table = read_table(root)
    assert names(table, "train") == ["a", "c"]
    assert table.warnings == ("the val split counts as train, images: 1",)


def test_folders_without_test_are_split_by_patient(root):
    for patient in range(20):
        touch(root / "train" / "0", f"{patient}_left.png", f"{patient}_right.png")
    table = read_table(root, LabelOptions(test_share=0.25))
    assert len(names(table, "test")) == 10
    train = {s.patient for s in table.samples if s.split == "train"}
    assert not train & {s.patient for s in table.samples if s.split == "test"}


def test_table_says_whether_the_labels_have_a_test_split(root):
    touch(root / "train" / "0", "a_left.png", "b_left.png", "c_left.png")
    assert not read_table(root).own_split
    (root / "test" / "0").mkdir(parents=True)  # and nobody is in it
    table = read_table(root)
    assert table.own_split
    assert names(table, "test") == []
    (root / "labels.csv").write_text("image,level\na_left,0\nb_left,0\n")
    assert not read_table(root, LabelOptions(layout="kaggle"), images=False).own_split


def test_folders_test_only(root):
    touch(root / "test" / "0", "a.png")
    table = read_table(root)
    assert names(table, "test") == ["a"]
    assert table.warnings == ("the train split is empty",)


def test_folders_name_in_two_grades(root):
    touch(root / "0", "a.jpg")
    touch(root / "3", "a.png")
    with raises(f"{root}/3/a.png: ", "'a' again", f"{root}/0/a.jpg"):
        read_table(root)


def test_folders_name_in_train_and_test(root):
    touch(root / "train" / "0", "a.jpg")
    touch(root / "test" / "0", "a.jpg")
    with raises("'a' again"):
        read_table(root)


def test_folders_grade_outside_0_4(root):
    touch(root / "0", "a.jpg")
    touch(root / "5", "b.jpg")
    with raises(
        "5: a grade must be an integer from 0 to 4, got '5'; rename the folder"
    ):
        read_table(root)


def test_folders_inside_and_outside_of_train(root):
    touch(root / "0", "a.jpg")
    touch(root / "train" / "0", "b.jpg")
    with raises("must hold its grade folders directly or in split folders, got both"):
        read_table(root)


def test_folders_images_elsewhere_are_counted(root):
    touch(root / "0", "a.jpg", "b.jpg")
    touch(root, "stray.png")
    touch(root / "unsure", "c.jpg", "c.png")
    touch(root / "0" / "deeper", "d.webp")
    assert [each.describe(root) for each in read_table(root).left_out] == [
        f"4 images in {root}/ left out, not right inside a grade folder: "
        "0/deeper/d.webp, stray.png, unsure/c.jpg, unsure/c.png"
    ]


def test_folders_without_images(root):
    (root / "0").mkdir()
    with raises("set lists no image; a data set needs one at least"):
        read_table(root)


# --- images that are missing, in two places, or unlisted --------------------------


def listed(root, number):
    return kaggle(root, *(f"{i}_left,0" for i in range(number)))


def test_missing_images(root):
    data = touch(listed(root, 1200) / "data", *(f"{i}_left.jpeg" for i in range(3)))
    with raises(
        f"1,197 of 1,200 listed images are missing from {data}/: 3_left, 4_left, "
        "5_left, 6_left, 7_left, ...; pass --allow-missing to go on without them"
    ):
        read_table(root)


def test_one_missing_image(root):
    touch(listed(root, 2), "0_left.jpeg")
    with raises(
        "1 of 2 listed images is missing from", ": 1_left; pass --allow-missing"
    ):
        read_table(root)


def test_missing_images_allowed(root):
    whole = read_table(listed(root, 20), images=False)
    touch(root, *(f"{i}_left.jpeg" for i in range(13)))
    table = read_table(root, allow_missing=True)
    assert table.missing == tuple(f"{i}_left" for i in range(13, 20))
    assert table.warnings == (
        f"7 of 20 listed images are missing from {root}/ and left out: "
        "13_left, 14_left, 15_left, 16_left, 17_left, ...",
    )
    # What is left stays on its side of the split.
    assert set(names(table, "test")) <= set(names(whole, "test"))
    assert set(names(table, "train")) <= set(names(whole, "train"))
    assert len(table.samples) == 13


@pytest.mark.parametrize("allow_missing", [False, True])
def test_no_image_at_all(root, allow_missing):
    touch(listed(root, 2) / "data", "else.jpeg")
    with raises("2 of 2 listed images are missing", "two deep", "name the folder that"):
        read_table(root, allow_missing=allow_missing)


def test_unlisted_images_are_counted(root):
    touch(listed(root, 1), "0_left.jpeg", *(f"x{i}.jpg" for i in range(12)))
    assert [each.describe(root) for each in read_table(root).left_out] == [
        f"12 images in {root}/ left out, in no label file: x0.jpg, x1.jpg, x10.jpg, "
        "x11.jpg, x2.jpg, ..."
    ]
    assert names(read_table(root)) == ["0_left"]


def test_one_unlisted_image(root):
    touch(listed(root, 1), "0_left.jpeg", "x.jpg")
    (left_out,) = read_table(root).left_out
    assert left_out.describe(root) == (
        f"1 image in {root}/ left out, in no label file: x.jpg"
    )


def test_images_shared_out_over_folders(root):
    # The APTOS copy of sovitrath: train.csv, and the images in grade folders.
    write(root / "train.csv", "id_code,diagnosis", "a,0", "b,4")
    touch(root / "colored_images" / "No_DR", "a.png")
    touch(root / "colored_images" / "Proliferate_DR", "b.png")
    table = read_table(root)
    assert table.layout == "aptos"
    assert [s.path.parent.name for s in table.samples] == ["No_DR", "Proliferate_DR"]


def test_images_in_two_folders_are_ambiguous(root):
    listed(root, 2)
    touch(root / "resized", "0_left.jpeg", "1_left.jpeg")
    touch(root / "cropped", "0_left.jpeg", "1_left.jpeg")
    with raises("image '0_left' must be in one folder, got", "cropped and", "resized;"):
        read_table(root)
    assert len(read_table(root / "cropped").samples) == 2


def test_folders_without_a_listed_image_are_left_alone(root):
    touch(listed(root, 1) / "train", "0_left.jpeg")
    touch(root / "test", "7_left.jpeg")
    touch(root / "figures", "plot.png", "plot.jpg")
    touch(root, "logo.png")
    assert read_table(root).warnings == ("the test split is empty",)


def test_listed_image_with_two_files(root):
    touch(listed(root, 1), "0_left.jpeg", "0_left.png")
    with raises("image '0_left' must be one file, got 0_left.jpeg and 0_left.png"):
        read_table(root)


# --- the whole table --------------------------------------------------------------


def test_no_layout_says_what_was_looked_for(root):
    with raises(
        f"{root} and its parent hold no labels; looked for course (train_img.csv",
        "kaggle (a CSV with the columns image and level)",
        "aptos (",
        "folders (a folder per grade",
        "--layout",
        "--labels FILE",
    ):
        read_table(root)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_that_is_not_there(root, layout):
    with raises(f"hold no labels; looked for {layout} ("):
        read_table(root, LabelOptions(layout=layout))


def test_layout_unknown(root):
    with pytest.raises(ValueError, match=r"layout must be one of .* 'coco'"):
        read_table(root, LabelOptions(layout="coco"))


def test_root_that_is_no_folder(root):
    with raises("nowhere does not exist; name the folder that holds the data set"):
        read_table(root / "nowhere")
    with raises("file is not a folder; name the folder"):
        read_table(write(root / "file"))


def test_split_by_patient_follows_share_and_seed(root):
    kaggle(root, *(f"{i}_{eye},0" for i in range(50) for eye in ("left", "right")))
    sides = [
        set(
            names(
                read_table(
                    root, LabelOptions(test_share=share, seed=seed), images=False
                ),
                "test",
            )
        )
        for share, seed in ((0.2, 0), (0.2, 0), (0.2, 1), (0.5, 0))
    ]
    assert [len(side) for side in sides] == [20, 20, 20, 50]
    assert sides[0] == sides[1] != sides[2]


def test_split_share_outside_0_1(root):
    kaggle(root)
    with pytest.raises(ValueError, match="share must be between 0 and 1, got 1"):
        read_table(root, LabelOptions(test_share=1), images=False)


def test_csv_order_is_kept_within_a_split(root):
    order = [f"{i}_left" for i in (7, 3, 9, 1, 8, 2, 5, 4, 6, 0)]
    kaggle(root, *(f"{name},0" for name in order))
    table = read_table(root, images=False)
    assert names(table) == names(table, "train") + names(table, "test")
    for split in ("train", "test"):
        members = names(table, split)
        assert members == [name for name in order if name in members]


def test_reading_labels_imports_no_torch_and_no_pandas():
    code = (
        "import sys, fastretina.data.labels;"
        "print({'torch', 'pandas', 'cv2', 'PIL'} & {*sys.modules})"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout == "set()\n"


# --- keys -------------------------------------------------------------------------

LEGAL = re.compile(r"[A-Za-z0-9_-]{1,90}")
ALPHABET = string.ascii_letters + string.digits + "_-"


@given(st.sets(st.text(alphabet=ALPHABET, min_size=1, max_size=90)))
def test_keys_of_legal_names_are_the_names(names):
    assert assign_keys(names) == {name: name for name in names}


# Few letters, so that names fall together often; long ones, so that some are cut.
near = st.text("ab .-\u00e9", max_size=4)
long = st.builds(str.__mul__, near, st.integers(1, 60))


@given(
    st.lists(near | long | st.text(), unique=True), st.randoms(use_true_random=False)
)
def test_keys_are_legal_unique_and_independent_of_order(names, random):
    keys = assign_keys(names)
    assert keys.keys() == set(names)
    assert all(LEGAL.fullmatch(key) for key in keys.values())
    assert len(set(keys.values())) == len(names)
    random.shuffle(names)
    assert assign_keys(names) == keys


def test_keys_that_fall_together_get_a_hash_each():
    keys = assign_keys(["a b", "a.b", "c d"])
    assert keys["c d"] == "c-d"
    assert keys["a b"] == "a-b-c8687a08"
    assert keys["a.b"] != keys["a b"]
    assert re.fullmatch(r"a-b-[0-9a-f]{8}", keys["a.b"])


def test_keys_of_names_spelt_like_another_key():
    first = assign_keys(["a b", "a.b"])
    keys = assign_keys(["a b", "a.b", first["a b"]])
    assert keys["a.b"] == first["a.b"]
    assert len(set(keys.values())) == 3


def test_keys_of_long_names():
    keys = assign_keys(["x" * 90, "x" * 91, "x" * 92])
    assert keys["x" * 90] == "x" * 90
    assert [len(keys["x" * n]) for n in (91, 92)] == [90, 90]
    assert keys["x" * 91][:82] == "x" * 81 + "-"


def test_keys_in_a_table(root):
    kaggle(root, '"10 left",0', '"10.left",1', '"10_left.jpeg",2')
    keys = [s.key for s in read_table(root, images=False).samples]
    assert keys[2] == "10_left"
    assert all(re.fullmatch(r"10-left-[0-9a-f]{8}", key) for key in keys[:2])


# --- the real label files ---------------------------------------------------------

COURSE_TRAIN = {0: 20656, 1: 1955, 2: 4210, 3: 698, 4: 581}
COURSE_TEST = {0: 5154, 1: 488, 2: 1082, 3: 175, 4: 127}


@pytest.fixture(scope="module")
def real_course():
    return read_table(REAL / "course_labels", images=False)


@needs_real_data
def test_real_course_labels(real_course):
    assert real_course.layout == "course"
    assert real_course.counts() == {"train": COURSE_TRAIN, "test": COURSE_TEST}
    assert len(names(real_course, "train")) == 28_100
    assert len(names(real_course, "test")) == 7_026
    assert names(real_course)[0] == "2576_right"  # what a header would have eaten


@needs_real_data
def test_real_course_split_parts_patients(real_course):
    samples = real_course.samples
    train = {(s.patient, s.eye) for s in samples if s.split == "train"}
    fellow = {"left": "right", "right": "left"}
    test = [s for s in samples if s.split == "test"]
    assert sum((s.patient, fellow[s.eye]) in train for s in test) == 5_618


@needs_real_data
def test_real_kaggle_labels():
    folder = REAL / "course_labels"
    labels = folder / "kaggle_trainLabels.csv"
    table = read_table(
        folder, LabelOptions(layout="kaggle", labels=labels), images=False
    )
    counts = table.counts()
    assert len(table.samples) == 35_126
    assert {g: counts["train"][g] + counts["test"][g] for g in range(5)} == {
        grade: COURSE_TRAIN[grade] + COURSE_TEST[grade] for grade in range(5)
    }
    train = {s.patient for s in table.samples if s.split == "train"}
    test = {s.patient for s in table.samples if s.split == "test"}
    assert not train & test
    assert len(test) / 17_563 == pytest.approx(0.2, abs=1e-3)


@needs_real_data
def test_real_aptos_labels():
    folder = REAL / "course_labels"
    labels = folder / "aptos2019_train_labels.csv"
    table = read_table(folder, LabelOptions(labels=labels), images=False)
    assert table.layout == "aptos"
    assert len(table.samples) == 3_662
    assert read_table(folder, LabelOptions(layout="aptos"), images=False) == table


@needs_real_data
@pytest.mark.parametrize("folder", ["retina512", "retina512/data"])
def test_real_photographs(folder):
    table = read_table(REAL / folder)
    assert table.counts() == {
        "train": {0: 468, 1: 91, 2: 234, 3: 39, 4: 34},
        "test": {0: 117, 1: 23, 2: 59, 3: 10, 4: 8},
    }
    assert len(names(table, "train")) == 866
    assert len(names(table, "test")) == 217
    assert (table.warnings, table.missing) == ((), ())
    assert all(sample.path.is_file() for sample in table.samples)


# --- patients, and what is not taken -----------------------------------------------


def aptos(root, *rows, header="id_code,diagnosis,Patient_ID"):
    write(root / "train.csv", header, *rows)
    return touch(root, *(f"{row.split(',')[0]}.png" for row in rows))


def test_grade_folders_with_eye_markers_are_split_by_patient(root):
    names = [f"P{n:03}_{eye}" for n in range(40) for eye in ("OD", "OS")]
    for n, name in enumerate(names):
        touch(root / str(n % 3), f"{name}.jpg")
    table = read_table(root)
    assert table.patients_unknown == 0
    assert table.patients_in_both == frozenset()
    test = {sample.patient for sample in table.samples if sample.split == "test"}
    assert len(test) == 8
    assert sum(sample.patient in test for sample in table.samples) == 16


def test_a_column_names_the_patients(root):
    rows = [f"h{n:02},{n % 5},p{n // 3}" for n in range(60)]
    aptos(root, *rows)
    unknown = read_table(root)
    assert unknown.patients_unknown == 60
    assert {sample.patient for sample in unknown.samples} == set(names(unknown))
    how = LabelOptions(patients=patient_source("patient_id", None))
    table = read_table(root, how)
    assert {s.name: s.patient for s in table.samples} == {
        f"h{n:02}": f"p{n // 3}" for n in range(60)
    }
    assert table.patients_unknown == 0
    assert table.patients_in_both == frozenset()


def test_an_empty_cell_names_nobody(root):
    aptos(root, "a,0,p1", "b,1,", "c,2,p1", "d,3,p2")
    how = LabelOptions(patients=patient_source("Patient_ID", None))
    table = read_table(root, how)
    assert {s.name: (s.patient, s.patient_known) for s in table.samples} == {
        "a": ("p1", True),
        "b": ("b", False),
        "c": ("p1", True),
        "d": ("p2", True),
    }


def test_a_pattern_names_the_patients(root):
    for n in range(12):
        touch(root / "0", f"{n // 2:02}-{n}.jpg")
    how = LabelOptions(patients=patient_source(None, r"^(\d+)-"))
    table = read_table(root, how)
    assert {s.name: s.patient for s in table.samples} == {
        f"{n // 2:02}-{n}": f"{n // 2:02}" for n in range(12)
    }


@pytest.mark.parametrize(
    ("column", "pattern", "why"),
    [
        (
            "nobody",
            None,
            "must name the column 'nobody', got 'id_code, diagnosis, patie",
        ),
        (
            None,
            "(zzz)",
            "no patient is identified from the pattern (zzz); the first im",
        ),
    ],
)
def test_patients_that_are_not_there(root, column, pattern, why):
    aptos(root, "a,0,p1", "b,1,p1")
    with raises(why):
        read_table(root, LabelOptions(patients=patient_source(column, pattern)))


def test_a_column_needs_a_label_file_with_a_header(root):
    touch(root / "0", "a.jpg")
    with raises(
        "--patient-column names a column of a label file with a header", "--pa"
    ):
        read_table(root, LabelOptions(patients=patient_source("patient", None)))


def test_a_patient_of_too_many_photographs_is_doubted(root):
    touch(root / "0", *(f"site1_R_{n}.jpg" for n in range(20)), "7_L.jpg", "7_R.jpg")
    assert (
        read_table(root)
        .warnings[0]
        .startswith("one patient, 'site1', has 20 of 22 photographs")
    )


def test_every_file_that_is_not_taken_is_named(root):
    touch(root / "0", "a.jpg", "b.TIF", "c.webp", "d.bmp", "e.dcm", "f.bmp", ".hidden")
    touch(root / "1", "g.tiff", "Thumbs.db")
    touch(root, "notes.txt")
    (root / "1" / "h.jpg").symlink_to(root / "nowhere")
    table = read_table(root)
    assert sorted(names(table)) == ["a", "b", "c", "g"]
    assert [each.describe(root) for each in table.left_out] == [
        f"3 images in {root}/ left out, in a format that is not read (.bmp 2, .dcm 1): "
        "0/d.bmp, 0/e.dcm, 0/f.bmp",
        f"1 file in {root}/ left out, as they are links to nothing: 1/h.jpg",
        f"2 files in {root}/ left out, no images by their suffix: 1/Thumbs.db, "
        "notes.txt",
    ]


def test_unlabelled_folders_are_counted_too(root):
    touch(listed(root, 1) / "train", "0_left.jpeg")
    touch(root / "test", "1_left.jpeg", "2_left.jpeg")
    (left_out,) = read_table(root).left_out
    assert left_out.names == ("test/1_left.jpeg", "test/2_left.jpeg")


def test_label_files_notes_and_shards_are_no_strays(root):
    course(root, train=[("1_left", 0)], test=[("2_left", 1)])
    touch(root / "data", "1_left.jpeg", "2_left.jpeg")
    write(root / "demo.json", "{}")
    write(root / "split.json", "{}")
    write(root / "made" / "manifest.json", "{}")
    touch(root / "made", "train-000000.tar")
    touch(root / "begun", "train-000000.tar")
    assert read_table(root, passed_over=[root / "begun"]).left_out == ()


def test_a_link_that_leads_back_up_is_followed_once(root):
    touch(root / "0", "a.jpg")
    (root / "0" / "up").symlink_to(root)
    touch(root / "x", "b.jpg")
    (left_out,) = read_table(root).left_out
    assert len(left_out.names) == 1


def test_a_photograph_named_like_a_patient_is_not_of_that_patient(root):
    course(root, train=[("b-1", 0), ("c-1", 0)], test=[("b", 1), ("c-2", 1)])
    how = LabelOptions(patients=patient_source(None, r"^(\w)-"))
    table = read_table(root, how, images=False)
    assert table.patients_in_both == {"c"}
    assert table.patients_unknown == 1
