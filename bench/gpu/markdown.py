"""What was measured, as tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from bench.gpu.bounds import GpuBound, Results, judge
from bench.gpu.photographs import ODD_KINDS
from bench.gpu.scope import SectionResults
from bench.gpu.section_rows import (
    DamagedFileRow,
    Fact,
    LoaderMemoryRow,
    MarkedTestsRow,
    ParityRow,
    RareKindsRow,
    SectionRow,
    StepRow,
    ThroughputRow,
    TrainedPhaseRow,
)

AnyRow = TypeVar("AnyRow", bound=tuple[object, ...])
Column = tuple[str, Callable[[AnyRow], object]]


class Table(Protocol):
    """A section's table, whatever the type of its rows."""

    @property
    def title(self) -> str:
        """The heading above it."""

    def lines(self, rows: Sequence[SectionRow]) -> list[str]:
        """The table in Markdown; none where nothing was measured."""


class TableOf(Generic[AnyRow]):
    """A table of rows of one type; others, as of loaders that failed, stay out of it.

    Attributes:
        title: the heading above it.
    """

    def __init__(
        self, title: str, kind: type[AnyRow], columns: Sequence[Column[AnyRow]]
    ) -> None:
        self.title = title
        self._kind, self._columns = kind, columns

    def lines(self, rows: Sequence[SectionRow]) -> list[str]:
        """The table in Markdown; none where nothing was measured."""
        own = [row for row in rows if isinstance(row, self._kind)]
        return _table(self._columns, own) if own else []


def _share(value: float) -> str:
    return f"{value:.2%}"


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value / 2**30:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _kind(kind: str) -> Column[RareKindsRow]:
    def cell(row: RareKindsRow) -> str:
        if kind not in row.kinds:
            return "-"
        mean, largest, by_host = row.kinds[kind]
        return f"{mean:.3f} / {largest}{', by the host' if by_host else ''}"

    return kind, cell


_STEP_COLUMNS: Sequence[Column[StepRow]] = [
    ("network", lambda r: r.case.arch),
    ("batch", lambda r: r.case.batch),
    ("pixels", lambda r: r.case.pixels),
    ("phase", lambda r: r.case.phase),
    ("precision", lambda r: r.case.precision),
    ("layout", lambda r: r.case.layout),
    ("recipe", lambda r: "strong" if r.case.strong else "plain"),
    ("ms", lambda r: f"{r.ms:.2f}"),
    ("from", lambda r: f"{r.fastest_ms:.2f}"),
    ("to", lambda r: f"{r.slowest_ms:.2f}"),
    ("images/s", lambda r: f"{r.images_per_second:,.1f}"),
    ("of the GPU's peak", lambda r: _percent(r.share_of_peak)),
    ("memory, GiB", lambda r: _gib(r.peak_bytes)),
    ("before, s", lambda r: f"{r.warmup_seconds:.1f}"),
]

_ENVIRONMENT = TableOf(
    "Environment", Fact, [("what", lambda r: r.what), ("value", lambda r: r.value)]
)
_PARITY = TableOf(
    "Parity with Pillow: photographs",
    ParityRow,
    [
        ("decoder", lambda r: r.setting.decoder),
        ("images", lambda r: r.differences.images),
        ("images exact", lambda r: _share(r.differences.images_exact)),
        ("values exact", lambda r: _share(r.differences.values_exact)),
        ("values > 2 off", lambda r: _share(r.differences.values_above_2)),
        ("mean", lambda r: f"{r.differences.mean:.4f}"),
        ("mean of the worst", lambda r: f"{r.differences.worst_mean:.4f}"),
        ("max", lambda r: r.differences.max),
        ("with the max", lambda r: r.differences.worst_key),
        ("batches by the host", lambda r: r.batches_by_host),
    ],
)
_RARE_KINDS = TableOf(
    "Parity with Pillow: rare kinds of JPEG (mean / max difference)",
    RareKindsRow,
    [
        ("decoder", lambda r: r.setting.decoder),
        *(_kind(kind) for kind in ODD_KINDS.values()),
    ],
)
_CORRUPT = TableOf(
    "Damaged files",
    DamagedFileRow,
    [
        ("file", lambda r: r.file),
        ("loader", lambda r: r.loader),
        ("what happens", lambda r: r.outcome),
        ("skipped", lambda r: r.skipped),
        ("rest of the images", lambda r: r.rest),
        ("as they should be", lambda r: _yes(r.rest_good)),
        ("next epoch", lambda r: r.next_epoch),
        ("as it should be", lambda r: _yes(r.next_epoch_good)),
    ],
)
_THROUGHPUT = TableOf(
    "Throughput (shuffled, flipped; ceiling: libjpeg-turbo on the same cores)",
    ThroughputRow,
    [
        ("to", lambda r: r.line),
        ("loader", lambda r: r.loader),
        ("images/s", lambda r: f"{r.rate.images_per_second:,.0f}"),
        ("from", lambda r: f"{r.rate.slowest:,.0f}"),
        ("to at best", lambda r: f"{r.rate.fastest:,.0f}"),
        ("ceiling", lambda r: f"{r.ceiling_images_per_second:,.0f}"),
        ("of it", lambda r: f"{r.share_of_ceiling:.2f}"),
        ("epochs", lambda r: r.rate.rounds),
        ("images each", lambda r: f"{r.images_per_round:,}"),
        ("batch", lambda r: r.batch_size),
        ("cores", lambda r: r.cores),
    ],
)
_MEMORY = TableOf(
    "GPU memory of a loader, GiB",
    LoaderMemoryRow,
    [
        ("loader", lambda r: r.loader),
        ("before", lambda r: _gib(r.before_bytes)),
        ("largest", lambda r: _gib(r.largest_bytes)),
        ("taken", lambda r: _gib(r.taken_bytes)),
        ("after", lambda r: _gib(r.after_bytes)),
        ("of torch's allocator", lambda r: _gib(r.torch_peak_bytes)),
    ],
)
_TRAINED_COLUMNS: Sequence[Column[TrainedPhaseRow]] = [
    ("loader", lambda r: r.loader),
    ("device", lambda r: r.device),
    ("precision", lambda r: r.precision),
    ("phase", lambda r: r.phase),
    ("batch", lambda r: r.batch_size),
    ("epochs", lambda r: r.epochs),
    ("images/s", lambda r: f"{r.images_per_second:,.1f}"),
    ("waiting", lambda r: _share(r.wait_fraction)),
    ("1st epoch, s", lambda r: f"{r.first_seconds:.1f}"),
    ("waiting there, s", lambda r: f"{r.first_wait_seconds:.1f}"),
    ("parameters trained", lambda r: f"{r.trained_parameters:,}"),
    ("changed", lambda r: _count(r.changed_parameters)),
    ("torch's peak, GiB", lambda r: _gib(r.torch_peak_bytes)),
    ("GPU's largest, GiB", lambda r: _gib(r.largest_bytes)),
]
_TESTS = TableOf(
    "Tests marked gpu",
    MarkedTestsRow,
    [
        ("passed", lambda r: r.passed),
        ("failed", lambda r: r.failed),
        ("skipped", lambda r: r.skipped),
        ("not run", lambda r: len(r.not_run)),
        ("failures", lambda r: "; ".join(r.failures) or "-"),
        ("which were not run", lambda r: "; ".join(r.not_run) or "-"),
    ],
)

TABLES: Mapping[str, Table] = {  # in the order in which they are measured
    "environment": _ENVIRONMENT,
    "tests": _TESTS,
    "end_to_end": TableOf(
        "End to end: ResNet18, strong recipe", TrainedPhaseRow, _TRAINED_COLUMNS
    ),
    "compiled_training": TableOf(
        "End to end, compiled", TrainedPhaseRow, _TRAINED_COLUMNS
    ),
    "compiled": TableOf("The training step alone, compiled", StepRow, _STEP_COLUMNS),
    "parity": _PARITY,
    "rare_kinds": _RARE_KINDS,
    "corrupt": _CORRUPT,
    "throughput": _THROUGHPUT,
    "steps": TableOf("The training step alone", StepRow, _STEP_COLUMNS),
    "memory": _MEMORY,
}

NOTES = {
    "throughput": "Each epoch begins with empty queues; pil starts its processes anew. "
    "pil has rounds of its own, beside the ceiling alone.",
    "memory": "Asked of the device, as DALI's memory is not torch's allocator's.",
    "steps": "From a uint8 batch on the device to the new weights; medians. TF32 in "
    "float32 is as the environment says. plain only normalises; strong augments and "
    "averages the weights, too, as the runs from end to end do. The GPU's peak is that "
    "of the precision without sparsity; what is counted are convolutions and matrix "
    "products, two operations for a multiplication and an addition.",
    "end_to_end": "images/s and waiting are of a phase's last epoch; its first has all "
    "that is slow at first, such as the choice of convolutions.",
}


def render(results: Results, summary: Mapping[str, object]) -> str:
    """The whole report in Markdown.

    Args:
        results: what has come of the sections so far.
        summary: the content of the JSON line, and the ``date``.
    """
    lines = ["# GPU check", ""]
    lines += [f"{summary['date']}, {summary['device']}, {summary['seconds']:.0f} s."]
    lines += ["", "## Bounds", "", *_table(_BOUNDS, judge(results))]
    for name, table in TABLES.items():
        rows = table.lines(results.get(name, SectionResults()).rows)
        lines += ["", f"## {table.title}", "", *(rows or ["Nothing measured."])]
        lines += ["", NOTES[name]] if name in NOTES and rows else []
    lines += ["", "## Failed", "", *_failures(results)]
    lines += ["", "## Left out", "", *_left_out(results)]
    return "\n".join(lines) + "\n"


_BOUNDS: Sequence[Column[GpuBound]] = [
    ("bound", lambda b: b.name),
    ("rule", lambda b: b.rule),
    ("measured", lambda b: b.measured),
    ("", lambda b: b.state),
]


def _table(columns: Sequence[Column[AnyRow]], rows: Iterable[AnyRow]) -> list[str]:
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
