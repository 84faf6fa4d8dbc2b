"""What is audited: a folder of photographs, its labels alone, or shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fastretina.data.labels import LabelOptions, list_left_out, read_table
from fastretina.data.left_out import LeftOutFiles
from fastretina.data.patient_names import PatientSource
from loaders.course import find_images
from loaders.errors import DataError
from loaders.jpeg_structure import MOST_PHOTOGRAPH
from loaders.shards import MANIFEST, SPLITS, ShardSplit, open_split, read_manifest
from loaders.untrusted import read_file


class AuditError(DataError):
    """What can't be mended as asked, or was found and must not be."""


class Eye(NamedTuple):
    """A photograph as the labels have it.

    Attributes:
        name: the image's name as the labels list it; in shards, its key.
        grade: 0 to 4.
        split: ``train`` or ``test``.
        patient: name of the patient whose eye it is; the image's own where unknown.
        side: ``left``, ``right``, or empty where it is unknown.
        known: whether the patient is known.
    """

    name: str
    grade: int
    split: str
    patient: str
    side: str
    known: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditedDataSet:
    """A data set under audit.

    Attributes:
        data: the data set's folder.
        layout: one of ``layout_names.LAYOUTS``, or ``shards``.
        own_split: whether the labels say what is test; else it was made by patient.
        eyes: all that is listed, train before test.
        read: gives the bytes of an image by its place in ``eyes``.
        there: the places in ``eyes`` that have an image.
        folders: the folders that hold images, where these are files of their own.
        paths: place in ``eyes`` to the image's file, where it is one.
        left_out: files in the folder that are not taken, by reason.
        patients: what the patients are told by.
        set_aside: number of images that sharding has quarantined.
        warnings: what else was noticed, one line each.
    """

    data: Path
    layout: str
    own_split: bool
    eyes: tuple[Eye, ...]
    read: Callable[[int], bytes]
    there: tuple[int, ...] = ()
    folders: tuple[Path, ...] = ()
    paths: Mapping[int, Path] = field(default_factory=dict)
    left_out: tuple[LeftOutFiles, ...] = ()
    patients: str = PatientSource().describe()
    set_aside: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """Names without an image, where other names have one."""
        there = set(self.there)
        if not there:
            return []
        return [eye.name for n, eye in enumerate(self.eyes) if n not in there]


@contextmanager
def open_data_set(
    data: Path, how: LabelOptions, *, images: bool
) -> Iterator[AuditedDataSet]:
    """Open a data set of any kind.

    A folder with a ``manifest.json`` is a set of shards, unless layout or labels are
    named.

    Args:
        data: the folder.
        how: its labels are to be read.
        images: whether to look for the images, too.

    Raises:
        DataError: it is none, or shards, whose patients are what they are.
    """
    named = how.layout is not None or how.labels is not None
    if not named and (data / MANIFEST).is_file():
        if how.patients != PatientSource():
            raise AuditError(
                f"{data} holds shards, whose patients were identified when they were "
                "written: pass --patient-column or --patient-pattern to fastretina "
                "shard"
            )
        with ExitStack() as stack:
            splits = read_manifest(data).splits
            opened = [
                stack.enter_context(open_split(str(data), name))
                for name in SPLITS
                if name in splits
            ]
            yield _from_shards(data, opened)
        return
    yield _from_folder(data, how, look_for_images=images)


def _from_shards(data: Path, splits: Sequence[ShardSplit]) -> AuditedDataSet:
    eyes, places = [], []
    for split in splits:
        names = ("key", "label", "patient", "eye", "patient_known")
        columns = zip(*(split.column(name) for name in names), strict=True)
        for row, (key, label, patient, side, known) in enumerate(columns):
            eyes.append(Eye(key, label, split.name, patient, side, known))
            places.append((split, row))

    def read(place: int) -> bytes:
        split, row = places[place]
        return bytes(split.read(row))

    told_by = splits[0].manifest.origin.patients if splits else None
    return AuditedDataSet(
        data=data,
        layout="shards",
        patients=told_by or PatientSource().describe(),
        own_split=True,
        eyes=tuple(eyes),
        read=read,
        there=tuple(range(len(eyes))),
        set_aside=sum(len(s.manifest.quarantine) for s in splits[:1]),
    )


def _from_folder(
    data: Path, how: LabelOptions, *, look_for_images: bool
) -> AuditedDataSet:
    table = read_table(data, how, images=False)
    samples, left_out = table.samples, table.left_out
    folders: tuple[Path, ...] = ()
    paths: dict[int, Path] = {}
    if table.layout == "folders":  # was listed to be read at all
        paths = {place: sample.path for place, sample in enumerate(samples)}
        folders = tuple(sorted({path.parent for path in paths.values()}))
    elif look_for_images:
        listed = {sample.name: place for place, sample in enumerate(samples)}
        holding = find_images(data, listed.keys())
        folders = tuple(holding)
        files = {name: path for each in holding.values() for name, path in each.items()}
        paths = {listed[name]: path for name, path in files.items() if name in listed}
        left_out = list_left_out(data, table, paths.values()) if paths else ()

    def read(place: int) -> bytes:
        return read_file(paths[place], MOST_PHOTOGRAPH)

    return AuditedDataSet(
        data=data,
        layout=table.layout,
        own_split=table.own_split,
        eyes=tuple(
            Eye(s.name, s.grade, s.split, s.patient, s.eye, s.patient_known)
            for s in samples
        ),
        read=read,
        there=tuple(sorted(paths)),
        folders=folders,
        paths=paths,
        left_out=left_out,
        patients=how.patients.describe(),
        warnings=table.warnings,
    )
