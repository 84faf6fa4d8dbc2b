"""Whether a network says the same of a loader's images as of plain PIL's.

Four verdicts. *identical*: the logits are the same bit for bit. *equivalent*: 95 %
intervals of the differences in accuracy and in QWK, from a paired bootstrap over the
samples, lie within 0.01 of zero. *different*: an interval excludes zero, or more
predictions than 1 % have changed for sure. *undecided*: too few samples to tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest

from fastretina.metrics.confusion_matrices import kappas
from fastretina.metrics.scores import score
from fastretina.nn.augment import normalise
from fastretina.parity.reference import ParityError
from loaders.arrays import Float32, Float64, Int64
from loaders.errors import RunError
from loaders.grades import GRADES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastretina.data.labels import Sample
    from fastretina.nn.device import Compute
    from fastretina.parity.reference import Original
    from loaders import Batch


MARGIN = 0.01
_ROUNDS, _SEED = 2000, 0
_NAMED = 5  # samples with another prediction that are listed

Verdict = Literal["identical", "equivalent", "different", "undecided"]


class SideScores(NamedTuple):
    """What a network scores on one side's images.

    Attributes:
        accuracy: share of right grades, 0 to 1.
        balanced_accuracy: mean recall over the grades, 0 to 1.
        qwk: quadratic weighted kappa, -1 to 1; None where it is undefined.
    """

    accuracy: float
    balanced_accuracy: float
    qwk: float | None


class SidePredictions(NamedTuple):
    """What a network says of one side's images.

    Attributes:
        labels: int64[N], the grades that this side has for them.
        logits: float32[N, 5].
    """

    labels: Int64
    logits: Float32

    @property
    def predicted(self) -> Int64:
        """int64[N], the predicted grades."""
        grades: Int64 = self.logits.argmax(axis=1)
        return grades

    def score(self) -> SideScores:
        """Score the predictions by this side's own labels."""
        chances = torch.from_numpy(self.logits).softmax(1).double().numpy()
        scores = score(self.labels, chances)
        return SideScores(
            accuracy=scores.accuracy,
            balanced_accuracy=scores.balanced_accuracy,
            qwk=scores.qwk,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkResult:
    """A network's predictions from a loader's images and from plain PIL's.

    Attributes:
        samples: number of samples that both sides were graded on.
        loader: scores on the loader's images.
        plain_pil: scores on plain PIL's images.
        largest_logit_difference: largest absolute difference of two logits.
        mean_logit_difference: mean absolute difference over all logits.
        predictions_changed: number of samples whose predicted grade differs.
        changed_keys: the first five of these samples.
        intervals: ``accuracy`` and ``qwk`` to the 95 % interval of the loader's score
            less plain PIL's; None where it is undefined.
        verdict: ``identical``, ``equivalent``, ``different`` or ``undecided``.
    """

    samples: int
    loader: SideScores
    plain_pil: SideScores
    largest_logit_difference: float
    mean_logit_difference: float
    predictions_changed: int
    changed_keys: list[str]
    intervals: Mapping[str, list[float] | None]
    verdict: Verdict

    def summary(self) -> dict[str, object]:
        """The network's part of the JSON line."""
        return {
            **asdict(self),
            "loader": self.loader._asdict(),
            "plain_pil": self.plain_pil._asdict(),
        }


class _GradedBatch(NamedTuple):
    """One batch, graded twice: n samples that the labels know."""

    loader: SidePredictions
    plain_pil: SidePredictions


@dataclass(slots=True)
class NetworkComparison:
    """Runs a network on each batch twice: as delivered, and as plain PIL has it.

    Both times in batches of the same shape, as other shapes round otherwise. A sample
    that comes twice counts twice, and one that doesn't come not at all.

    Attributes:
        network: the network, in eval mode.
        compute: device and precision.
        keys: keys of the samples seen so far.
    """

    network: nn.Module
    compute: Compute
    keys: list[str] = field(default_factory=list)
    _batches: list[_GradedBatch] = field(default_factory=list)

    def watch(
        self,
        batch: Batch,
        samples: Sequence[Sample | None],
        originals: Sequence[Original | None],
    ) -> None:
        """Grade a batch; samples that the labels don't know are left out.

        Raises:
            RunError: the network gives no finite numbers.
        """
        # An image stands in for one that has no original, to keep the batch's shape.
        plain = batch.images.cpu().numpy().copy()
        for n, original in enumerate(originals):
            if original is not None and original.pixels.shape == plain[n].shape:
                plain[n] = original.pixels
        rows = [n for n, sample in enumerate(samples) if sample is not None]
        known = [sample for sample in samples if sample is not None]
        grades = np.array([sample.grade for sample in known], np.int64)
        labels = batch.labels.cpu().numpy()[rows]
        loader = SidePredictions(labels, self._logits(batch.images)[rows])
        plain_logits = self._logits(torch.from_numpy(plain))[rows]
        self.keys += [sample.key for sample in known]
        self._batches.append(
            _GradedBatch(loader, SidePredictions(grades, plain_logits))
        )

    def _logits(self, images: Tensor) -> Float32:
        """float32[B, 5] of uint8[B, H, W, 3]."""
        with torch.inference_mode(), self.compute.autocast():
            outputs = self.network(normalise(images.to(self.compute.device)))
        logits: Float32 = outputs.float().cpu().numpy()
        if not np.isfinite(logits).all():
            raise RunError(
                "the network's outputs are not finite: its training has gone astray"
            )
        return logits

    def result(self) -> NetworkResult:
        """Both sides' scores, how far they are apart, and the verdict.

        Raises:
            ParityError: not one sample was seen.
        """
        if not self.keys:
            raise ParityError("the network must be given test samples, got none")
        loader = _joined([batch.loader for batch in self._batches])
        plain = _joined([batch.plain_pil for batch in self._batches])
        gap = np.abs(loader.logits.astype(np.float64) - plain.logits)
        changed = np.flatnonzero(loader.predicted != plain.predicted).tolist()
        intervals = difference_intervals(loader, plain)
        samples = len(loader.labels)
        return NetworkResult(
            samples=samples,
            loader=loader.score(),
            plain_pil=plain.score(),
            largest_logit_difference=float(gap.max(initial=0)),
            mean_logit_difference=float(gap.mean()),
            predictions_changed=len(changed),
            changed_keys=[self.keys[n] for n in changed[:_NAMED]],
            intervals=intervals,
            verdict="identical"
            if _same(loader, plain)
            else verdict(intervals, len(changed), samples),
        )


def _joined(batches: Sequence[SidePredictions]) -> SidePredictions:
    labels, logits = zip(*batches, strict=True)
    return SidePredictions(np.concatenate(labels), np.concatenate(logits))


def _same(one: SidePredictions, other: SidePredictions) -> bool:
    """Whether labels and logits are the same, bit for bit."""
    labels = np.array_equal(one.labels, other.labels)
    return labels and np.array_equal(one.logits, other.logits)


def verdict(
    intervals: Mapping[str, Sequence[float] | None], changed: int, samples: int
) -> Verdict:
    """What the differences show, of the scores that are defined.

    ``equivalent`` where all intervals lie within the margin; ``different`` where one
    excludes zero, or more predictions than the margin have changed for sure (Clopper
    and Pearson); else ``undecided``: there are too few samples to tell.
    """
    ends = [interval for interval in intervals.values() if interval is not None]
    if binomtest(changed, samples).proportion_ci().low > MARGIN:
        return "different"
    if all(low >= -MARGIN and high <= MARGIN for low, high in ends):
        return "equivalent"
    return "undecided" if all(low <= 0 <= high for low, high in ends) else "different"


def difference_intervals(
    one: SidePredictions, other: SidePredictions
) -> dict[str, list[float] | None]:
    """95 % intervals of ``one``'s accuracy and QWK less the ``other``'s.

    Each round draws samples with replacement, the same ones for both sides. Rounds in
    which a score is undefined are left out; None where it is so in all of them.
    """
    rng = np.random.Generator(np.random.PCG64(_SEED))
    total = len(one.labels)
    size = len(GRADES)
    cells = [side.labels * size + side.predicted for side in (one, other)]
    counts = np.empty((2, _ROUNDS, size**2), np.int64)
    for n in range(_ROUNDS):
        drawn = rng.integers(0, total, total)
        for side in (0, 1):
            counts[side, n] = np.bincount(cells[side][drawn], minlength=size**2)
    matrices = counts.reshape(2, _ROUNDS, size, size)
    accuracy = matrices.trace(axis1=2, axis2=3) / total
    scores = {"accuracy": accuracy, "qwk": kappas(matrices)}
    return {name: _interval(both[0] - both[1]) for name, both in scores.items()}


def _interval(gaps: Float64) -> list[float] | None:
    """The middle 95 % of the finite ones; None where there are none."""
    finite = gaps[np.isfinite(gaps)]
    if not len(finite):
        return None
    low, high = np.percentile(finite, (2.5, 97.5)).tolist()
    return [low, high]
