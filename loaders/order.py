"""Which sample comes when, and how it is flipped: pure functions of the seed.

    order = EpochOrder(sizes=(512, 512, 354), seed=0, epoch=3)
    rows = order.rows(64, 96)        # the third global batch of 32

Nothing here holds state, so any loader can start anywhere in any epoch and yield the
very sequence that any other would. Random bits come from NumPy's Philox *bit* stream
and from SplitMix64, both fixed for good; ``Generator.permutation`` is not used, because
NumPy reserves the right to change what it draws (NEP 19).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import numpy as np
import numpy.typing as npt

from loaders.arrays import Bool, Float64, Int64

UInt64 = npt.NDArray[np.uint64]

# Streams keep the draws of one purpose apart from those of another.
SHARDS, WINDOW, SAMPLE, HFLIP, VFLIP, AUGMENT = range(6)


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """The sample sequence of one epoch, computed window by window.

    The shards are permuted, then the samples inside each window of ``window``
    consecutive shards. A window of all shards is a full shuffle; a small one reads
    large sets nearly in sequence, and memory grows with the window alone.

    Attributes:
        sizes: samples in each shard, in file order; row numbers count through them.
        seed: the number that fixes every draw of a run.
        epoch: the epoch's number, counted from 0.
        shuffle: ``False`` gives rows 0, 1, 2, ... in every epoch.
        window: shards per window; ``None`` for all.
    """

    sizes: tuple[int, ...]
    seed: int
    epoch: int
    shuffle: bool = True
    window: int | None = None

    def __len__(self) -> int:
        return int(self._shard_starts[-1])

    def rows(self, first: int, last: int) -> Int64:
        """Rows at places ``first`` to ``last`` (excluded) of the epoch, int64[n]."""
        last = min(last, len(self))
        if first >= last:
            return np.empty(0, np.int64)
        if not self.shuffle:
            return np.arange(first, last, dtype=np.int64)
        ends = self._window_ends
        low, high = np.searchsorted(ends, [first, last - 1], side="right").tolist()
        parts = [self._window_rows(n) for n in range(low, high + 1)]
        rows = parts[0] if low == high else np.concatenate(parts)
        start = int(ends[low - 1]) if low else 0
        return rows[first - start : last - start]

    @cached_property
    def _shards(self) -> Int64:
        return permutation(len(self.sizes), self.seed, self.epoch, SHARDS)

    @cached_property
    def _window_ends(self) -> Int64:
        """Places of the epoch at which each window ends."""
        step = self.window or len(self.sizes)
        sizes = np.asarray(self.sizes, np.int64)[self._shards]
        return np.cumsum(np.add.reduceat(sizes, range(0, len(sizes), step)))

    @cached_property
    def _shard_starts(self) -> Int64:
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    @cached_property
    def _window_rows(self) -> Callable[[int], Int64]:
        # A window is drawn once, not per batch; two, as a batch may straddle two.
        return lru_cache(maxsize=2)(partial(_window_rows, self))


def _window_rows(order: EpochOrder, number: int) -> Int64:
    step = order.window or len(order.sizes)
    starts = order._shard_starts
    chosen = order._shards[number * step : (number + 1) * step]
    rows = np.concatenate(
        [np.arange(starts[s], starts[s + 1], dtype=np.int64) for s in chosen]
    )
    return rows[permutation(len(rows), order.seed, order.epoch, WINDOW, number)]


@dataclass(frozen=True, kw_only=True)
class WeightedOrder:
    """An epoch of N draws with replacement, each row as likely as its weight.

    Attributes:
        cumulative: float64[N], running sum of the rows' weights.
        seed: the number that fixes every draw of a run.
        epoch: the epoch's number, counted from 0.
    """

    cumulative: Float64
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.cumulative)

    def rows(self, first: int, last: int) -> Int64:
        """Rows at places ``first`` to ``last`` (excluded) of the epoch, int64[n]."""
        places = np.arange(first, max(first, min(last, len(self))), dtype=np.int64)
        draws = uniform(self.seed, self.epoch, places, SAMPLE) * self.cumulative[-1]
        drawn = np.searchsorted(self.cumulative, draws, side="right")
        rows: Int64 = np.minimum(drawn, len(self) - 1).astype(np.int64)
        return rows


def grade_weights(labels: Int64, share: float) -> Float64:
    """Weights between drawing every sample and drawing every grade equally often.

    Args:
        labels: int64[N] grades.
        share: 1 balances the grades, 0 leaves the set as it is.

    Returns:
        float64[N], summing to 1.
    """
    counts = np.bincount(labels)
    balanced = 1.0 / (np.count_nonzero(counts) * counts[labels])
    weights: Float64 = share * balanced + (1 - share) / len(labels)
    return weights


def rank_slice(size: int, rank: int, world_size: int) -> tuple[int, int]:
    """First and last place (excluded) of a global batch that one rank works on.

    A full batch divides evenly; a short last one as evenly as can be, so that a rank
    may get one sample more than another, or none at all.
    """
    return size * rank // world_size, size * (rank + 1) // world_size


def flips(seed: int, epoch: int, rows: Int64, chances: tuple[float, float]) -> Bool:
    """Whether each sample is mirrored: bool[n, 2], left-right and upside-down.

    Args:
        seed: the number that fixes every draw of a run.
        epoch: the epoch's number, counted from 0.
        rows: int64[n] rows of the samples: where in the epoch they stand plays no part.
        chances: probability of either flip.
    """
    draws = [uniform(seed, epoch, rows, stream) for stream in (HFLIP, VFLIP)]
    flipped: Bool = np.stack(draws, axis=1) < np.asarray(chances)
    return flipped


def uniform(seed: int, epoch: int, rows: Int64, *stream: int) -> Float64:
    """A draw from [0, 1) for each row: float64[n], a pure function of its arguments."""
    state = _absorb(seed, epoch, *stream)
    bits = _mix(state + rows.astype(np.uint64) * np.uint64(GOLDEN))
    draws: Float64 = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return draws


def stream_key(seed: int, epoch: int, *stream: int) -> int:
    """What ``uniform`` adds to ``row * GOLDEN`` before mixing, as a signed 64-bit word.

    For those who must draw the same elsewhere, as on a GPU.
    """
    return int(_absorb(seed, epoch, *stream).view(np.int64)[0])


def permutation(size: int, *words: int) -> Int64:
    """A permutation of ``range(size)``, int64[size], keyed by some integers."""
    # Not SeedSequence: (5 + 2**32, 0) and (5, 1) are the same entropy to it.
    bits = np.random.Philox(key=int(_absorb(*words)[0]))
    order: Int64 = np.argsort(bits.random_raw(size), kind="stable")
    return order


def _absorb(*words: int) -> UInt64:
    """One state, uint64[1], from integers of any sign, 64 bits of each."""
    state = np.zeros(1, np.uint64)
    for word in words:
        state = _mix(state + np.uint64(word & _MASK))
    return state


_MASK = 2**64 - 1

# SplitMix64 (Steele, Lea and Flood 2014): what is added, then shifts and factors.
GOLDEN = 0x9E3779B97F4A7C15
MIXING = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
LAST_SHIFT = 31


def _mix(state: UInt64) -> UInt64:
    """One word of SplitMix64 from each state; wraps round by design."""
    z = state + np.uint64(GOLDEN)
    for shift, factor in MIXING:
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    mixed: UInt64 = z ^ (z >> np.uint64(LAST_SHIFT))
    return mixed
