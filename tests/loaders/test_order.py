"""The order of samples and their draws: pinned, complete, and free of patterns."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders import LoaderConfig, open_split
from loaders.order import (
    AUGMENT,
    HFLIP,
    SAMPLE,
    VFLIP,
    EpochOrder,
    WeightedOrder,
    flips,
    grade_weights,
    permutation,
    rank_slice,
    uniform,
)
from loaders.schedule import PieceSchedule, Schedule

seeds = st.integers(-(2**63), 2**64)
epochs = st.integers(0, 2**31)
shard_sizes = st.lists(st.integers(0, 9), max_size=12).map(tuple)
windows = st.none() | st.integers(1, 15)


def epoch_rows(sizes, seed=0, epoch=0, **options):
    order = EpochOrder(sizes=sizes, seed=seed, epoch=epoch, **options)
    return order.rows(0, len(order)).tolist()


def weighted(labels, share, seed=0, epoch=0):
    cumulative = np.cumsum(grade_weights(np.asarray(labels), share))
    return WeightedOrder(cumulative=cumulative, seed=seed, epoch=epoch)


def test_order_of_seed_zero_is_what_it_always_was():
    """Users stop a run under one version and resume it under the next.

    A changed order would then show some samples twice and others not at all, and no
    published run could be repeated. NumPy's Philox and SplitMix64 are fixed bit
    streams, so these lists hold on every machine and must never be edited.
    """
    assert epoch_rows((4, 3, 5)) == [9, 1, 5, 11, 6, 7, 4, 0, 8, 10, 3, 2]
    assert epoch_rows((4, 3, 5), epoch=1) == [9, 2, 3, 6, 7, 10, 4, 8, 11, 0, 5, 1]
    windowed = [7, 11, 9, 12, 10, 13, 8, 6, 1, 2, 5, 4, 0, 3]
    assert epoch_rows((4, 3, 5, 2), window=2) == windowed
    drawn = weighted([0, 0, 0, 0, 1, 2, 2, 4], share=1).rows(0, 8)
    assert drawn.tolist() == [1, 7, 5, 6, 4, 6, 5, 7]


def test_draws_of_seed_zero_are_what_they_always_were():
    """For the same reason as the order: the flips belong to a run's data."""
    mirrored = flips(0, 0, np.arange(12), (0.4, 0.5))
    left_right, upside_down = mirrored.T.astype(int).tolist()
    assert left_right == [1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    assert upside_down == [1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 0, 1]
    draws = [0.09222916120885705, 0.947752882305974, 0.6203079569331533]
    assert uniform(0, 0, np.arange(3), SAMPLE).tolist() == draws
    draws = [0.5121838679036965, 0.6443596220495497, 0.5397355666154771]
    assert uniform(0, 1, np.arange(3), AUGMENT, 7, 3).tolist() == draws
    assert permutation(10, 0).tolist() == [3, 2, 9, 0, 6, 7, 5, 8, 4, 1]


@given(shard_sizes, seeds, epochs, windows, st.booleans())
def test_epoch_holds_every_row_once(sizes, seed, epoch, window, shuffle):
    rows = epoch_rows(sizes, seed, epoch, window=window, shuffle=shuffle)
    assert sorted(rows) == list(range(sum(sizes)))


@given(shard_sizes, seeds, windows, st.booleans(), st.data())
def test_any_part_of_an_epoch_equals_that_part_of_the_whole(
    sizes, seed, window, shuffle, data
):
    options = {"window": window, "shuffle": shuffle}
    whole = epoch_rows(sizes, seed, 3, **options)
    order = EpochOrder(sizes=sizes, seed=seed, epoch=3, **options)
    places = st.integers(0, len(whole) + 5)
    for first, last in data.draw(st.lists(st.tuples(places, places), max_size=8)):
        rows = order.rows(first, last)
        assert rows.dtype == np.int64
        assert rows.tolist() == whole[first:last]


@given(shard_sizes, seeds, epochs)
def test_without_shuffle_rows_come_in_order(sizes, seed, epoch):
    assert epoch_rows(sizes, seed, epoch, shuffle=False) == list(range(sum(sizes)))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), seeds, st.integers(1, 4))
def test_each_window_holds_exactly_the_rows_of_whole_shards(sizes, seed, window):
    rows = epoch_rows(tuple(sizes), seed, window=window)
    ends = np.cumsum(sizes)
    shards = np.searchsorted(ends, rows, side="right").tolist()
    seen, place = [], 0
    while place < len(rows):
        chosen = set(shards[place:])  # those still to come
        size = window if len(chosen) > window else len(chosen)
        inside = list(dict.fromkeys(shards[place:]))[:size]
        length = sum(sizes[shard] for shard in inside)
        assert set(shards[place : place + length]) == set(inside)
        seen += inside
        place += length
    assert sorted(seen) == list(range(len(sizes)))


def test_shuffle_reaches_every_place_from_every_shard():
    """A full shuffle mixes: each quarter of the epoch has its share of each shard."""
    rows = np.array(epoch_rows((1000,) * 4))
    shares = np.bincount(np.arange(4000) // 1000 * 4 + rows // 1000, minlength=16)
    assert np.abs(shares - 250).max() < 60  # 4.4 sigma


def test_windows_come_in_another_order_in_the_next_epoch():
    firsts = {epoch_rows((5,) * 40, epoch=n, window=1)[0] // 5 for n in range(10)}
    assert len(firsts) > 5


@given(seeds, epochs, st.sampled_from([None, 1, 3]))
def test_next_epoch_and_next_seed_differ(seed, epoch, window):
    sizes = (7,) * 9
    rows = epoch_rows(sizes, seed, epoch, window=window)
    assert rows != epoch_rows(sizes, seed, epoch + 1, window=window)
    assert rows != epoch_rows(sizes, seed + 1, epoch, window=window)


def test_permutations_of_different_words_differ():
    """NumPy's SeedSequence would take several of these for the same entropy."""
    words = [(5, 1), (5 + 2**32, 0), (5,), (5, 1, 0), (1, 5), (-5, 1), (5, 1, 0, 0)]
    drawn = {tuple(permutation(40, *some).tolist()) for some in words}
    assert len(drawn) == len(words)


@given(st.integers(0, 40), seeds, seeds)
def test_permutation_is_one(size, one, other):
    order = permutation(size, one, other)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(size))


def test_permutation_favours_no_place():
    drawn = np.array([permutation(8, 1, n) for n in range(4000)])
    counts = np.stack([np.bincount(column, minlength=8) for column in drawn.T])
    assert np.abs(counts - 500).max() < 100  # 4.8 sigma


@given(st.integers(0, 70), st.integers(1, 9))
def test_rank_slices_partition_the_batch(size, world_size):
    slices = [rank_slice(size, rank, world_size) for rank in range(world_size)]
    assert slices[0][0] == 0
    assert slices[-1][1] == size
    assert all(one[1] == other[0] for one, other in pairwise(slices))
    lengths = [last - first for first, last in slices]
    assert max(lengths) - min(lengths) <= 1
    if size % world_size == 0:
        assert set(lengths) == {size // world_size}


LABELS = np.repeat([0, 1, 2, 4], [7000, 1500, 1000, 500])  # grade 3 is absent


def test_full_balance_draws_every_grade_equally_often():
    rows = weighted(LABELS, share=1).rows(0, len(LABELS))
    counts = np.bincount(LABELS[rows], minlength=5)
    assert counts[3] == 0
    assert np.abs(counts[[0, 1, 2, 4]] - 2500).max() < 5 * math.sqrt(2500 * 0.75)


def test_half_balance_lies_half_way():
    rows = weighted(LABELS, share=0.5).rows(0, len(LABELS))
    share = np.bincount(LABELS[rows], minlength=5)[0] / len(LABELS)
    assert share == pytest.approx((0.7 + 0.25) / 2, abs=0.02)


def test_balance_draws_all_samples_of_a_grade():
    rows = weighted(np.repeat([0, 1], [300, 20]), share=1).rows(0, 320)
    assert set(range(300, 320)) <= set(rows.tolist())  # 1 - 1e-3 for a fair draw
    assert len(set(rows[rows < 300].tolist())) > 100


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.floats(0, 1),
    seeds,
    st.integers(0, 45),
    st.integers(0, 45),
)
def test_weighted_rows_are_a_pure_function_of_place(labels, share, seed, first, last):
    whole = weighted(labels, share, seed, 2).rows(0, 10**9)
    assert whole.dtype == np.int64
    assert whole.shape == (len(labels),)
    assert set(whole.tolist()) <= set(range(len(labels)))
    part = weighted(labels, share, seed, 2).rows(first, last)
    assert part.tolist() == whole[first:last].tolist()


def test_weighted_epochs_differ():
    one, other = (weighted(LABELS, 0.5, epoch=n).rows(0, 100) for n in (0, 1))
    assert one.tolist() != other.tolist()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.floats(0, 1))
def test_grade_weights_sum_to_one(labels, share):
    weights = grade_weights(np.asarray(labels), share)
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()


@pytest.mark.parametrize("chance", [0.4, 0.5])
def test_flips_come_as_often_as_asked(chance):
    mirrored = flips(3, 1, np.arange(100_000), (chance, 1 - chance))
    sigma = math.sqrt(chance * (1 - chance) / 100_000)
    shares = mirrored.mean(0)
    assert np.abs(shares - [chance, 1 - chance]).max() < 4 * sigma


def test_flips_of_chance_zero_and_one_are_certain():
    mirrored = flips(0, 0, np.arange(10_000), (0.0, 1.0))
    assert not mirrored[:, 0].any()
    assert mirrored[:, 1].all()


@given(seeds, epochs, st.permutations(range(30)), st.integers(0, 29))
def test_flips_belong_to_the_row_not_to_its_place(seed, epoch, rows, first):
    chances = (0.4, 0.5)
    by_row = flips(seed, epoch, np.arange(30), chances)
    mirrored = flips(seed, epoch, np.array(rows[first:]), chances)
    assert mirrored.dtype == np.bool_
    assert np.array_equal(mirrored, by_row[rows[first:]])


def test_flips_of_no_rows_are_none():
    assert flips(0, 0, np.empty(0, np.int64), (0.5, 0.5)).shape == (0, 2)


def test_draws_are_uniform():
    draws = uniform(0, 0, np.arange(100_000), AUGMENT)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.bincount((draws * 20).astype(int), minlength=20)
    assert ((counts - 5000) ** 2 / 5000).sum() < 46  # chi-squared, 19 df: 1 in 2,000


@pytest.mark.parametrize(
    "other",
    [
        (1, 0, HFLIP),
        (-1, 0, HFLIP),
        (0, 1, HFLIP),
        (0, 0, VFLIP),
        (0, 0, SAMPLE),
        (0, 0, AUGMENT, 0, 0),
        (0, 0, HFLIP, 0),
        (2**32, 0, HFLIP),
    ],
)
def test_draws_of_two_streams_do_not_correlate(other):
    rows = np.arange(50_000)
    seed, epoch, *stream = other
    one, two = uniform(0, 0, rows, HFLIP), uniform(seed, epoch, rows, *stream)
    for shift in (0, 1, -1):
        assert abs(np.corrcoef(one, np.roll(two, shift))[0, 1]) < 0.02  # 4.5 sigma


def test_draws_of_neighbouring_rows_do_not_correlate():
    draws = uniform(0, 0, np.arange(50_000), HFLIP)
    for lag in (1, 2, 32, 512):
        assert abs(np.corrcoef(draws[:-lag], draws[lag:])[0, 1]) < 0.02


@pytest.mark.parametrize("balance", [0.0, 0.5])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("kind", [Schedule, PieceSchedule])
@pytest.mark.parametrize("first_batch", [0, 3, 99])
def test_plans_are_the_same_however_many_are_drawn_at_once(
    shards, monkeypatch, kind, world_size, balance, first_batch
):
    def plans(rows_at_once, rank):
        monkeypatch.setattr("loaders.schedule._DRAWN_AT_ONCE", rows_at_once)
        config = LoaderConfig(
            batch_size=6,
            shuffle=True,
            balance=balance,
            hflip=0.5,
            vflip=0.5,
            rank=rank,
            world_size=world_size,
        )
        with open_split(shards, "train") as split:
            found = kind(split, config).plans(1, first_batch)
            return [(p.rows.tolist(), p.flips.tolist()) for p in found]

    seen = []
    for rank in range(world_size):
        one_by_one = plans(1, rank)
        seen += [row for rows, _ in one_by_one for row in rows]
        assert len(one_by_one) == max(0, 7 - first_batch)
        assert all(len(rows) == len(flips) for rows, flips in one_by_one)
        for rows_at_once in (12 // world_size, 1_000):
            assert plans(rows_at_once, rank) == one_by_one
    if not (balance or first_batch):
        assert sorted(seen) == [*range(37)]
