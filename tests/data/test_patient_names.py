"""Whose eye a photograph shows, by its name, a pattern or a column."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastretina.data.patient_names import PatientPattern, patient_source, read_name

EYES = {"left": "left", "L": "left", "OS": "left", "os": "left", "le": "left"}
EYES |= {"right": "right", "R": "right", "OD": "right", "Right": "right", "re": "right"}


@pytest.mark.parametrize(
    ("name", "patient", "eye"),
    [
        ("10_left", "10", "left"),
        ("10_right", "10", "right"),
        ("10_RIGHT", "10", "right"),
        ("a_b_Left", "a_b", "left"),
        ("x_left_left", "x_left", "left"),
        ("7-left", "7", "left"),
        ("1_L", "1", "left"),
        ("1-R", "1", "right"),
        ("P01012_OS", "P01012", "left"),
        ("P01012_od", "P01012", "right"),
        ("12 OD", "12", "right"),
        ("5.OS", "5", "left"),
        ("10__left", "10", "left"),
        ("10left", "10", "left"),
        ("RET002OD", "RET002", "right"),
        ("12L", "12", "left"),
        ("OD_17", "17", "right"),
        ("left_7", "7", "left"),
        ("P01_OS_2", "P01", "left"),
        ("P01_OS_macula", "P01", "left"),
        ("0001_OD_f2", "0001", "right"),
        ("10_left_eye", "10", "left"),
        ("10_LeftEye", "10", "left"),
        ("33_OE", "33", "left"),  # Portuguese: olho esquerdo
        ("33_OG", "33", "left"),  # French: oeil gauche
        ("33_OI", "33", "left"),  # Spanish: ojo izquierdo
        ("L_10_R", "L_10", "right"),
    ],
)
def test_an_eye_marker_tells_patient_and_eye(name, patient, eye):
    assert read_name(name) == (patient, eye, True)


NOBODY = """
000c1434d8d7 _left left R L_ 10_leftish abcl 12l IDRiD_001 IM000001 img00001 1.1
007-0004-000 20051019_38557_0100_PP 1000012_21015_0_0 OS1 scan_R_1 IMG2023_R_0001
"""


@pytest.mark.parametrize("name", NOBODY.split())
def test_other_names_tell_no_patient(name):
    assert read_name(name) == (name, "", False)


@given(
    patient=st.from_regex(r"[A-Za-z]{0,4}[0-9]{1,5}", fullmatch=True),
    gap=st.sampled_from(["_", "-", " ", "."]),
    markers=st.sampled_from(
        [("left", "right"), ("L", "R"), ("OS", "OD"), ("le", "re")]
    ),
    first=st.booleans(),
)
def test_two_eyes_are_of_one_patient(patient, gap, markers, first):
    names = [f"{m}{gap}{patient}" if first else f"{patient}{gap}{m}" for m in markers]
    left, right = map(read_name, names)
    assert left.patient == right.patient
    assert (left.eye, right.eye) == ("left", "right")
    assert left.known
    assert right.known


def test_a_long_name_takes_no_time():
    started = time.process_time()
    for name in ("1" * 255, "1_" * 127, "_" * 255, "a_L_" * 63 + "x!"):
        read_name(name)
    assert time.process_time() - started < 2  # it was 0.02; a bad pattern takes hours


def test_a_pattern_finds_the_patient():
    pattern = PatientPattern(r"IM([0-9]+)")
    assert pattern.read_name("x_IM7-2") == ("7", "", True)
    assert pattern.read_name("IM7_OS") == ("7", "left", True)
    assert pattern.read_name("other") == ("other", "", False)
    assert pattern.read_name("9_left") == ("9_left", "left", False)


def test_a_pattern_finds_the_eye_too():
    pattern = PatientPattern(r"(?P<eye>[LR])(?P<patient>\d+)")
    assert pattern.read_name("xL12") == ("12", "left", True)
    assert pattern.read_name("R9") == ("9", "right", True)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "is no regular expression"),
        ("abc", "must mark the patient"),
        ("(a)(b)", "must mark the patient"),
        ("(?P<eye>.)(b)", "must mark the patient"),
    ],
)
def test_a_bad_pattern_is_refused_in_a_line(pattern, why):
    with pytest.raises(ValueError, match=f"^--patient-pattern {why}") as refused:
        patient_source(None, pattern)
    assert "\n" not in str(refused.value)
    assert pattern in str(refused.value)


def test_column_and_pattern_exclude_each_other():
    with pytest.raises(ValueError, match="must not be given together"):
        patient_source("patient", "(.*)")
