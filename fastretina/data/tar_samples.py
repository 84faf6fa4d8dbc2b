"""The samples of a WebDataset tar that somebody wrote, by the webdataset library.

    KEY.jpg  KEY.cls  KEY.json  KEY.txt      a sample: its image, its grade, and others

The library ends a key at the first dot. Where names hold more of them, 1.2.840.jpg
beside 1.2.841.jpg, all of these are one sample to it, and are told apart here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastretina.data.patient_names import PatientEye, PatientSource, read_name
from fastretina.data.whole_tar import check_whole
from loaders.course import IMAGE_SUFFIXES
from loaders.errors import LabelError
from loaders.files import naming
from loaders.grades import GRADES
from loaders.untrusted import MOST_JSON, parse_json

_GRADES = {str(grade): grade for grade in range(len(GRADES))}
_GRADE_NAMES = ("grade", "label", "level")  # in a sample's JSON; the first counts
_IMAGES = frozenset(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
_LABELS = frozenset({"cls", "json"})


@dataclass(frozen=True)  # without slots, as what its .json says is kept
class TarSample:
    """One sample of a tar.

    Attributes:
        tar: the file.
        name: its key in it; what follows the key's first dot is in lower case.
        members: what it holds, by suffix without dot, in lower case.
    """

    tar: Path
    name: str
    members: Mapping[str, bytes]

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.tar}, sample {self.name}"

    @property
    def images(self) -> dict[str, bytes]:
        """Its images, by suffix: one, if nothing is wrong."""
        return {s: self.members[s] for s in self.members if s in _IMAGES}

    @cached_property
    def about(self) -> dict[str, object]:
        """What its ``.json`` says; empty where it has none, or no record.

        Raises:
            LabelError: that is no JSON, or too long.
        """
        content = self.members.get("json", b"{}")
        try:
            if len(content) > MOST_JSON:
                raise ValueError(f"{len(content):,} bytes are more than {MOST_JSON:,}")
            record = parse_json(content)
        except ValueError as error:
            raise LabelError(
                f"{self.place}: its .json is none ({error}); correct it or leave it out"
            ) from None
        return record if isinstance(record, dict) else {}

    def grade(self) -> int | None:
        """By its ``.cls``, else by its ``.json``; None where neither says one.

        Raises:
            LabelError: that is no grade, or the two contradict each other.
        """
        about = self.about
        listed = [about[name] for name in _GRADE_NAMES if about.get(name) is not None]
        text = _as_text(listed[0]) if listed else None
        if "cls" in self.members:
            cls = self.members["cls"].decode(errors="replace").strip()
            if about.get("grade") is not None and text != cls:
                raise LabelError(
                    f"{self.place}: its .cls and its .json must say one grade, got "
                    f"{cls!r} and {text!r}; correct one of them"
                )
            text = cls
        if text is None:
            return None
        if text not in _GRADES:
            raise LabelError(
                f"{self.place}: a grade must be an integer from 0 to 4, got {text!r}; "
                "correct it, or leave the sample out of the tar"
            )
        return _GRADES[text]

    def eye(self, patients: PatientSource) -> PatientEye:
        """Whose eye it shows, by its ``.json`` where it says so, else by its name.

        Where a pattern is given, that finds the patient in the name. A column is a name
        in the JSON.
        """
        about = self.about
        base = self.name.rpartition("/")[2]  # folders may be the grades'
        by_name = read_name(base)
        if patients.pattern is not None:
            by_name = patients.pattern.read_name(self.name)
        eye = _as_eye(about.get("eye"), by_name.eye)
        if patients.pattern is not None:
            return by_name._replace(eye=eye)
        patient = _as_text(about.get(patients.column or "patient"))
        if not patient:
            if patients.column is not None:
                return PatientEye(self.name, eye, False)
            return by_name._replace(eye=eye)
        # Sharding writes a photograph's own name where it knows no patient.
        source = str(about.get("source")).encode(errors="backslashreplace").decode()
        own = patient in (self.name, source)
        return PatientEye(patient, eye, patients.column is not None or not own)


def read_samples(tar: Path) -> Iterator[TarSample]:
    """Read a tar from its begin to its end; one sample is in memory at a time.

    Raises:
        LabelError: it is no whole tar, or a member stands in it twice.
        OSError: it can't be read.
    """
    # What WebDataset(url) is made of: as a URL, a path with "::" or "{" is several.
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with naming(tar):
        check_whole(tar)
        with tar.open("rb") as stream:
            source = {"url": str(tar), "stream": stream}
            files = tar_file_expander([source], select_files=_is_shown)
            samples = iter(group_by_keys(files))
            while (sample := _next(samples, tar)) is not None:
                yield from _cut(tar, sample)


def _next(samples: Iterator[dict[str, bytes]], tar: Path) -> dict[str, bytes] | None:
    try:
        return next(samples, None)
    except ValueError as error:  # the one that the library raises itself
        name = str(error.args[0]).partition(": duplicate")[0]
        raise LabelError(
            f"{tar}: a name must stand once, got {name!r} again; remove or rename one "
            "of them"
        ) from None


def _is_shown(member: str) -> bool:
    """Whether it is no hidden file, such as macOS packs beside every other."""
    parts = member.split("/")
    return not any(p.startswith(".") and p not in (".", "..") for p in parts)


def _cut(tar: Path, sample: Mapping[str, bytes]) -> Iterator[TarSample]:
    """The samples of what the library takes for one: one, mostly."""
    key = str(sample["__key__"]).removeprefix("./")
    groups: dict[str, dict[str, bytes]] = {}
    for ending, content in sample.items():
        if not ending.startswith("__"):
            stem, _, suffix = ending.rpartition(".")
            groups.setdefault(stem, {})[suffix] = content
    pictured = {stem for stem, own in groups.items() if _IMAGES & own.keys()}
    whole = {stem for stem in pictured if _LABELS & groups[stem].keys()}
    if not whole and len(groups) > 1 and len(pictured) < 2:
        # KEY.image.jpg and KEY.grade.cls. Of two grades, the shorter name's counts.
        members: dict[str, bytes] = {}
        for stem in sorted(groups, key=len, reverse=True):
            members |= groups[stem]
        yield TarSample(tar, key, members)
        return
    for stem, own in groups.items():
        if stem in pictured or "cls" in own or not pictured:
            yield TarSample(tar, f"{key}.{stem}" if stem else key, own)


def _as_text(value: object) -> str:
    """A value of JSON as text; empty for none."""
    if value is None or value != value:  # a table's empty cell is NaN
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _as_eye(value: object, otherwise: str) -> str:
    """An eye in one of the words that names may hold."""
    if value == "":
        return ""
    by_word = read_name(f"1_{value}")
    return by_word.eye if by_word.known else otherwise
