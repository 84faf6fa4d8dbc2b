"""The ratios that we hold ourselves to, of what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from bench.lines import lines_of
from bench.rows import BenchmarkRun, EntrantRow, rows_of

PAUSE_MS = 20.0
PAUSED = ("pil", "turbo", "dali", "dali-reader", "webdataset")
MACHINERY = {"turbo": 100_000, "webdataset": 30_000}  # images/s on 2 cores
_BATCH = 32  # of all races, as bench.epoch_runner has it; which imports torch
_NO_FALL = 0.9  # rounds of one machinery differ by as much


class Target(NamedTuple):
    """A ratio that we hold ourselves to.

    Attributes:
        what: the two that are set against each other.
        least: the ratio that is wanted.
        ratio: the ratio measured; None where one of the two was not measured.
    """

    what: str
    least: float
    ratio: float | None

    @property
    def met(self) -> bool:
        """Whether it holds."""
        return self.ratio is not None and self.ratio >= self.least


def targets(run: BenchmarkRun) -> list[Target]:
    """The ratios that were measured; a peer that stores no JPEGs is in none."""
    lines = {
        line: {row["entrant"]: row for row in rows}
        for line, rows in lines_of(rows_of(run)).items()
    }
    return [target for target in _all_targets(lines) if target.ratio is not None]


def _all_targets(lines: Mapping[str, Mapping[str, EntrantRow]]) -> Iterator[Target]:
    batch, ready, shard, step = (
        lines.get(line, {}) for line in ("batch", "ready", "shard", "step")
    )
    what = "`turbo` to *batch* / the decode-only ceiling"
    yield Target(what, 0.9, _own_share(batch, "turbo"))
    yield _against_peers("batch", batch)
    yield _against_peers("ready", ready)
    what = "`turbo` to *ready* / the report's loader, 0 workers"
    yield Target(what, 6, _ratio(ready, "turbo", "report, 0 workers"))
    what = "`dali` / `dali-reader`, to *batch*"
    yield Target(what, 0.95, _ratio(batch, "dali", "dali-reader"))
    what = "sharding / the decode-only ceiling"
    yield Target(what, 0.75, _own_share(shard, "scripts/shard.py"))
    what = "a step of ResNet18 in bf16, channels-last / in float32, NCHW"
    ratio = _ratio(step, "synthetic, bf16 channels-last", "synthetic, float32 NCHW")
    yield Target(what, 2, ratio)
    kept = _ratio(lines.get("cache", {}), "turbo, kept in memory", "turbo")
    yield Target("`turbo`, kept in memory / `turbo`, to *batch*", 2.5, kept)
    checked = _ratio(lines.get("verify", {}), "turbo", "turbo, unchecked")
    yield Target("`turbo` / `turbo` that compares no checksums", 0.99, checked)
    yield from _of_scaling(lines.get("scaling", {}).values())
    yield from _of_machinery(lines.get("machinery", {}).values())
    for name in PAUSED:
        row = lines.get("pause", {}).get(name)
        what = f"{PAUSE_MS:g} ms / the pause between two epochs of `{name}`"
        yield Target(what, 1, PAUSE_MS / row["pause_ms"] if row else None)


def _of_scaling(rows: Iterable[EntrantRow]) -> Iterator[Target]:
    """By number of threads, beside the ceiling of as many."""
    found = {  # rows of before have one ceiling for all, and no "threads"
        (row["loader"], row["threads"]): row["share_of_ceiling"]
        for row in rows
        if "threads" in row and row["batch_size"] == _BATCH
    }
    shares = [share for (name, _), share in found.items() if name == "turbo"]
    what = "`turbo` / the ceiling of as many threads, where that is least"
    yield Target(what, 0.92, min(shares, default=None))
    two = [found.get((name, 2)) for name in ("webdataset", "turbo")]
    ratio = two[0] / two[1] if two[0] and two[1] else None
    yield Target("`webdataset` / `turbo` on 2 threads, as shares", 0.9, ratio)
    what = "`webdataset` on 16 threads / the ceiling of as many"
    yield Target(what, 0.8, found.get(("webdataset", 16)))


def _of_machinery(rows: Iterable[EntrantRow]) -> Iterator[Target]:
    """Fast enough on any number of threads, and no slower on many."""
    speeds: dict[str, dict[int, float]] = {}
    for row in rows:
        own = speeds.setdefault(row["loader"], {})
        own[row["workers"]] = row["images_per_second"]
    for name, goal in MACHINERY.items():
        own = speeds.get(name, {})
        slowest = min(own.values(), default=None)
        what = f"the machinery of `{name}` where it is slowest / {goal:,} images/s"
        yield Target(what, 1, slowest / goal if slowest else None)
        few, many = own.get(2), own.get(32)
        what = f"the machinery of `{name}`, 32 threads / 2"
        yield Target(what, _NO_FALL, many / few if few and many else None)


def _against_peers(line: str, rows: Mapping[str, EntrantRow]) -> Target:
    best = _best_peer(rows)
    name = f" ({best})" if best else ""
    ratio = _ratio(rows, "turbo", best) if best else None
    return Target(f"`turbo` to *{line}* / the best peer{name}", 1.5, ratio)


def _best_peer(rows: Mapping[str, EntrantRow]) -> str | None:
    speeds = {
        name: row["images_per_second"]
        for name, row in rows.items()
        if row["kind"] == "peer" and not row.get("stores", "").startswith("raw")
    }
    return max(speeds, key=lambda name: speeds[name]) if speeds else None


def _ratio(rows: Mapping[str, EntrantRow], one: str, other: str) -> float | None:
    if one not in rows or other not in rows:
        return None
    speed: float = rows[one]["images_per_second"]
    return speed / float(rows[other]["images_per_second"])


def _own_share(rows: Mapping[str, EntrantRow], name: str) -> float | None:
    return rows[name]["share_of_ceiling"] if name in rows else None
