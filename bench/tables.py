"""From pytest-benchmark's JSON to tables: pure functions, nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Told = Mapping[str, Any]
Row = Mapping[str, Any]

LINES = {
    "read": "To *read*: JPEG bytes in memory",
    "batch": "To *batch*: uint8 on the device",
    "ready": "To *ready*: float32, normalised, channels-last",
    "step": "To *step*: ResNet18 at 512 pixels trained on",
    "shard": "Sharding",
    "decode, 1 thread": "Decoders on one thread",
    "scaling": "Other workers and batch sizes, to *batch*",
}
_CEILINGS = {
    "read": "copying the bytes in memory, on one thread",
    "step": "the same step on a synthetic batch",
}
_DECODE_ONLY = "libjpeg-turbo alone on the same threads"


class Bar(NamedTuple):
    """A ratio that we hold ourselves to.

    Attributes:
        what: is set against what.
        least: that it should be.
        ratio: that it is; None where one of the two was not measured.
    """

    what: str
    least: float
    ratio: float | None

    @property
    def met(self) -> bool:
        """Whether it holds."""
        return self.ratio is not None and self.ratio >= self.least


def rows_of(told: Told) -> list[Row]:
    """What was measured of each entrant, in order."""
    return [
        one["extra_info"] for one in told["benchmarks"] if "line" in one["extra_info"]
    ]


def lines_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by finish line, the fastest of each first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["line"], []).append(row)
    order = {line: place for place, line in enumerate(LINES)}
    return {
        line: sorted(found[line], key=lambda row: -row["images_per_second"])
        for line in sorted(found, key=lambda line: (order.get(line, 99), line))
    }


def ceiling_of(line: str) -> str:
    """What the ceiling of a line is, in words."""
    return _CEILINGS.get(line, _DECODE_ONLY)


def summary(told: Told) -> str:
    """For the terminal, a line for each entrant."""
    text = []
    for line, rows in lines_of(rows_of(told)).items():
        text.append(f"\n{line} (ceiling: {ceiling_of(line)})\n")
        text += [
            f"  {row['entrant']:<44} {_speed(row):>24} {_share(row)}\n" for row in rows
        ]
    missed = [f"  {_bar_words(bar)}\n" for bar in bars(told)]
    return "".join([*text, "\nratios of medians\n" if missed else "", *missed])


def markdown(told: Told, plots: Sequence[str] = ()) -> str:
    """The whole report.

    Args:
        told: pytest-benchmark's JSON.
        plots: names of the images, which lie beside it.
    """
    shown = (f"![{plot.rsplit('_', 1)[-1]}]({plot})" for plot in plots)
    parts = ["# Loaders, measured", _card(told), *shown]
    for line, rows in lines_of(rows_of(told)).items():
        title = LINES.get(line, line.replace("decode,", "Decoders on"))
        parts += [f"## {title}", _table(line, rows)]
    parts += ["## Ratios", _bars_table(told), "## What was not faster"]
    parts.append("\n".join(f"- {words}" for words in not_faster(told)))
    skipped = told["commit_info"].get("skipped", {})
    if skipped:
        parts.append("## What did not run")
        parts.append("\n".join(f"- {who}: {why}" for who, why in skipped.items()))
    return "\n\n".join(parts) + "\n"


def _card(told: Told) -> str:
    card = told["machine_info"].get("card", {})
    facts = [("date", told["datetime"][:16].replace("T", " ")), *card.items()]
    lines = ["| machine | |", "| --- | --- |"]
    return "\n".join(lines + [f"| {what} | {value} |" for what, value in facts])


def _table(line: str, rows: Sequence[Row]) -> str:
    columns = {name: make for name, make in _COLUMNS.items() if any(map(make, rows))}
    least, most = (of(row["rounds"] for row in rows) for of in (min, max))
    rounds = f"{most}" if least == most else f"{least} to {most}"
    lines = [
        f"Ceiling: {ceiling_of(line)}, measured just before each round; medians over "
        f"{rounds} rounds in turn, with the slowest and the fastest.",
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


def _speed(row: Row) -> str:
    digits = ",.0f" if row["images_per_second"] >= 100 else ",.2f"
    median, slowest, fastest = (
        format(row[name], digits)
        for name in ("images_per_second", "slowest", "fastest")
    )
    return f"{median} ({slowest} to {fastest})"


def _share(row: Row) -> str:
    return f"{row['share_of_ceiling']:.2f}" if "share_of_ceiling" in row else ""


def _seconds(name: str, row: Row) -> str:
    seconds = row.get(name)
    return "" if seconds is None else f"{seconds * 1e3:,.0f} ms"


def _memory(row: Row) -> str:
    peak = row.get("peak_bytes")
    return "" if peak is None else f"{peak / 2**20:,.0f} MiB"


def _cold(row: Row) -> str:
    speed = row.get("cold_images_per_second")
    return "" if speed is None else f"{speed:,.0f}"


_COLUMNS = {
    "images/s": _speed,
    "of the ceiling": _share,
    "CPU per image": lambda row: f"{row['cpu_ms_per_image']:.2f} ms",
    "first batch": lambda row: _seconds("first_batch_seconds", row),
    "peak memory (PSS)": _memory,
    "cold, opening included": _cold,
    "cold first batch": lambda row: _seconds("cold_first_batch_seconds", row),
    "pixels": lambda row: row["pixels"],
    "flips": lambda row: row.get("flips", ""),
    "reads": lambda row: row.get("stores", ""),
}


# ---- the ratios that we hold ourselves to


def bars(told: Told) -> list[Bar]:
    """All of them; a peer that stores other things than JPEGs is not in them."""
    lines = {
        line: {row["entrant"]: row for row in rows}
        for line, rows in lines_of(rows_of(told)).items()
    }
    batch, ready = lines.get("batch", {}), lines.get("ready", {})
    return [
        bar
        for bar in (
            Bar(
                "`turbo` to *batch* / the decode-only ceiling",
                0.9,
                _own_share(batch, "turbo"),
            ),
            _against_peers("batch", batch),
            _against_peers("ready", ready),
            Bar(
                "`turbo` to *ready* / the report's loader, 0 workers",
                6,
                _ratio(ready, "turbo", "report, 0 workers"),
            ),
            Bar(
                "`dali` / `dali-reader`, to *batch*",
                0.95,
                _ratio(batch, "dali", "dali-reader"),
            ),
            Bar(
                "sharding / the decode-only ceiling",
                0.75,
                _own_share(lines.get("shard", {}), "scripts/shard.py"),
            ),
            Bar(
                "a step of ResNet18 in bf16, channels-last / in float32, NCHW",
                2,
                _ratio(
                    lines.get("step", {}),
                    "synthetic, bf16 channels-last",
                    "synthetic, float32 NCHW",
                ),
            ),
        )
        if bar.ratio is not None
    ]


def _against_peers(line: str, rows: Mapping[str, Row]) -> Bar:
    best = _best_peer(rows)
    name = f" ({best})" if best else ""
    ratio = _ratio(rows, "turbo", best) if best else None
    return Bar(f"`turbo` to *{line}* / the best peer{name}", 1.5, ratio)


def _best_peer(rows: Mapping[str, Row]) -> str | None:
    speeds = {
        name: row["images_per_second"]
        for name, row in rows.items()
        if row["kind"] == "peer" and not row.get("stores", "").startswith("raw")
    }
    return max(speeds, key=lambda name: speeds[name]) if speeds else None


def _ratio(rows: Mapping[str, Row], one: str, other: str) -> float | None:
    if one not in rows or other not in rows:
        return None
    speed: float = rows[one]["images_per_second"]
    return speed / float(rows[other]["images_per_second"])


def _own_share(rows: Mapping[str, Row], name: str) -> float | None:
    return rows[name]["share_of_ceiling"] if name in rows else None


def _bar_words(bar: Bar) -> str:
    verdict = "holds" if bar.met else "MISSED"
    return f"{bar.what}: {bar.ratio:.2f}, at least {bar.least:g}: {verdict}"


def _bars_table(told: Told) -> str:
    lines = ["| | measured | at least | |", "| --- | --- | --- | --- |"]
    for bar in bars(told):
        verdict = "holds" if bar.met else "**missed**"
        lines.append(f"| {bar.what} | {bar.ratio:.2f} | {bar.least:g} | {verdict} |")
    return "\n".join(lines)


def not_faster(told: Told) -> list[str]:
    """Where another was as fast as one of ours, or a ratio was missed."""
    return [*_slower(told), *(_bar_words(bar) for bar in bars(told) if not bar.met)]


def _slower(told: Told) -> Iterator[str]:
    for line, rows in lines_of(rows_of(told)).items():
        others = [row for row in rows if row["kind"] in ("peer", "report")]
        for ours in (row for row in rows if row["kind"] == "ours"):
            faster = [words for row in others if (words := _no_slower(row, ours))]
            if faster:
                who = f"`{ours['entrant']}`"
                yield f"to *{line}*, {who} is not faster than {', '.join(faster)}"


def _no_slower(other: Row, ours: Row) -> str:
    """The other's name and ratio, where it is as fast as ours."""
    ratio = other["images_per_second"] / ours["images_per_second"]
    return f"{other['entrant']} ({ratio:.2f} x)" if ratio >= 1 else ""
