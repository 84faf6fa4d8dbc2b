"""The predictions of a run on a split, and the file that keeps them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loaders.arrays import Float64, Int64
from loaders.errors import RunError
from loaders.files import write_atomically
from loaders.grades import GRADES

if TYPE_CHECKING:
    from loaders.shards import ShardSplit


_CHANCES = [f"p{grade}" for grade in range(len(GRADES))]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitPredictions:
    """What a network says of each sample of a split, in row order.

    Attributes:
        rows: int64[N], of the split's index.
        keys: names of the samples.
        patients: whose eyes they are.
        eyes: ``left``, ``right`` or empty.
        labels: int64[N], the grades that people gave.
        probabilities: float64[N, 5].
        about: of which checkpoint, as JSON.
    """

    rows: Int64
    keys: list[str]
    patients: list[str]
    eyes: list[str]
    labels: Int64
    probabilities: Float64
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grades(self) -> Int64:
        """int64[N], the likeliest ones."""
        found: Int64 = self.probabilities.argmax(axis=1)
        return found

    def of_keys(self, keys: Sequence[str]) -> SplitPredictions:
        """The same of these samples, in this order."""
        place = {key: n for n, key in enumerate(self.keys)}
        chosen = np.array([place[key] for key in keys], np.int64)
        return replace(
            self,
            rows=self.rows[chosen],
            keys=list(keys),
            patients=[self.patients[n] for n in chosen],
            eyes=[self.eyes[n] for n in chosen],
            labels=self.labels[chosen],
            probabilities=self.probabilities[chosen],
        )

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(
        cls,
        split: ShardSplit,
        rows: Int64,
        probabilities: Float64,
        about: Mapping[str, Any],
    ) -> SplitPredictions:
        """With what the split's index knows of the rows."""
        columns = {
            name: [values[row] for row in rows]
            for name in ("key", "patient", "eye")
            for values in [split.column(name)]
        }
        return cls(
            rows=rows,
            keys=columns["key"],
            patients=columns["patient"],
            eyes=columns["eye"],
            labels=split.labels[rows],
            probabilities=probabilities,
            about=about,
        )

    def save(self, path: Path) -> None:
        """Write a Parquet file, whole or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(
            {
                "row": self.rows,
                "key": self.keys,
                "patient": self.patients,
                "eye": self.eyes,
                "label": self.labels,
                **dict(zip(_CHANCES, self.probabilities.T, strict=True)),
            }
        )
        told = {"fastretina": json.dumps(dict(self.about))}
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(told), buffer)
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> SplitPredictions:
        """Read what ``save`` has written.

        Raises:
            RunError: it is not there, or damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(pa.BufferReader(path.read_bytes()))
            columns = table.to_pydict()
            return cls(
                rows=np.array(columns["row"], np.int64),
                keys=columns["key"],
                patients=columns["patient"],
                eyes=columns["eye"],
                labels=np.array(columns["label"], np.int64),
                probabilities=np.array([columns[name] for name in _CHANCES]).T,
                about=json.loads(table.schema.metadata[b"fastretina"]),
            )
        except FileNotFoundError:
            raise RunError(
                f"{path.parent} has no {path.name}: the run is not finished, or was "
                "made by an older version; "
                f"python -m fastretina.train --resume {path.parent} finishes it"
            ) from None
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error})") from error
