"""The bounds that what was measured on a GPU has to hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

from bench.gpu.photographs import ODD_KINDS
from bench.gpu.scope import SectionResults
from bench.gpu.section_rows import (
    DamagedFileRow,
    MarkedTestsRow,
    ParityRow,
    RareKindsRow,
    SectionRow,
    StepRow,
    TrainedPhaseRow,
)

PARITY_MEAN, PARITY_MAX = 0.05, 4  # difference to Pillow, of 255
WAIT_SHARE = 0.02
BF16_FACTOR = 1.8
STEP_SHARE = 0.98  # of the step alone, from end to end
CHANGED_SHARE = 0.99  # of what a phase trains; a weight may be 0 and stay so

BoundState = Literal["held", "NOT held", "not measured"]
Differences = tuple[str, float, float]  # of what, mean, largest
Results = Mapping[str, SectionResults]
OneRow = TypeVar("OneRow", bound=SectionRow)


class GpuBound(NamedTuple):
    """A bound, and whether it holds."""

    name: str
    rule: str
    measured: str
    state: BoundState


def judge(results: Results) -> list[GpuBound]:
    """All bounds, against what has been measured so far."""
    return [
        _tests(_rows(results, "tests", MarkedTestsRow)),
        _pixels("mixed, fancy on", _mixed(results), PARITY_MEAN, PARITY_MAX),
        _pixels(
            "mixed, fancy on, rare kinds of JPEG",
            _kinds(results),
            PARITY_MEAN,
            PARITY_MAX,
        ),
        _pixels("libjpeg-turbo, exact", _turbo(results), 0.0, 0),
        _corrupt(_rows(results, "corrupt", DamagedFileRow)),
        _changed("training", _rows(results, "end_to_end", TrainedPhaseRow)),
        _changed(
            "compiled training", _rows(results, "compiled_training", TrainedPhaseRow)
        ),
        _waiting(_rows(results, "end_to_end", TrainedPhaseRow)),
        *_against_step(results),
        *_factors(_rows(results, "steps", StepRow)),
    ]


def _rows(results: Results, section: str, kind: type[OneRow]) -> list[OneRow]:
    """A section's rows but for those of loaders that have failed."""
    rows = results[section].rows if section in results else []
    return [row for row in rows if isinstance(row, kind)]


def _bound(name: str, rule: str, measured: Iterable[tuple[str, bool]]) -> GpuBound:
    """The bound over all that was measured; the first that breaks it is named."""
    texts = list(measured)
    if not texts:
        return GpuBound(name, rule, "-", "not measured")
    for text, ok in texts:
        if not ok:
            return GpuBound(name, rule, text, "NOT held")
    return GpuBound(name, rule, texts[0][0], "held")


def _pixels(
    name: str, differences: Iterable[Differences], mean: float, largest: int
) -> GpuBound:
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
    for setting, differences, _ in _rows(results, "parity", ParityRow):
        if setting.fancy:
            what = f"load {setting.hw_decoder_load:g}"
            yield what, differences.worst_mean, differences.max


def _kinds(results: Results) -> Iterator[Differences]:
    for setting, kinds in _rows(results, "rare_kinds", RareKindsRow):
        for kind in ODD_KINDS.values():
            if setting.fancy and kind in kinds:
                what = f"{kind}, load {setting.hw_decoder_load:g}"
                yield what, kinds[kind].mean, kinds[kind].max


def _turbo(results: Results) -> Iterator[Differences]:
    for setting, differences, _ in _rows(results, "parity", ParityRow):
        if setting.fancy is None:
            yield setting.decoder, differences.worst_mean, differences.max


def _corrupt(rows: Sequence[DamagedFileRow]) -> GpuBound:
    rule = "the rest of the batch and the next epoch are whole"
    return _bound(
        "damaged files",
        rule,
        (
            (
                f"{row.file}: rest {row.rest}, next epoch {row.next_epoch}",
                row.rest_good and row.next_epoch_good,
            )
            for row in rows
        ),
    )


def _changed(name: str, rows: Sequence[TrainedPhaseRow]) -> GpuBound:
    """Whether each phase has changed the parameters that it trains."""
    rule = f"each phase changes >= {CHANGED_SHARE:.0%} of what it trains"
    return _bound(
        f"{name} trains what it should",
        rule,
        (
            (
                f"{row.phase}, {row.loader}: {changed:,} of {row.trained_parameters:,}",
                changed >= CHANGED_SHARE * row.trained_parameters,
            )
            for row in rows
            if (changed := row.changed_parameters) is not None
        ),
    )


def _waiting(rows: Sequence[TrainedPhaseRow]) -> GpuBound:
    """The share of a phase's last epoch that a GPU waits for its loader."""
    rule = f"<= {WAIT_SHARE:.0%} of a full-phase ResNet18 step"
    return _bound(
        "waiting for data, dali",
        rule,
        (
            (f"{share:.2%}", share <= WAIT_SHARE)
            for row in rows
            if (row.loader, row.phase) == ("dali", "full") and _on_gpu(row)
            for share in [row.wait_fraction]
        ),
    )


def _on_gpu(row: TrainedPhaseRow) -> bool:
    return row.device.startswith("cuda")


def _against_step(results: Results) -> Iterator[GpuBound]:
    """The full phase from end to end, beside the same step alone."""
    alone = [
        row.images_per_second
        for row in _rows(results, "steps", StepRow)
        if row.case.strong and row.case.phase == "full" and not row.case.compiled
    ]
    runs = [
        row
        for row in _rows(results, "end_to_end", TrainedPhaseRow)
        if row.phase == "full" and _on_gpu(row)
    ]
    for loader in ("dali", "turbo"):
        measured = [
            (f"{share:.2f}", share >= STEP_SHARE)
            for row in runs
            if row.loader == loader and alone
            for share in [row.images_per_second / alone[0]]
        ]
        rule = f">= {STEP_SHARE:g} of the step alone, ResNet18, full phase"
        yield _bound(f"end to end, {loader}", rule, measured)


def _factors(rows: Sequence[StepRow]) -> Iterator[GpuBound]:
    rule = f">= {BF16_FACTOR}x float32 NCHW, full phase, eager"
    for arch in ("resnet18", "resnet50"):
        kinds = {
            (row.case.precision, row.case.layout): row.ms
            for row in rows
            if (row.case.arch, row.case.phase) == (arch, "full")
            and not (row.case.compiled or row.case.strong)
        }
        fast, slow = kinds.get(("bf16", "channels-last")), kinds.get(("fp32", "NCHW"))
        measured = []
        if fast is not None and slow is not None:
            measured = [(f"{slow / fast:.2f}x", slow / fast >= BF16_FACTOR)]
        yield _bound(f"channels-last bf16, {arch}", rule, measured)


def _tests(rows: Sequence[MarkedTestsRow]) -> GpuBound:
    """Held where all have passed; with some not run, it is not known yet."""
    rule = "all pass"
    for row in rows:
        measured = (
            f"{row.passed} passed, {row.failed} failed, {row.skipped} skipped, "
            f"{len(row.not_run)} not run"
        )
        if row.not_run and not row.failed:
            return GpuBound("tests marked gpu", rule, measured, "not measured")
        good = not row.failed and row.passed > 0
        return _bound("tests marked gpu", rule, [(measured, good)])
    return _bound("tests marked gpu", rule, [])
