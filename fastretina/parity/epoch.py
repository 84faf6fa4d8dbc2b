"""One epoch of a loader against plain PIL, sample by sample.

shards --> loader --> batch ----+--> difference --> allowed: into the tally
folder --> plain PIL --> pixels-'        |
'--> too large: which mistake explains it
after the last batch: lost and doubled samples, and whose images the rest are
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from fastretina.data.labels import Sample
from fastretina.parity.differences import (
    Bound,
    PixelDifference,
    Tally,
    bound_for,
    difference,
)
from fastretina.parity.faults import (
    Fault,
    UnexplainedImage,
    diagnose,
    find_owners,
    keep_unexplained,
)
from fastretina.parity.reference import Original, PilReference
from fastretina.progress import hidden
from loaders.arrays import UInt8

if TYPE_CHECKING:
    from loaders import Batch, Decoding, Loader


_UNEXPLAINED = 64  # images whose owner is looked for, which takes a pass of its own

# Takes each batch, and for each of its samples what it should be (None: unknown).
Watch = Callable[["Batch", list["Sample | None"], list["Original | None"]], None]


@dataclass(slots=True)
class EpochComparison:
    """What is known of a split after the comparison.

    Attributes:
        split: ``train`` or ``test``.
        samples: number of samples that the labels list, less those set aside.
        set_aside: number of bad images, which sharding has left out and listed.
        decoding: who made the loader's pixels.
        delivered: number of samples that came, counted each time they came.
        kept: differences of the images whose bytes are the source's.
        encoded_again: differences of the images whose bytes can't be the source's.
        faults: name of the mistake to the samples that have it.
    """

    split: str
    samples: int
    set_aside: int
    decoding: Decoding
    delivered: int = 0
    kept: Tally = field(default_factory=Tally)
    encoded_again: Tally = field(default_factory=Tally)
    faults: dict[str, Fault] = field(default_factory=dict)

    def add_fault(self, name: str, key: str, detail: str = "") -> None:
        """Count a sample with a mistake."""
        self.faults.setdefault(name, Fault()).add(key, detail)

    def count(self, name: str) -> int:
        """Number of samples with a mistake, by its name."""
        return self.faults[name].samples if name in self.faults else 0

    @property
    def groups(self) -> list[tuple[str, Tally, Bound]]:
        """The two kinds of images, where there are any, with their bounds."""
        both = (
            ("as they were", self.kept, bound_for(self.decoding)),
            (
                "encoded again",
                self.encoded_again,
                bound_for(self.decoding, encoded_again=True),
            ),
        )
        return [group for group in both if group[1].images]

    def summary(self) -> dict[str, object]:
        """The split's part of the JSON line."""
        groups = {
            name.replace(" ", "_"): {**tally.summary(), "bound": list(bound)}
            for name, tally, bound in self.groups
        }
        faults = {
            name: {"samples": fault.samples, "keys": fault.keys}
            for name, fault in self.faults.items()
        }
        return {
            "samples": self.samples,
            "set_aside": self.set_aside,
            "delivered": self.delivered,
            **groups,
            "faults": faults,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What a loader should deliver of a split.

    Attributes:
        split: ``train`` or ``test``.
        samples: key to sample, of all that should come.
        set_aside: number of bad images, which sharding has left out.
        reference: decodes the folder's images.
    """

    split: str
    samples: Mapping[str, Sample]
    set_aside: int
    reference: PilReference


class _Examined(NamedTuple):
    """One delivered image beside its original.

    Attributes:
        original: the image as it should be.
        difference: how far the delivered one is from it.
        bound: how far it may be.
        mistake: what explains a difference beyond the bound, empty where no usual
            mistake fits; None where the image is within the bound.
    """

    original: Original
    difference: PixelDifference
    bound: Bound
    mistake: str | None


def compare_epoch(
    loader: Loader,
    keys: list[str],
    expected: Expected,
    threads: int,
    watch: Watch | None = None,
) -> EpochComparison:
    """Run an epoch and hold every sample of it against the folder's.

    Args:
        loader: one that neither shuffles nor flips.
        keys: the key of each row of the split's index.
        expected: the samples that should come, and who decodes them.
        threads: number of threads that decode and compare.
        watch: sees every batch beside its originals.

    Raises:
        ParityError: an image of the folder can't be decoded.
        SampleError: one of the shards can't be.
    """
    pass_ = _Pass(expected, loader.decoding)
    names = dict(enumerate(keys))
    # The pool's threads start with its first task: a loader may fork before that.
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(
            total=len(expected.samples),
            unit=" images",
            desc=expected.split,
            disable=hidden(),
        ) as bar,
    ):
        for batch in loader.epoch(0):
            rows = batch.index.tolist()
            delivered_keys = [names.get(row, f"row {row}") for row in rows]
            samples = [expected.samples.get(key) for key in delivered_keys]
            images = batch.images.cpu().numpy()
            examined = list(pool.map(pass_.examine, images, samples))
            for one in zip(
                delivered_keys, batch.labels.tolist(), images, examined, strict=True
            ):
                pass_.add(*one)
            if watch is not None:
                originals = [one.original if one else None for one in examined]
                watch(batch, samples, originals)
            bar.update(len(rows))
        pass_.finish(pool)
    return pass_.comparison


class _Pass:
    """An epoch that is being compared."""

    def __init__(self, expected: Expected, decoding: Decoding) -> None:
        self.comparison = EpochComparison(
            expected.split, len(expected.samples), expected.set_aside, decoding
        )
        self._samples = expected.samples
        self._reference = expected.reference
        self._times: Counter[str] = Counter()
        self._unexplained: list[tuple[UnexplainedImage, PixelDifference]] = []
        self._bounds = [bound_for(decoding, encoded_again=n) for n in (False, True)]

    def examine(self, delivered: UInt8, sample: Sample | None) -> _Examined | None:
        """Compare one image, and find out what is wrong with it; called by threads."""
        if sample is None:
            return None
        original = self._reference(sample.path)
        gap = difference(delivered, original.pixels)
        bound = self._bounds[original.encoded_again]
        if bound.allows(gap):
            return _Examined(original, gap, bound, None)
        mistake = diagnose(delivered, original, sample, self._reference, bound)
        return _Examined(original, gap, bound, mistake or "")

    def add(
        self, key: str, label: int, delivered: UInt8, examined: _Examined | None
    ) -> None:
        """Add one examined sample to the comparison."""
        comparison = self.comparison
        comparison.delivered += 1
        self._times[key] += 1
        if examined is None:
            comparison.add_fault("unknown sample", key)
            return
        wanted = self._samples[key].grade
        if label != wanted:
            comparison.add_fault("wrong label", key, f"{label}, not {wanted}")
        again = examined.original.encoded_again
        tally = comparison.encoded_again if again else comparison.kept
        tally.add(key, examined.difference)
        if examined.mistake:
            comparison.add_fault(examined.mistake, key)
        elif examined.mistake is not None and len(self._unexplained) < _UNEXPLAINED:
            image = keep_unexplained(key, delivered, examined.bound)
            self._unexplained.append((image, examined.difference))
        elif examined.mistake is not None:
            comparison.add_fault("differs", key, str(examined.difference))

    def finish(self, pool: ThreadPoolExecutor) -> None:
        """Add what only shows after the last batch."""
        comparison = self.comparison
        for key in self._samples:
            if not self._times[key]:
                comparison.add_fault("lost sample", key)
        for key, times in self._times.items():
            if times > 1 and key in self._samples:
                comparison.add_fault("doubled sample", key, f"{times} times")
        images = [image for image, _ in self._unexplained]
        owners = find_owners(images, self._samples.values(), self._reference, pool)
        for image, gap in self._unexplained:
            if image.key in owners:
                owner = f"{owners[image.key]}'s"
                comparison.add_fault("another sample's image", image.key, owner)
            else:
                comparison.add_fault("differs", image.key, str(gap))
