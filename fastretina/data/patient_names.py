"""Whose eye a photograph shows: told by its name, by a pattern, or by the label file.

10_left  7-right  P01012_OS  1_L  RET002OD  OD_17  P01_OS_2  ->  patient, eye

An eye is marked by one of the words of ``_EYES``: after the patient (and behind it the
photograph's number or field, where an eye has several), before the patient, or stuck to
the last digit of the patient's number. What is left of the name is the patient. A name
that holds no such word tells no patient, and nothing is claimed about it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

# Latin: oculus dexter, sinister; Portuguese, French and Spanish: esquerdo, gauche,
# izquierdo.
_EYES = {
    "left": "left os oe og oi l le lefteye left_eye left-eye",
    "right": "right od r re righteye right_eye right-eye",
}
_EYE_OF = {word: eye for eye, words in _EYES.items() for word in words.split()}
_ANY = "|".join(sorted(map(re.escape, _EYE_OF), key=len, reverse=True))
_GAP = r"[ _.\-]+"
# From its first character on, or a name of many gaps would take the square of its
# length; but what a name begins with is its patient's.
_WHOLE_GAP = rf"(?:(?<![ _.\-])|(?<=\A[ _.\-])){_GAP}"
_FORMS = tuple(
    re.compile(form, re.IGNORECASE | re.DOTALL)
    for form in (
        rf"(?P<patient>.+?){_WHOLE_GAP}(?P<eye>{_ANY})",
        rf"(?P<eye>{_ANY}){_GAP}(?P<patient>.+)",
        # A photograph's number or field follows: of a patient whose name has a digit,
        # as "scan_R_1" and "scan_R_2" need not be of one.
        rf"(?P<patient>\D*\d.*?){_WHOLE_GAP}(?P<eye>{_ANY}){_GAP}[a-z]*\d{{0,2}}",
        r"(?P<patient>.*\d)(?P<eye>left|right|od|os|(?-i:[LR]))",
    )
)


class PatientEye(NamedTuple):
    """Whose eye a photograph shows.

    Attributes:
        patient: the patient's name; the photograph's own where the patient is unknown.
        eye: ``left``, ``right``, or empty where it is unknown.
        known: whether the patient is known.
    """

    patient: str
    eye: str
    known: bool


def read_name(name: str) -> PatientEye:
    """What a photograph's name, without its suffix, tells by itself."""
    for form in _FORMS:
        if match := form.fullmatch(name):
            return PatientEye(match["patient"], _EYE_OF[match["eye"].lower()], True)
    return PatientEye(name, "", False)


@dataclass(frozen=True, slots=True)
class PatientPattern:
    """A regular expression that finds the patient in a photograph's name.

    Attributes:
        text: the expression, with a group ``(?P<patient>...)``, or with one group that
            has no name; a group ``(?P<eye>...)`` finds the eye.
    """

    text: str

    def __post_init__(self) -> None:
        try:
            compiled = re.compile(self.text)
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from None
        if "patient" not in compiled.groupindex and compiled.groups != 1:
            raise ValueError(
                "must mark the patient by one pair of brackets or by (?P<patient>...)"
            )

    def read_name(self, name: str) -> PatientEye:
        """The patient that the pattern finds, and the eye by it or by the name."""
        match = re.search(self.text, name)
        groups = match.groupdict() if match else {}
        patient = groups.get("patient") or (match[1] if match else None)
        by_name = read_name(name).eye
        if not patient:
            return PatientEye(name, by_name, False)
        eye = _EYE_OF.get((groups.get("eye") or "").lower(), by_name)
        return PatientEye(patient, eye, True)


@dataclass(frozen=True, slots=True)
class PatientSource:
    """Where the patients of a data set are told.

    Attributes:
        column: of the label file; None where it has none.
        pattern: for the names; None reads the usual marks of an eye.
    """

    column: str | None = None
    pattern: PatientPattern | None = None

    def read(self, name: str, cells: Mapping[str, str] | None) -> PatientEye:
        """Whose eye a photograph shows.

        Args:
            name: its name without suffix.
            cells: name to the cell of ``column``; None where no column was named.
        """
        by_name = self.pattern.read_name(name) if self.pattern else read_name(name)
        if cells is None:
            return by_name
        patient = cells[name]
        return PatientEye(patient or name, by_name.eye, bool(patient))

    def describe(self) -> str:
        """What identifies them, in words that follow "from"."""
        if self.column is not None:
            return f"the column {self.column}"
        if self.pattern is not None:
            return f"the pattern {self.pattern.text}"
        return "eye markers in the image names"


def patient_source(column: str | None, pattern: str | None) -> PatientSource:
    """Where the flags ``--patient-column`` and ``--patient-pattern`` say.

    Raises:
        ValueError: both are given, or the pattern is none.
    """
    if column is not None and pattern is not None:
        raise ValueError(
            "--patient-column and --patient-pattern must not be given together"
        )
    try:
        return PatientSource(
            column, None if pattern is None else PatientPattern(pattern)
        )
    except ValueError as error:
        raise ValueError(f"--patient-pattern {error}, got {pattern!r}") from None
