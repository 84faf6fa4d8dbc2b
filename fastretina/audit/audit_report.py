"""The report of an audit: what is there, what needs no pixel, and the findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastretina.audit.audited_data_set import AuditedDataSet
from fastretina.audit.findings import Finding
from fastretina.audit.split_counts import SplitNumbers
from fastretina.audit.survey import AuditResult
from fastretina.formatting import format_count, format_interval, wrap
from fastretina.metrics.baselines import Baseline
from loaders.grades import GRADES

_NARROWEST = 60  # columns


def format_report(result: AuditResult, findings: Sequence[Finding], width: int) -> str:
    """Format the whole report, wrapped to a width in columns."""
    numbers = result.numbers
    parts = [format_head(result.data_set), format_shares(("", numbers))]
    if numbers.baselines:
        parts.append(format_rules(numbers.baselines))
    width = max(width, _NARROWEST)
    paragraphs = [format_finding(finding, width) for finding in findings]
    return "\n\n".join([*parts, "\n".join(paragraphs)])


def format_head(data_set: AuditedDataSet) -> str:
    """Format the line that says what was audited."""
    there, total = len(data_set.there), len(data_set.eyes)
    images = f"{there:,} of them here" if there else "no image here, labels alone"
    if there == total:
        images = "all of them here"
    left_out = sum(len(each.names) for each in data_set.left_out)
    others = f"; {format_count(left_out, 'other file')} not taken" if left_out else ""
    return (
        f"{data_set.data} ({data_set.layout}): {total:,} photographs"
        f"{_patients(data_set)}, {images}{others}"
    )


def _patients(data_set: AuditedDataSet) -> str:
    known = {eye.patient for eye in data_set.eyes if eye.known}
    unknown = sum(not eye.known for eye in data_set.eyes)
    if not known:
        return " of unknown patients"
    some = f", {unknown:,} of them of unknown patients" if unknown else ""
    return f" of {len(known):,} patients{some}"


def format_shares(*named: tuple[str, SplitNumbers]) -> str:
    """Format a table of images of each grade, patients, and leaks: a column per split.

    Args:
        named: for each data set a prefix of its columns' titles, and its numbers.
    """
    columns = [
        [f"{prefix}{split}", *_column(numbers, split)]
        for prefix, numbers in named
        for split in numbers.counts
    ]
    names = ["grade", *(f"{grade} {name}" for grade, name in enumerate(GRADES))]
    names += ["images", "patients", "patient unknown", "fellow eye in train"]
    if not any(sum(numbers.unknown.values()) for _, numbers in named):
        names.remove("patient unknown")
        for column in columns:
            del column[-2]
    return "\n".join(
        f"{name:<20}" + "".join(f"{cell:>15}" for cell in cells)
        for name, *cells in zip(names, *columns, strict=True)
    )


def _column(numbers: SplitNumbers, split: str) -> list[str]:
    counts, leak = numbers.counts[split], numbers.leak
    total = sum(counts)
    leaks = _share(leak.eyes, leak.total) if split == "test" else ""
    if leaks and not numbers.patients[split] and numbers.unknown[split]:
        leaks = "unknown"
    cells = [_share(count, total) for count in counts]
    unknown = f"{numbers.unknown[split]:,}"
    return [*cells, f"{total:,}", f"{numbers.patients[split]:,}", unknown, leaks]


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if whole else "0"


def format_rules(baselines: Mapping[str, Baseline], prefix: str = "") -> str:
    """Format a table of the scores without a pixel: a line for each rule."""
    columns = "".join(
        f"{name:>10}" for name in ("accuracy", "QWK", "balanced", "macro-F1")
    )
    lines = [f"{f'{prefix}test, without a pixel':<40}{columns}"]
    for rule in baselines.values():
        lines.append(
            f"{rule.about:<40}{rule.accuracy:>10.1%}"
            f"{format_interval(rule.qwk, None, '.3f'):>10}"
            f"{rule.balanced_accuracy:>10.1%}{rule.macro_f1:>10.3f}"
        )
    return "\n".join(lines)


def format_finding(finding: Finding, width: int) -> str:
    """Format a finding as a paragraph, and a line for each example."""
    start = f"{finding.severity:<8} "
    text = " ".join(filter(None, (finding.line, finding.remedy)))
    lines = [wrap(f"{finding.name}: {text}", width, start, " " * len(start))]
    indent = " " * (len(start) + 2)
    lines += [wrap(line, width, indent, indent + "  ") for line in finding.examples]
    return "\n".join(lines)


def format_comparison(old: SplitNumbers, new: SplitNumbers) -> str:
    """Format a split and the one that is to replace it, side by side."""
    parts = [format_shares(("old ", old), ("new ", new))]
    for name, numbers in (("old", old), ("new", new)):
        if numbers.baselines:
            parts.append(format_rules(numbers.baselines, f"{name} "))
    return "\n\n".join(parts)
