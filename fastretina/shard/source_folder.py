"""The folder of photographs that is sharded: its table, and what to say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fastretina.data.drawn import count_drawn
from fastretina.data.labels import LabelOptions, SampleTable, layout_in, read_table
from fastretina.data.patient_names import PatientSource
from fastretina.shard.plan import PROGRESS
from loaders.errors import LabelError
from loaders.shards import MANIFEST, SPLITS, Origin


@dataclass(frozen=True, slots=True)
class SourceFolder:
    """A folder of graded photographs, read.

    Attributes:
        data: the folder.
        how: its labels were read.
        table: what they say.
    """

    data: Path
    how: LabelOptions
    table: SampleTable

    @classmethod
    def read(
        cls,
        data: Path,
        how: LabelOptions,
        shards: Path,
        *,
        allow_missing: bool,
        unpack_to: Callable[[], Path],
    ) -> SourceFolder:
        """Read a folder whose shards are to be written to another one.

        Args:
            data: the folder.
            how: its labels are to be read.
            shards: the other folder.
            allow_missing: leave listed images that are missing out.
            unpack_to: makes a folder for the images, where they lie in tars.

        Raises:
            LabelError: there is no table to be made of it; most of all where the two
                folders stand the wrong way round.
        """
        if (data / MANIFEST).is_file():
            raise LabelError(
                f"{data} holds shards: DATA, the folder named first, must hold the "
                "photographs; SHARDS, the second, is written"
            )
        if (data / PROGRESS / "plan.json").is_file():
            raise LabelError(
                f"{data} holds shards that are not finished: the command that began "
                "them goes on where it was"
            )
        try:
            table = read_table(
                data,
                how,
                allow_missing=allow_missing,
                passed_over=[shards],
                unpack_to=unpack_to,
            )
        except LabelError:
            # Tars may be shards that were begun there.
            if not shards.is_dir() or layout_in(shards) in (None, "tars"):
                raise
            if data.is_dir() and layout_in(data):
                raise
            raise LabelError(
                f"DATA and SHARDS must stand the other way round: {shards} holds "
                f"labels, {data} does not"
            ) from None
        return cls(data, how, table)

    def warnings(self) -> Iterator[str]:
        """What is left out, and what of the patients makes scores worth little."""
        table = self.table
        yield from table.warnings
        yield from (each.describe(self.data) for each in table.left_out)
        for split in SPLITS:
            yield from self._chance_agreement(split)
        if unknown := table.patients_unknown:
            total = len(table.samples)
            some = f"{unknown:,} of " if unknown < total else "all "
            yield (
                f"the patients of {some}{total:,} photographs can't be identified from "
                f"{self._patients_from()}, so a patient may be in train and in "
                "test; --patient-column or --patient-pattern says who is whose"
            )
        if shared := table.patients_in_both:
            test = [sample for sample in table.samples if sample.split == "test"]
            leaking = sum(sample.patient in shared for sample in test)
            remedy = f"fastretina audit {self.data} --fix fixed writes"
            if table.layout == "tars":
                remedy = "under names that tell none, the same tars get"
            yield (
                f"{leaking:,} of {len(test):,} test photographs are of patients who "
                f"are in train, too, so a score is partly memory; {remedy} a split by "
                "patient"
            )

    def _chance_agreement(self, split: str) -> Iterator[str]:
        from fastretina.metrics.fellow_agreement import (
            describe_chance_agreement,
            find_chance_agreement,
        )

        eyes = [sample for sample in self.table.samples if sample.split == split]
        found = find_chance_agreement(
            [eye.patient for eye in eyes],
            [eye.eye for eye in eyes],
            [eye.grade for eye in eyes],
        )
        if found is not None:
            text = describe_chance_agreement(found, eyes[found.first].name)
            yield f"in {split}, {text}"

    def _patients_from(self) -> str:
        """What identifies the patients, in words that follow "from"."""
        patients = self.how.patients
        if self.table.layout == "tars" and patients == PatientSource():
            return f"the tars' .json and {patients.describe()}"
        return patients.describe()

    def summary(self) -> dict[str, object]:
        """Its part of the JSON line."""
        return {
            "left_out": sum(len(each.names) for each in self.table.left_out),
            "patients_unknown": self.table.patients_unknown,
            "patients_in_both": len(self.table.patients_in_both),
        }

    def describe(self, source: str | None) -> dict[str, object]:
        """Its part of the manifest, with what is said of where it comes from."""
        table = self.table
        origin = Origin(
            source=source,
            layout=table.layout,
            listed=len(table.samples),
            drawn=count_drawn(sample.path for sample in table.samples),
            patients=self._patients_from(),
        )
        return {
            **asdict(origin),
            "patients_unknown": table.patients_unknown,
            "left_out": {each.reason: len(each.names) for each in table.left_out},
        }
