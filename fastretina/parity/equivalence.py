"""Whether a network says the same of a loader's images as of plain PIL's.

Three verdicts. *identical*: the logits are the same bit for bit. *equivalent*: 95 %
intervals of the differences in accuracy and in QWK, from a paired bootstrap over the
samples, lie within 0.01 of zero. *different*: that can't be shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binomtest

from fastretina.metrics.scores import score
from fastretina.nn.augment import normalise
from fastretina.parity.reference import ParityError
from loaders.arrays import Float64, Int64
from loaders.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastretina.data.labels import Sample
    from fastretina.nn.device import Compute
    from fastretina.parity.reference import Original
    from loaders import Batch


MARGIN = 0.01
_ROUNDS, _SEED = 2000, 0
_GRADES = 5
_NAMED = 5  # samples with another prediction that are told


class Side(NamedTuple):
    """One side of the comparison.

    Attributes:
        labels: int64[N].
        logits: float32[N, 5].
    """

    labels: Int64
    logits: npt.NDArray[np.float32]

    @property
    def predicted(self) -> Int64:
        """int64[N], the grades."""
        grades: Int64 = self.logits.argmax(axis=1)
        return grades

    def score(self) -> dict[str, object]:
        """All metrics by their name; see ``fastretina.metrics.scores.Scores``."""
        return score(
            self.labels, torch.from_numpy(self.logits).softmax(1).double().numpy()
        ).summary()


@dataclass(slots=True)
class TwoSides:
    """Runs a network on each batch twice: as delivered, and as plain PIL has it.

    Both times in batches of the same shape, as other shapes round otherwise. A sample
    that comes twice counts twice, and one that doesn't come not at all.

    Attributes:
        network: in eval mode.
        compute: device and precision.
        keys: of the samples seen.
    """

    network: nn.Module
    compute: Compute
    keys: list[str] = field(default_factory=list)
    _parts: list[tuple[Int64, Any, Int64, Any]] = field(default_factory=list)

    def watch(
        self,
        batch: Batch,
        samples: Sequence[Sample | None],
        originals: Sequence[Original | None],
    ) -> None:
        """Take a batch; what the labels don't know is left out of the scores.

        Raises:
            RunError: the network gives no finite numbers.
        """
        known = [n for n, sample in enumerate(samples) if sample is not None]
        # An image stands in for one that has no original, to keep the batch's shape.
        plain = batch.images.cpu().numpy().copy()
        for n, original in enumerate(originals):
            if original is not None and original.pixels.shape == plain[n].shape:
                plain[n] = original.pixels
        told = [sample for sample in samples if sample is not None]
        self.keys += [sample.key for sample in told]
        self._parts.append(
            (
                batch.labels.cpu().numpy()[known],
                self._logits(batch.images)[known],
                np.array([sample.grade for sample in told], np.int64),
                self._logits(torch.from_numpy(plain))[known],
            )
        )

    def _logits(self, images: Tensor) -> npt.NDArray[np.float32]:
        with torch.inference_mode(), self.compute.autocast():
            logits = self.network(normalise(images.to(self.compute.device)))
        found: npt.NDArray[np.float32] = logits.float().cpu().numpy()
        if not np.isfinite(found).all():
            raise RunError(
                "the network's outputs are not finite: its training has gone astray"
            )
        return found

    def judge(self) -> dict[str, Any]:
        """Both sides' scores, how far they are apart, and the verdict.

        Raises:
            ParityError: not one sample was seen.
        """
        if not self.keys:
            raise ParityError("the network must be given test samples, got none")
        labels, logits, grades, wanted = (
            np.concatenate(part) for part in zip(*self._parts, strict=True)
        )
        loader, plain = Side(labels, logits), Side(grades, wanted)
        scores = {"loader": loader.score(), "plain_pil": plain.score()}
        gap = np.abs(logits.astype(np.float64) - wanted)
        changed = np.flatnonzero(loader.predicted != plain.predicted).tolist()
        intervals = difference_intervals(loader, plain)
        same = np.array_equal(logits, wanted) and np.array_equal(labels, grades)
        return {
            "samples": len(labels),
            **{
                side: {name: of[name] for name in ("accuracy", *_SCORES)}
                for side, of in scores.items()
            },
            "largest_logit_difference": float(gap.max(initial=0)),
            "mean_logit_difference": float(gap.mean()),
            "predictions_changed": len(changed),
            "changed_keys": [self.keys[n] for n in changed[:_NAMED]],
            "intervals": intervals,
            "verdict": (
                "identical" if same else verdict(intervals, len(changed), len(labels))
            ),
        }


_SCORES = ("balanced_accuracy", "qwk")


def verdict(
    intervals: Mapping[str, Sequence[float]], changed: int, samples: int
) -> str:
    """What the differences show.

    ``equivalent`` where all intervals lie within the margin; ``different`` where one
    excludes zero, or more predictions than the margin have changed for sure (Clopper
    and Pearson); else ``undecided``: there are too few samples to tell.
    """
    ends = list(intervals.values())
    if binomtest(changed, samples).proportion_ci().low > MARGIN:
        return "different"
    if all(low >= -MARGIN and high <= MARGIN for low, high in ends):
        return "equivalent"
    return "undecided" if all(low <= 0 <= high for low, high in ends) else "different"


def difference_intervals(one: Side, other: Side) -> dict[str, list[float]]:
    """95 % intervals of ``one``'s accuracy and QWK less the ``other``'s.

    Each round draws samples with replacement, the same ones for both sides.
    """
    rng = np.random.Generator(np.random.PCG64(_SEED))
    total = len(one.labels)
    cells = [side.labels * _GRADES + side.predicted for side in (one, other)]
    counts = np.empty((2, _ROUNDS, _GRADES**2), np.int64)
    for n in range(_ROUNDS):
        drawn = rng.integers(0, total, total)
        for side in (0, 1):
            counts[side, n] = np.bincount(cells[side][drawn], minlength=_GRADES**2)
    matrices = counts.reshape(2, _ROUNDS, _GRADES, _GRADES)
    accuracy = matrices.trace(axis1=2, axis2=3) / total
    qwk = kappas(matrices)
    found = {"accuracy": accuracy, "qwk": qwk}
    return {
        name: np.percentile(both[0] - both[1], (2.5, 97.5)).tolist()
        for name, both in found.items()
    }


def kappas(matrices: Int64) -> Float64:
    """Quadratic weighted kappas, float64[...], of confusion matrices int64[..., 5, 5].

    Where it is undefined, as one grade is all there is, it counts as 1: two sides that
    both say so differ by nothing.
    """
    grades = np.arange(_GRADES)
    weights = (grades[:, None] - grades) ** 2
    true, predicted = matrices.sum(-1), matrices.sum(-2)
    by_chance = (weights * true[..., :, None] * predicted[..., None, :]).sum((-1, -2))
    found = (weights * matrices).sum((-1, -2)) * true.sum(-1)
    # Nothing to disagree on: one grade is all there is, and all of it is right.
    safe = np.where(by_chance, by_chance, 1)
    kappa: Float64 = np.where(by_chance, 1 - found / safe, 1.0)
    return kappa
