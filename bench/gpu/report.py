"""What was measured, as tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bench.gpu.bounds import Bound, Results, judge
from bench.gpu.data import ODD_KINDS
from bench.gpu.scope import Row, SectionResults

Column = tuple[str, Callable[[Row], Any]]


def _share(value: float) -> str:
    return f"{value:.2%}"


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value / 2**30:.2f}"


def _kind(kind: str) -> Column:
    def cell(row: Row) -> str:
        if kind not in row:
            return "-"
        by_host = ", by the host" if row[kind]["by_host"] else ""
        return f"{row[kind]['mean']:.3f} / {row[kind]['max']}{by_host}"

    return kind, cell


TABLES: dict[str, tuple[str, list[Column]]] = {
    "environment": (
        "Environment",
        [("what", lambda r: r["what"]), ("value", lambda r: r["value"])],
    ),
    "parity": (
        "Parity with Pillow: photographs",
        [
            ("decoder", lambda r: r["decoder"]),
            ("images", lambda r: r["images"]),
            ("images exact", lambda r: _share(r["images_exact"])),
            ("values exact", lambda r: _share(r["values_exact"])),
            ("values > 2 off", lambda r: _share(r["values_above_2"])),
            ("mean", lambda r: f"{r['mean']:.4f}"),
            ("mean of the worst", lambda r: f"{r['worst_mean']:.4f}"),
            ("max", lambda r: r["max"]),
            ("with the max", lambda r: r["worst_key"]),
            ("batches by the host", lambda r: r["batches_by_host"]),
        ],
    ),
    "rare_kinds": (
        "Parity with Pillow: rare kinds of JPEG (mean / max difference)",
        [
            ("decoder", lambda r: r["decoder"]),
            *(_kind(kind) for kind in ODD_KINDS.values()),
        ],
    ),
    "corrupt": (
        "Damaged files",
        [
            ("file", lambda r: r["file"]),
            ("loader", lambda r: r["loader"]),
            ("what happens", lambda r: r["outcome"]),
            ("skipped", lambda r: r["skipped"]),
            ("rest of the images", lambda r: r["rest"]),
            ("as they should be", lambda r: _yes(r["rest_good"])),
            ("next epoch", lambda r: r["next_epoch"]),
            ("as it should be", lambda r: _yes(r["next_epoch_good"])),
        ],
    ),
    "throughput": (
        "Throughput (shuffled, flipped; ceiling: libjpeg-turbo on the same cores)",
        [
            ("to", lambda r: r["line"]),
            ("loader", lambda r: r["loader"]),
            ("images/s", lambda r: f"{r['images_per_second']:,.0f}"),
            ("from", lambda r: f"{r['slowest']:,.0f}"),
            ("to at best", lambda r: f"{r['fastest']:,.0f}"),
            ("ceiling", lambda r: f"{r['ceiling_images_per_second']:,.0f}"),
            ("of it", lambda r: f"{r['share_of_ceiling']:.2f}"),
            ("epochs", lambda r: r["rounds"]),
            ("images each", lambda r: f"{r['images_per_round']:,}"),
            ("batch", lambda r: r["batch_size"]),
            ("cores", lambda r: r["cores"]),
        ],
    ),
    "memory": (
        "GPU memory of a loader, GiB",
        [
            ("loader", lambda r: r["loader"]),
            ("before", lambda r: _gib(r["before_bytes"])),
            ("largest", lambda r: _gib(r["largest_bytes"])),
            ("taken", lambda r: _gib(r["taken_bytes"])),
            ("after", lambda r: _gib(r["after_bytes"])),
            ("of torch's allocator", lambda r: _gib(r["torch_peak_bytes"])),
        ],
    ),
    "steps": ("The training step alone", []),
    "end_to_end": (
        "End to end: full-phase ResNet18, strong recipe",
        [
            ("loader", lambda r: r["loader"]),
            ("device", lambda r: r["device"]),
            ("precision", lambda r: r["precision"]),
            ("batch", lambda r: r["batch_size"]),
            ("steps", lambda r: r["steps"]),
            ("images/s", lambda r: f"{r['images_per_second']:,.1f}"),
            ("waiting", lambda r: _share(r["wait_fraction"])),
            ("images/s, 2nd epoch", lambda r: f"{r['steady_images_per_second']:,.1f}"),
            ("waiting, 2nd epoch", lambda r: _share(r["steady_wait_fraction"])),
            ("torch's peak, GiB", lambda r: _gib(r["torch_peak_bytes"])),
            ("GPU's largest, GiB", lambda r: _gib(r["largest_bytes"])),
        ],
    ),
    "tests": (
        "Tests marked gpu",
        [
            ("passed", lambda r: r["passed"]),
            ("failed", lambda r: r["failed"]),
            ("skipped", lambda r: r["skipped"]),
            ("out of time", lambda r: _yes(r["timed_out"])),
            ("failures", lambda r: "; ".join(r["failures"]) or "-"),
        ],
    ),
    "compiled": ("The training step alone, compiled", []),
}

for _steps in ("steps", "compiled"):
    TABLES[_steps][1].extend(
        [
            ("network", lambda r: r["arch"]),
            ("batch", lambda r: r["batch"]),
            ("pixels", lambda r: r["pixels"]),
            ("phase", lambda r: r["phase"]),
            ("precision", lambda r: r["precision"]),
            ("layout", lambda r: r["layout"]),
            ("recipe", lambda r: "strong" if r["strong"] else "plain"),
            ("ms", lambda r: f"{r['ms']:.2f}"),
            ("from", lambda r: f"{r['fastest_ms']:.2f}"),
            ("to", lambda r: f"{r['slowest_ms']:.2f}"),
            ("images/s", lambda r: f"{r['images_per_second']:,.1f}"),
            ("peak, GiB", lambda r: _gib(r["peak_bytes"])),
            ("before, s", lambda r: f"{r['warmup_seconds']:.1f}"),
        ]
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


NOTES = {
    "throughput": "Each epoch begins with empty queues; pil starts its processes anew. "
    "pil has rounds of its own, beside the ceiling alone.",
    "memory": "Asked of the device, as DALI's memory is not torch's allocator's.",
    "steps": "From a uint8 batch on the device to the new weights; medians. TF32 in "
    "float32 is as the environment says. plain only normalises; strong augments and "
    "averages the weights, too, as the runs from end to end do.",
    "end_to_end": "The first epoch has all that is slow at first, such as the choice "
    "of convolutions; the bound is for the second.",
}


def markdown(results: Results, summary: Mapping[str, Any]) -> str:
    """The whole report in Markdown."""
    lines = ["# GPU check", ""]
    lines += [f"{summary['date']}, {summary['device']}, {summary['seconds']:.0f} s."]
    lines += ["", "## Bounds", "", *_table(_BOUNDS, judge(results))]
    for name, (title, columns) in TABLES.items():
        section = results.get(name, SectionResults())
        lines += ["", f"## {title}", ""]
        rows = [row for row in section.rows if not row.get("error")]
        lines += _table(columns, rows) if rows else ["Nothing measured."]
        lines += ["", NOTES[name]] if name in NOTES and rows else []
    lines += ["", "## Failed", "", *_failures(results)]
    lines += ["", "## Left out", "", *_left_out(results)]
    return "\n".join(lines) + "\n"


_BOUNDS: list[tuple[str, Callable[[Bound], Any]]] = [
    ("bound", lambda b: b.name),
    ("rule", lambda b: b.rule),
    ("measured", lambda b: b.measured),
    ("", lambda b: b.state),
]


def _table(
    columns: Sequence[tuple[str, Callable[[Any], Any]]], rows: Iterable[Any]
) -> list[str]:
    head = [name for name, _ in columns]
    body = [[str(cell(row)) for _, cell in columns] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return [f"| {' | '.join(_cell(text) for text in line)} |" for line in lines]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _failures(results: Results) -> list[str]:
    lines = []
    for name, section in results.items():
        for failure in section.failures:
            lines.append(f"- {name}: {failure.what}: {failure.error}")
            if failure.trace:
                lines += ["", *(f"      {line}" for line in failure.trace), ""]
    return lines or ["Nothing."]


def _left_out(results: Results) -> list[str]:
    lines = [
        f"- {name}: {one.what} ({one.why})"
        for name, section in results.items()
        for one in section.left_out
    ]
    return lines or ["Nothing."]
