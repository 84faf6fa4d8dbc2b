"""One epoch of a loader against plain PIL, sample by sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from fastretina.data.labels import Sample
from fastretina.parity.differences import (
    Bound,
    Difference,
    Tally,
    bound_for,
    difference,
)
from fastretina.parity.faults import Stranger, diagnose, find_owners, stranger
from fastretina.parity.reference import Original, Reference
from loaders.arrays import UInt8

if TYPE_CHECKING:
    from loaders import Batch, Decoding, Loader


_NAMED = 5  # keys of each fault that are told
_STRANGERS = 64  # images whose owner is looked for, which takes a pass of its own

# Takes each batch, and for each of its samples what it should be (None: unknown).
Watch = Callable[["Batch", list["Sample | None"], list["Original | None"]], None]


@dataclass(slots=True)
class Fault:
    """A kind of mistake: how many samples have it, and the first of their keys."""

    samples: int = 0
    keys: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def add(self, key: str, detail: str = "") -> None:
        """Count a sample in."""
        self.samples += 1
        if len(self.keys) < _NAMED:
            self.keys.append(key)
            self.told.append(f"{key} ({detail})" if detail else key)

    def __str__(self) -> str:
        noun = "sample" if self.samples == 1 else "samples"
        more = ", ..." if self.samples > len(self.told) else ""
        return f"{self.samples:,} {noun}: {', '.join(self.told)}{more}"


@dataclass(slots=True)
class EpochComparison:
    """What is known of a split after the comparison.

    Attributes:
        split: its name.
        samples: that the labels list, less those set aside.
        set_aside: bad images, which sharding has left out and listed.
        decoding: who made the loader's pixels.
        delivered: samples that came, each time they came.
        kept: images whose bytes are the source's.
        encoded_again: images whose bytes can't be.
        faults: name of the mistake to who has it.
    """

    split: str
    samples: int
    set_aside: int
    decoding: Decoding
    delivered: int = 0
    kept: Tally = field(default_factory=Tally)
    encoded_again: Tally = field(default_factory=Tally)
    faults: dict[str, Fault] = field(default_factory=dict)

    def fault(self, name: str, key: str, detail: str = "") -> None:
        """Note a mistake."""
        self.faults.setdefault(name, Fault()).add(key, detail)

    def count(self, name: str) -> int:
        """Samples with a mistake."""
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

    def summary(self) -> dict[str, Any]:
        """The findings as the JSON line holds them."""
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


class _Seen(NamedTuple):
    """One delivered image, examined; ``mistake`` is empty where no usual one fits."""

    original: Original
    difference: Difference
    bound: Bound
    mistake: str | None


def compare(
    findings: EpochComparison,
    loader: Loader,
    keys: list[str],
    expected: Mapping[str, Sample],
    witness: Reference,
    threads: int,
    watch: Watch | None = None,
) -> None:
    """Run an epoch and hold every sample of it against the folder's.

    Args:
        findings: of the split; what is found is added.
        loader: one that neither shuffles nor flips.
        keys: of the split's rows.
        expected: key to sample: what should come.
        witness: decodes the folder's images.
        threads: that do it.
        watch: sees every batch beside its originals.

    Raises:
        ParityError: an image of the folder can't be decoded.
        SampleError: one of the shards can't be.
    """
    pass_ = _Pass(findings, expected, witness)
    names = dict(enumerate(keys))
    # The pool's threads start with its first task: a loader may fork before that.
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(
            total=len(expected), unit=" images", desc=findings.split, disable=None
        ) as bar,
    ):
        for batch in loader.epoch(0):
            rows = batch.index.tolist()
            came = [names.get(row, f"row {row}") for row in rows]
            samples = [expected.get(key) for key in came]
            images = batch.images.cpu().numpy()
            seen = list(pool.map(pass_.examine, images, samples))
            for one in zip(came, batch.labels.tolist(), images, seen, strict=True):
                pass_.note(*one)
            if watch is not None:
                originals = [one.original if one else None for one in seen]
                watch(batch, samples, originals)
            bar.update(len(rows))
        pass_.end(pool)


class _Pass:
    """An epoch that is being compared."""

    def __init__(
        self,
        findings: EpochComparison,
        expected: Mapping[str, Sample],
        witness: Reference,
    ) -> None:
        self._findings = findings
        self._expected = expected
        self._witness = witness
        self._times: Counter[str] = Counter()
        self._strangers: list[tuple[Stranger, Difference]] = []
        decoding = findings.decoding
        self._bounds = [bound_for(decoding, encoded_again=n) for n in (False, True)]

    def examine(self, delivered: UInt8, sample: Sample | None) -> _Seen | None:
        """Compare one image, and find out what is wrong with it; called by threads."""
        if sample is None:
            return None
        original = self._witness(sample.path)
        found = difference(delivered, original.pixels)
        bound = self._bounds[original.encoded_again]
        if bound.allows(found):
            return _Seen(original, found, bound, None)
        mistake = diagnose(delivered, original, sample, self._witness, bound)
        return _Seen(original, found, bound, mistake or "")

    def note(self, key: str, label: int, delivered: UInt8, seen: _Seen | None) -> None:
        """Add one examined sample to the findings."""
        findings = self._findings
        findings.delivered += 1
        self._times[key] += 1
        if seen is None:
            findings.fault("unknown sample", key)
            return
        if label != self._expected[key].grade:
            wanted = self._expected[key].grade
            findings.fault("wrong label", key, f"{label}, not {wanted}")
        again = seen.original.encoded_again
        tally = findings.encoded_again if again else findings.kept
        tally.add(key, seen.difference)
        if seen.mistake:
            findings.fault(seen.mistake, key)
        elif seen.mistake is not None and len(self._strangers) < _STRANGERS:
            one = stranger(key, delivered, seen.bound)
            self._strangers.append((one, seen.difference))
        elif seen.mistake is not None:
            findings.fault("differs", key, str(seen.difference))

    def end(self, pool: ThreadPoolExecutor) -> None:
        """Add what only shows after the last batch."""
        findings = self._findings
        for key in self._expected:
            if not self._times[key]:
                findings.fault("lost sample", key)
        for key, times in self._times.items():
            if times > 1 and key in self._expected:
                findings.fault("doubled sample", key, f"{times} times")
        samples = self._expected.values()
        strangers = [one for one, _ in self._strangers]
        owners = find_owners(strangers, samples, self._witness, pool)
        for one, found in self._strangers:
            if one.key in owners:
                whose = f"{owners[one.key]}'s"
                findings.fault("another sample's image", one.key, whose)
            else:
                findings.fault("differs", one.key, str(found))
