"""What a loader does with a damaged file, and with the good ones around it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor

from bench.error_line import describe_error
from bench.gpu.bounds import PARITY_MAX, PARITY_MEAN
from bench.gpu.photographs import usual_size
from bench.gpu.pixels import PixelDifferences, pillow
from bench.gpu.scope import Measurement, Scope
from bench.gpu.section_rows import DamagedFileRow
from loaders import Batch, Loader, LoaderConfig, make_loader, missing
from loaders.arrays import Int64
from loaders.base import Reading
from loaders.errors import SampleError
from loaders.shards import ShardSplit

BATCH = 8
PLACE = 11  # of the damaged file: in the middle of the second batch of three
IMAGES = 3 * BATCH


def _png(jpeg: bytes) -> bytes:
    png = io.BytesIO()
    Image.open(io.BytesIO(jpeg), formats=("JPEG",)).convert("RGB").save(png, "PNG")
    return png.getvalue()


def _garbage(jpeg: bytes) -> bytes:
    return np.random.Generator(np.random.PCG64(0)).bytes(len(jpeg))


def _zeroed(jpeg: bytes) -> bytes:
    middle = len(jpeg) // 2
    return jpeg[:middle] + bytes(64) + jpeg[middle + 64 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated at 50 %": lambda jpeg: jpeg[: len(jpeg) // 2],
    "last 2 bytes cut": lambda jpeg: jpeg[:-2],
    "64 bytes zeroed mid-stream": _zeroed,
    "garbage": _garbage,
    "empty": lambda jpeg: b"",
    "PNG named jpg": _png,
}


class DamagedSplit:
    """A split with other bytes in place of one image's.

    Attributes:
        row: the image's row.
        content: the bytes that stand in; ``None`` for the image's own.
    """

    def __init__(self, split: ShardSplit, row: int, content: bytes | None) -> None:
        self.row, self.content = row, content
        self._split = split
        self.rows: Int64 = split.rows
        self.labels: Int64 = split.labels

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Samples in each shard of the split."""
        return self._split.shard_sizes

    @property
    def dimensions(self) -> tuple[tuple[int, int], ...]:
        """The distinct (height, width) of the split's images, pixels."""
        return self._split.dimensions

    def read(self, row: int) -> memoryview | bytes:
        """The JPEG bytes of a row, or what stands in for them."""
        if row == self.row and self.content is not None:
            return self.content
        return self._split.read(row)

    def reading(self, rows: Int64, *, verify: bool = True) -> Reading:
        """How a batch is read."""
        return Reading(lambda place: self.read(int(rows[place])))

    def failure(self, row: int, reason: str) -> SampleError:
        """The error that names the place of a row."""
        return self._split.failure(row, reason)

    def close(self) -> None:
        """Let go of the open files."""
        self._split.close()


def plan_corrupt(scope: Scope) -> list[Measurement]:
    """Each damage under DALI: on the GPU, or on the CPU where there is none."""
    return [
        Measurement(f"{damage}, under dali", 4.0, partial(_try, scope, damage), lacks)
        for damage in DAMAGES
        for lacks in [missing("dali") or ""]
    ]


def _try(scope: Scope, damage: str) -> list[DamagedFileRow]:
    return [try_damage(scope, "dali", damage)]


def try_damage(scope: Scope, loader: str, damage: str) -> DamagedFileRow:
    """Put a damaged file among good ones, and see what comes of all of them."""
    with usual_size(scope.shards, IMAGES) as split:
        wanted = dict(zip(split.rows.tolist(), pillow(split, BATCH), strict=True))
        row = int(split.rows[PLACE])
        content = DAMAGES[damage](bytes(split.read(row)))
        damaged_split = DamagedSplit(split, row, content)
        with _open(scope, loader, damaged_split, "raise") as strict:
            outcome = _outcome(strict, split.key(row), row, wanted)
            damaged_split.content = None
            mended = _compared(strict.epoch(1), wanted)
            again = strict.decoded_again
        damaged_split.content = content
        with _open(scope, loader, damaged_split, "skip") as skipping:
            rest = _compared(skipping.epoch(0), wanted, but=row)
            skipped = [error.key for error in skipping.skipped]
    num_rest = len(wanted) - 1
    return DamagedFileRow(
        file=damage,
        loader=f"{loader} on {scope.device}",
        outcome=outcome,
        skipped=len(skipped),
        rest=f"{rest.images} of {num_rest}",
        rest_mean=rest.worst_mean,
        rest_max=rest.largest,
        rest_good=_good(rest, num_rest) and set(skipped) <= {split.key(row)},
        next_epoch=f"{mended.images} of {len(wanted)}",
        next_epoch_good=_good(mended, len(wanted)),
        batches_by_host=again,
    )


def _open(
    scope: Scope,
    loader: str,
    source: DamagedSplit,
    on_corrupt: Literal["raise", "skip"],
) -> Loader:
    config = LoaderConfig(batch_size=BATCH, device=scope.device, on_corrupt=on_corrupt)
    return make_loader(loader, source, "train", config)


def _outcome(loader: Loader, key: str, row: int, wanted: dict[int, Tensor]) -> str:
    """What an epoch that does not skip makes of it, up to the damaged batch."""
    batches = loader.epoch(0)
    next(batches)
    try:
        batch = next(batches)
        images = dict(zip(batch.index.tolist(), batch.images.cpu(), strict=True))
    except SampleError as error:
        named = "names it" if error.key == key else f"names {error.key} instead"
        return f"SampleError that {named}: {error.reason[:80]}"
    except Exception as error:
        return f"no SampleError, but {describe_error(error)[:120]}"
    differences = PixelDifferences()
    differences.add(key, images[row], wanted[row])
    mean, largest = differences.worst_mean, differences.largest
    return f"decodes silently, {mean:.2f} from the undamaged (max {largest})"


def _compared(
    batches: Iterator[Batch], wanted: dict[int, Tensor], but: int = -1
) -> PixelDifferences:
    """Differences of all images but one to what they should be."""
    differences = PixelDifferences()
    for batch in batches:
        for image, row in zip(batch.images, batch.index.tolist(), strict=True):
            if row != but:
                differences.add(str(row), image, wanted[row])
    return differences


def _good(found: PixelDifferences, images: int) -> bool:
    """Whether these are all the images, and each is what it should be."""
    close = found.worst_mean <= PARITY_MEAN and found.largest <= PARITY_MAX
    return close and found.images == images
