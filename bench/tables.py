"""From pytest-benchmark's JSON to tables: pure functions, nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bench.lines import LINES, ceiling_of, lines_of
from bench.rows import BenchmarkRun, EntrantRow, describe_commit, describe_date, rows_of
from bench.targets import Target, targets

# When it is measured, where it does not come just before each of an entrant's rounds.
_ABOUT = {
    "machinery": "Images of 16 pixels that nobody decodes, so that what is left is "
    "reading, planning, handing out and mirroring; no ceiling is known.",
    "pause": "From the request after an epoch's last batch to the next epoch's first, "
    "for a consumer that sleeps 30 ms on each batch; medians, with the longest. Beside "
    "it what the same consumer waits within an epoch, for a quarter of the batches at "
    "least: a pause that is no longer is no pause, but a loader slower than 30 ms.",
}
_CEILING_TURNS = dict.fromkeys(
    ("step", "cache", "verify", "intervals"), "which takes its turn in each round"
)


def summary(run: BenchmarkRun) -> str:
    """The text for the terminal, a line for each entrant."""
    text = []
    for line, rows in lines_of(rows_of(run)).items():
        ceiling = ceiling_of(line)
        text.append(f"\n{line}{f' (ceiling: {ceiling})' if ceiling else ''}\n")
        text += [
            f"  {row['entrant']:<44} {_pause(row) or _speed(row):>24} "
            f"{_share(row) or _wait(row)}\n"
            for row in rows
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
    if "pause" in columns:
        del columns["images/s"]  # it is the consumer's
    when = _CEILING_TURNS.get(line, "measured just before each round")
    least, most = (of(row["rounds"] for row in rows) for of in (min, max))
    rounds = f"{most}"
    if least != most:
        rounds = f"{least} to {most}"
        columns["rounds"] = lambda row: str(row["rounds"])
    about = f"medians over {rounds} rounds in turn, with the slowest and the fastest."
    if ceiling := ceiling_of(line):
        about = f"Ceiling: {ceiling}, {when}; {about}"
    lines = [
        _ABOUT.get(line, about),
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


def _pause(row: EntrantRow) -> str:
    if "pause_ms" not in row:
        return ""
    return f"{row['pause_ms']:,.1f} ms (at most {row['longest_pause_ms']:,.1f})"


def _wait(row: EntrantRow) -> str:
    return f"{row['wait_ms']:,.1f} ms within" if "wait_ms" in row else ""


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:,.0f} ms"


def _memory(row: EntrantRow) -> str:
    peak = row.get("peak_bytes")
    return "" if peak is None else f"{peak / 2**20:,.0f} MiB"


def _cold(row: EntrantRow) -> str:
    speed = row.get("cold_images_per_second")
    return "" if speed is None else f"{speed:,.0f}"


_COLUMNS: dict[str, Callable[[EntrantRow], str]] = {
    "pause": _pause,
    "within an epoch": lambda row: _wait(row).removesuffix(" within"),
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
