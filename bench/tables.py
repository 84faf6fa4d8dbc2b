"""From pytest-benchmark's JSON to tables: pure functions, nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bench.rows import BenchmarkRun, EntrantRow, describe_commit, describe_date, rows_of

LINES = {
    "read": "To *read*: JPEG bytes in memory",
    "batch": "To *batch*: uint8 on the device",
    "ready": "To *ready*: float32, normalised, channels-last",
    "step": "To *step*: ResNet18 at 512 pixels trained on",
    "shard": "Sharding",
    "intervals": "Intervals of all scores: 1,000 resamples, each image counted once",
    "decode, 1 thread": "Decoders on one thread",
    "scaling": "Other workers and batch sizes, to *batch*",
}
_CEILINGS = {
    "read": "copying the bytes in memory, on one thread",
    "step": "the step in bf16, channels-last, on a synthetic batch",
    "intervals": "drawing the patients alone",
}
# When it is measured, where it does not come just before each of an entrant's rounds.
_CEILING_TURNS = dict.fromkeys(
    ("step", "intervals"), "which takes its turn in each round"
)
_DECODE_ONLY = "libjpeg-turbo alone on the same threads"


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


def lines_of(rows: Sequence[EntrantRow]) -> dict[str, list[EntrantRow]]:
    """Rows by finish line, the fastest of each first."""
    lines: dict[str, list[EntrantRow]] = {}
    for row in rows:
        lines.setdefault(row["line"], []).append(row)
    order = {line: place for place, line in enumerate(LINES)}
    return {
        line: sorted(lines[line], key=lambda row: -row["images_per_second"])
        for line in sorted(lines, key=lambda line: (order.get(line, 99), line))
    }


def ceiling_of(line: str) -> str:
    """What a finish line's speeds are set against."""
    return _CEILINGS.get(line, _DECODE_ONLY)


def summary(run: BenchmarkRun) -> str:
    """The text for the terminal, a line for each entrant."""
    text = []
    for line, rows in lines_of(rows_of(run)).items():
        text.append(f"\n{line} (ceiling: {ceiling_of(line)})\n")
        text += [
            f"  {row['entrant']:<44} {_speed(row):>24} {_share(row)}\n" for row in rows
        ]
    missed = [f"  {_describe_target(target)}\n" for target in targets(run)]
    return "".join([*text, "\nratios of medians\n" if missed else "", *missed])


def markdown(run: BenchmarkRun, plots: Sequence[str] = ()) -> str:
    """The whole report in Markdown.

    Args:
        run: pytest-benchmark's JSON.
        plots: names of the images, which lie beside it.
    """
    shown = (f"![{plot.rsplit('_', 1)[-1]}]({plot})" for plot in plots)
    parts = ["# Loaders, measured", _card(run), *shown]
    older = run["commit_info"].get("older") or {}
    for line, rows in lines_of(rows_of(run)).items():
        title = LINES.get(line, line.replace("decode,", "Decoders on"))
        parts += [f"## {title}", _table(line, rows)]
        if line in older:
            parts.append(f"Measured {older[line]}.")
    parts += ["## Ratios", _targets_table(run), "## What was not faster"]
    parts.append("\n".join(f"- {sentence}" for sentence in not_faster(run)))
    skipped = run["commit_info"].get("skipped", {})
    if skipped:
        parts.append("## What did not run")
        parts.append("\n".join(f"- {who}: {why}" for who, why in skipped.items()))
    return "\n\n".join(parts) + "\n"


def _card(run: BenchmarkRun) -> str:
    card = run["machine_info"].get("card", {})
    facts = [
        ("date", describe_date(run)),
        ("commit", describe_commit(run)),
        *card.items(),
    ]
    lines = ["| machine | |", "| --- | --- |"]
    return "\n".join(lines + [f"| {what} | {value} |" for what, value in facts])


def _table(line: str, rows: Sequence[EntrantRow]) -> str:
    columns = {name: make for name, make in _COLUMNS.items() if any(map(make, rows))}
    when = _CEILING_TURNS.get(line, "measured just before each round")
    least, most = (of(row["rounds"] for row in rows) for of in (min, max))
    rounds = f"{most}"
    if least != most:
        rounds = f"{least} to {most}"
        columns["rounds"] = lambda row: str(row["rounds"])
    lines = [
        f"Ceiling: {ceiling_of(line)}, {when}; medians over {rounds} rounds in turn, "
        "with the slowest and the fastest.",
        "",
        "| " + " | ".join(["", *columns]) + " |",
        "| --- " * (len(columns) + 1) + "|",
    ]
    for row in rows:
        name = f"**{row['entrant']}**" if row["kind"] == "ours" else row["entrant"]
        lines.append(
            "| " + " | ".join([name, *(make(row) for make in columns.values())]) + " |"
        )
    return "\n".join(lines)


def _speed(row: EntrantRow) -> str:
    digits = ",.0f" if row["images_per_second"] >= 100 else ",.2f"
    speeds = (row["images_per_second"], row["slowest"], row["fastest"])
    median, slowest, fastest = (format(speed, digits) for speed in speeds)
    return f"{median} ({slowest} to {fastest})"


def _share(row: EntrantRow) -> str:
    return f"{row['share_of_ceiling']:.2f}" if "share_of_ceiling" in row else ""


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:,.0f} ms"


def _memory(row: EntrantRow) -> str:
    peak = row.get("peak_bytes")
    return "" if peak is None else f"{peak / 2**20:,.0f} MiB"


def _cold(row: EntrantRow) -> str:
    speed = row.get("cold_images_per_second")
    return "" if speed is None else f"{speed:,.0f}"


_COLUMNS: dict[str, Callable[[EntrantRow], str]] = {
    "images/s": _speed,
    "of the ceiling": _share,
    "CPU per image": lambda row: f"{row['cpu_ms_per_image']:.2f} ms",
    "first batch": lambda row: _milliseconds(row.get("first_batch_seconds")),
    "peak memory (PSS)": _memory,
    "cold, opening included": _cold,
    "cold first batch": lambda row: _milliseconds(row.get("cold_first_batch_seconds")),
    "pixels": lambda row: row["pixels"],
    "flips": lambda row: row.get("flips", ""),
    "reads": lambda row: row.get("stores", ""),
}


# ---- the ratios that we hold ourselves to


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


def _describe_target(target: Target) -> str:
    verdict = "holds" if target.met else "MISSED"
    return f"{target.what}: {target.ratio:.2f}, at least {target.least:g}: {verdict}"


def _targets_table(run: BenchmarkRun) -> str:
    lines = ["| | measured | at least | |", "| --- | --- | --- | --- |"]
    for target in targets(run):
        verdict = "holds" if target.met else "**missed**"
        lines.append(
            f"| {target.what} | {target.ratio:.2f} | {target.least:g} | {verdict} |"
        )
    return "\n".join(lines)


def not_faster(run: BenchmarkRun) -> list[str]:
    """Where another was as fast as one of ours, or a ratio was missed."""
    return [
        *_slower(run),
        *(_describe_target(target) for target in targets(run) if not target.met),
    ]


def _slower(run: BenchmarkRun) -> Iterator[str]:
    for line, rows in lines_of(rows_of(run)).items():
        others = [row for row in rows if row["kind"] in ("peer", "report")]
        for ours in (row for row in rows if row["kind"] == "ours"):
            faster = [text for row in others if (text := _if_as_fast(row, ours))]
            if faster:
                who = f"`{ours['entrant']}`"
                yield f"to *{line}*, {who} is not faster than {', '.join(faster)}"


def _if_as_fast(other: EntrantRow, ours: EntrantRow) -> str:
    """The other's name and ratio, where it is as fast as ours."""
    ratio = other["images_per_second"] / ours["images_per_second"]
    return f"{other['entrant']} ({ratio:.2f} x)" if ratio >= 1 else ""
