"""What a network predicts of a split, sample by sample, and the file that keeps it.

split --Loader--> Batch --normalise, network, softmax--> probabilities
--every rank's, in row order--> Predictions --save--> test.parquet
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta

from fastretina.progress import progress_bar
from fastretina.run import as_record
from fastretina.wall_clock import part
from loaders.arrays import Float64, Int64
from loaders.errors import RunError
from loaders.files import write_atomically
from loaders.grades import GRADES
from loaders.parquet import MOST_PARQUET, parse_parquet
from loaders.untrusted import parse_json, read_file

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

    from fastretina.data.loading import Loading
    from fastretina.nn.device import Compute
    from fastretina.nn.distributed import Ranks
    from fastretina.nn.trained import Trained
    from loaders import Loader
    from loaders.shards import ShardSplit


PROBABILITIES = [f"p{grade}" for grade in range(len(GRADES))]
_TEXTS = ("key", "patient", "eye")
_COLUMNS = ("row", *_TEXTS, "patient_known", "label", *PROBABILITIES)


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionSource:
    """Which checkpoint has predicted which split; None where it is unknown.

    Attributes:
        split: ``test``, ``validation`` or ``train``.
        checkpoint: ``best`` or ``last``.
        checkpoint_epoch: the epoch that it was written in, from 1.
        weights_sha256: SHA-256 of its weights.
    """

    split: str | None = None
    checkpoint: str | None = None
    checkpoint_epoch: int | None = None
    weights_sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Skipped:
    """What else the file's record says; of an older version, nothing."""

    skipped: Annotated[int, Meta(ge=0)] = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """What a network says of each sample of a split, in row order.

    Attributes:
        rows: int64[N], each sample's row in the split's index.
        keys: names of the samples.
        patients: whose eyes they are.
        eyes: ``left``, ``right`` or empty.
        labels: int64[N], the grades that people gave.
        probabilities: float64[N, 5], of each grade.
        source: which checkpoint has predicted which split.
        skipped: images of the split that could not be decoded, and are left out.
        patient_known: whether each patient is known; left out, where the eye is.
    """

    rows: Int64
    keys: list[str]
    patients: list[str]
    eyes: list[str]
    labels: Int64
    probabilities: Float64
    source: PredictionSource = PredictionSource()
    skipped: int = 0
    patient_known: Sequence[bool] = ()

    def __post_init__(self) -> None:
        if len(self.patient_known) != len(self.eyes):
            known = [bool(eye) for eye in self.eyes]
            object.__setattr__(self, "patient_known", known)

    @property
    def grades(self) -> Int64:
        """The likeliest grade of each sample: int64[N]."""
        found: Int64 = self.probabilities.argmax(axis=1)
        return found

    def of_keys(self, keys: Sequence[str]) -> Predictions:
        """The predictions of the samples with these keys, in this order."""
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
            patient_known=[self.patient_known[n] for n in chosen],
        )

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(
        cls,
        split: ShardSplit,
        rows: Int64,
        probabilities: Float64,
    ) -> Predictions:
        """Predictions with the names, patients, eyes and labels of the split's rows."""
        columns = {
            name: [values[row] for row in rows]
            for name in ("key", "patient", "eye", "patient_known")
            for values in [split.column(name)]
        }
        return cls(
            rows=rows,
            keys=columns["key"],
            patients=columns["patient"],
            eyes=columns["eye"],
            labels=split.labels[rows],
            probabilities=probabilities,
            patient_known=columns["patient_known"],
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
                "patient_known": list(self.patient_known),
                "label": self.labels,
                **dict(zip(PROBABILITIES, self.probabilities.T, strict=True)),
            }
        )
        about = {**asdict(self.source), "skipped": self.skipped}
        metadata = {"fastretina": json.dumps(about)}
        buffer = io.BytesIO()
        table = table.replace_schema_metadata(metadata)
        pq.write_table(table, buffer, write_page_checksum=True)
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what ``save`` has written.

        Raises:
            RunError: it is not there, or damaged.
        """
        import pyarrow as pa

        try:
            table = parse_parquet(read_file(path, MOST_PARQUET), _COLUMNS)
            _check_columns(table)
            about = parse_json(table.schema.metadata[b"fastretina"])
            rest = as_record(about, _Skipped, path)
            key, patient, eye = (_texts(table[name]) for name in _TEXTS)
            chances = [table[name].to_numpy() for name in PROBABILITIES]
            return cls(
                rows=table["row"].to_numpy().astype(np.int64),
                keys=key,
                patients=patient,
                eyes=eye,
                labels=table["label"].to_numpy().astype(np.int64),
                probabilities=np.array(chances, np.float64).T,
                source=as_record(about, PredictionSource, path),
                skipped=rest.skipped,
                patient_known=_known(table),
            )
        except FileNotFoundError:
            raise RunError(
                f"{path.parent} has no predictions of {path.stem}: it is not finished, "
                "or was made by an older version; "
                f"'fastretina train --resume {path.parent}' finishes it"
            ) from None
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error})") from error


def _check_columns(table: pa.Table) -> None:
    """Hold a file's columns against what ``save`` writes.

    Raises:
        ValueError: one is missing or of another type, or a value out of its range.
    """
    import pyarrow as pa

    expected = {
        **dict.fromkeys(("row", "label"), (pa.types.is_integer, "whole numbers")),
        **dict.fromkeys(_TEXTS, (pa.types.is_string, "text")),
        **dict.fromkeys(PROBABILITIES, (pa.types.is_floating, "numbers")),
        "patient_known": (pa.types.is_boolean, "truth values"),
    }
    for name, (fits, wanted) in expected.items():
        if name not in table.column_names:
            if name == "patient_known":  # of an older version
                continue
            raise ValueError(f"it lacks the column {name!r}")
        if not fits(table[name].type):
            raise ValueError(f"{name} must be {wanted}, got {table[name].type}")
        if table[name].null_count:
            raise ValueError(f"a row lacks its {name}")
    most = {"row": 2**62, "label": len(GRADES) - 1, **dict.fromkeys(PROBABILITIES, 1)}
    for name, high in most.items():
        values = table[name].to_numpy()
        if not ((values >= 0) & (values <= high)).all():  # nor where it is no number
            raise ValueError(f"a row's {name} is not within 0 to {high}")


def _texts(column: pa.ChunkedArray) -> list[str]:
    """A column's texts; what comes many times is kept once."""
    texts: list[str] = []
    for chunk in column.chunks:
        encoded = chunk.dictionary_encode()
        known = np.array([*encoded.dictionary.to_pylist(), ""], object)
        texts += known[encoded.indices.to_numpy()].tolist()
    return texts


def _known(table: pa.Table) -> list[bool]:
    if "patient_known" not in table.column_names:
        return []
    known: list[bool] = table["patient_known"].to_numpy().tolist()
    return known


def _go_on() -> None:
    """Let the prediction go on."""


def predict_split(
    network: nn.Module,
    split: ShardSplit,
    loader: Loader,
    compute: Compute,
    ranks: Ranks,
    check: Callable[[], None] = _go_on,
) -> Predictions:
    """Run the network over one epoch: every sample once, but for those skipped.

    Args:
        network: in eval mode; takes float32[B, 3, H, W], gives float32[B, 5] logits.
        split: what is predicted.
        loader: delivers the split, unshuffled.
        compute: device and precision.
        ranks: the processes that predict a part each, and get all of the predictions.
        check: called after each batch; may raise to stop.

    Raises:
        RunError: the network gives no finite numbers, or every image was skipped.
    """
    import torch

    assert not network.training, "a network must be evaluated in eval mode"
    skipped_before = len(loader.skipped)
    with progress_bar(f"predicting {split.name}", len(split), shown=ranks.first) as bar:

        def count(images: int) -> None:
            bar.update(images * ranks.world_size)
            check()

        found = _probabilities(network, loader, compute, count)
    rows, labels, probabilities = ranks.gather(*found)
    skipped = int(ranks.sum(torch.tensor(len(loader.skipped) - skipped_before)))
    assert len(rows) + skipped == len(split), "a loader lost or doubled samples"
    if not len(rows):
        raise RunError(f"{split.folder}: all {skipped} images of {split.name} are bad")
    if not np.isfinite(probabilities).all():
        raise RunError(
            "the network's outputs are not finite: its training has gone astray; "
            "lower --lr or --head-lr, or try --amp off"
        )
    order = np.argsort(rows, kind="stable")  # loaders of their own order, and ranks
    predictions = Predictions.of(split, rows[order], probabilities[order])
    assert len(np.unique(rows)) == len(rows), "a sample came twice"
    assert np.array_equal(predictions.labels, labels[order]), "labels are mixed up"
    return replace(predictions, skipped=skipped)


def _probabilities(
    network: nn.Module, loader: Loader, compute: Compute, count: Callable[[int], None]
) -> tuple[Int64, Int64, Float64]:
    """What this rank's batches hold: int64[n] rows and labels, float64[n, 5]."""
    import torch

    from fastretina.nn.augment import Normaliser

    normalise, none = Normaliser(), np.empty(0, np.int64)
    rows, labels, chances = [none], [none], [np.empty((0, len(GRADES)))]
    with torch.inference_mode():
        for batch in loader.epoch(0):
            if len(batch.labels):  # skipping may have left none
                with compute.autocast():
                    logits = network(normalise(batch.images))
                chances.append(logits.float().softmax(dim=1).cpu().double().numpy())
                rows.append(batch.index.cpu().numpy())
                labels.append(batch.labels.cpu().numpy())
            count(len(batch.labels))
    return np.concatenate(rows), np.concatenate(labels), np.concatenate(chances)


@part("evaluation")
def predict_with_checkpoint(
    trained: Trained,
    split: ShardSplit,
    name: str,
    compute: Compute,
    loading: Loading,
    check: Callable[[], None] = _go_on,
) -> Predictions:
    """What the checkpoint that a run reports says of a split, with its record.

    Warns where the pixels are not those that the run was trained on, names what is
    skipped, and computes on as many threads as the run.

    Args:
        trained: the run's network.
        split: what is predicted.
        name: ``test``, ``validation`` or ``train``, for the record.
        compute: device and precision.
        loading: says how batches are made.
        check: called after each batch; may raise to stop.
    """
    from fastretina.data.other_pixels import warn_of_other_pixels

    trained.use_threads()
    with loading.evaluation_loader(split, trained.recipe) as loader:
        if loading.ranks.first:
            warn_of_other_pixels(trained.config.decoding, loader.decoding)
        predictions = predict_split(
            trained.network, split, loader, compute, loading.ranks, check
        )
    source = PredictionSource(
        split=name,
        checkpoint=trained.checkpoint,
        checkpoint_epoch=trained.checkpoint_epoch,
        weights_sha256=trained.weights_sha256,
    )
    return replace(predictions, source=source)
