"""The bounds that what was measured on a GPU has to hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from bench.gpu.data import ODD_KINDS
from bench.gpu.scope import Row, SectionResults

PARITY_MEAN, PARITY_MAX = 1.0, 8
WAIT_SHARE = 0.02
BF16_FACTOR = 1.8

State = Literal["held", "NOT held", "not measured"]
Differences = tuple[str, float, float]  # of what, mean, largest
Results = Mapping[str, SectionResults]


class Bound(NamedTuple):
    """A bound, and whether it holds."""

    name: str
    rule: str
    measured: str
    state: State


def judge(results: Results) -> list[Bound]:
    """All bounds, against what has been measured so far."""
    return [
        _pixels("mixed, fancy on", _mixed(results), PARITY_MEAN, PARITY_MAX),
        _pixels(
            "mixed, fancy on, rare kinds of JPEG",
            _kinds(results),
            PARITY_MEAN,
            PARITY_MAX,
        ),
        _pixels("libjpeg-turbo, exact", _turbo(results), 0.0, 0),
        _corrupt(_rows(results, "corrupt")),
        _waiting(_rows(results, "end_to_end")),
        *_factors(_rows(results, "steps")),
        _tests(_rows(results, "tests")),
    ]


def _rows(results: Results, section: str) -> list[Row]:
    rows = results[section].rows if section in results else []
    return [row for row in rows if not row.get("error")]


def _bound(name: str, rule: str, measured: Iterable[tuple[str, bool]]) -> Bound:
    """The bound over all that was measured; the first that breaks it is named."""
    texts = list(measured)
    if not texts:
        return Bound(name, rule, "-", "not measured")
    for text, ok in texts:
        if not ok:
            return Bound(name, rule, text, "NOT held")
    return Bound(name, rule, texts[0][0], "held")


def _pixels(
    name: str, differences: Iterable[Differences], mean: float, largest: int
) -> Bound:
    """The worst of the differences is named."""
    worst_first = sorted(
        differences, key=lambda one: (one[2] > largest, one[1], one[2]), reverse=True
    )
    rule = f"mean difference to Pillow <= {mean:g} and max <= {largest}"
    return _bound(
        name,
        rule,
        (
            (f"mean {a:.3f}, max {b:g} ({what})", a <= mean and b <= largest)
            for what, a, b in worst_first
        ),
    )


def _mixed(results: Results) -> Iterator[Differences]:
    for row in _rows(results, "parity"):
        if row["fancy"]:
            yield f"load {row['hw_decoder_load']:g}", row["worst_mean"], row["max"]


def _kinds(results: Results) -> Iterator[Differences]:
    for row in _rows(results, "rare_kinds"):
        for kind in ODD_KINDS.values():
            if row["fancy"] and kind in row:
                what = f"{kind}, load {row['hw_decoder_load']:g}"
                yield what, row[kind]["mean"], row[kind]["max"]


def _turbo(results: Results) -> Iterator[Differences]:
    for row in _rows(results, "parity"):
        if row["fancy"] is None:
            yield row["decoder"], row["worst_mean"], row["max"]


def _corrupt(rows: Sequence[Row]) -> Bound:
    rule = "the rest of the batch and the next epoch are whole"
    return _bound(
        "damaged files",
        rule,
        (
            (
                f"{row['file']}: rest {row['rest']}, next epoch {row['next_epoch']}",
                row["rest_good"] and row["next_epoch_good"],
            )
            for row in rows
        ),
    )


def _waiting(rows: Sequence[Row]) -> Bound:
    """The share of the second epoch that a GPU waits for its loader."""
    rule = f"<= {WAIT_SHARE:.0%} of a full-phase ResNet18 step"
    return _bound(
        "waiting for data, dali",
        rule,
        (
            (f"{share:.2%}", share <= WAIT_SHARE)
            for row in rows
            if row["loader"] == "dali" and _on_gpu(row)
            for share in [row["steady_wait_fraction"]]
        ),
    )


def _on_gpu(row: Row) -> bool:
    return str(row["device"]).startswith("cuda")


def _factors(rows: Sequence[Row]) -> Iterator[Bound]:
    rule = f">= {BF16_FACTOR}x float32 NCHW, full phase, eager"
    for arch in ("resnet18", "resnet50"):
        kinds = {
            (row["precision"], row["layout"]): row["ms"]
            for row in rows
            if (row["arch"], row["phase"]) == (arch, "full")
            and not (row["compiled"] or row["strong"])
        }
        fast, slow = kinds.get(("bf16", "channels-last")), kinds.get(("fp32", "NCHW"))
        measured = []
        if fast is not None and slow is not None:
            measured = [(f"{slow / fast:.2f}x", slow / fast >= BF16_FACTOR)]
        yield _bound(f"channels-last bf16, {arch}", rule, measured)


def _tests(rows: Sequence[Row]) -> Bound:
    return _bound(
        "tests marked gpu",
        "all pass",
        (
            (
                f"{row['passed']} passed, {row['failed']} failed, "
                f"{row['skipped']} skipped{', out of time' * row['timed_out']}",
                not row["failed"] and not row["timed_out"] and row["passed"] > 0,
            )
            for row in rows
        ),
    )
