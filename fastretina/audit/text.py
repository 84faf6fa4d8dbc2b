"""An audit for people: what is there, what needs no pixel, and the findings."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from fastretina.audit.findings import Finding
from fastretina.audit.split_counts import SplitNumbers
from fastretina.audit.survey import Audited
from fastretina.formatting import format_interval
from loaders.grades import GRADES

_NARROWEST = 60  # columns
_SHOWN = {
    "accuracy": ".1%",
    "qwk": ".3f",
    "balanced_accuracy": ".1%",
    "macro_f1": ".3f",
}


def report(found: Audited, sentences: Sequence[Finding], width: int) -> str:
    """All of it, wrapped to a width in columns."""
    told = [told_finding(finding, max(width, _NARROWEST)) for finding in sentences]
    parts = [head(found), shares(("", found.numbers))]
    if found.numbers.baselines:
        parts.append(rules(found.numbers.baselines))
    return "\n\n".join([*parts, "\n".join(told)])


def head(found: Audited) -> str:
    """What was audited, in a line."""
    subject = found.subject
    patients = len({eye.patient for eye in subject.eyes})
    there = len(subject.there)
    images = f"{there:,} of them here" if there else "no image here, labels alone"
    if there == len(subject.eyes):
        images = "all of them here"
    return (
        f"{subject.data} ({subject.layout}): {len(subject.eyes):,} photographs of "
        f"{patients:,} patients, {images}"
    )


def shares(*named: tuple[str, SplitNumbers]) -> str:
    """A column per split: images of each grade, patients, what leaks."""
    columns = [
        [f"{prefix}{split}", *_column(numbers, split)]
        for prefix, numbers in named
        for split in numbers.counts
    ]
    names = ["grade", *(f"{grade} {name}" for grade, name in enumerate(GRADES))]
    names += ["images", "patients", "fellow eye in train"]
    return "\n".join(
        f"{name:<20}" + "".join(f"{cell:>15}" for cell in cells)
        for name, *cells in zip(names, *columns, strict=True)
    )


def _column(numbers: SplitNumbers, split: str) -> list[str]:
    counts, leak = numbers.counts[split], numbers.leak
    total = sum(counts)
    leaks = _share(leak.eyes, leak.total) if split == "test" else ""
    cells = [_share(count, total) for count in counts]
    return [*cells, f"{total:,}", f"{numbers.patients[split]:,}", leaks]


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if whole else "0"


def rules(baselines: Mapping[str, Mapping[str, Any]], prefix: str = "") -> str:
    """A line for each rule that needs no pixel."""
    columns = "".join(
        f"{name:>10}" for name in ("accuracy", "QWK", "balanced", "macro-F1")
    )
    lines = [f"{f'{prefix}test, without a pixel':<40}{columns}"]
    for rule in baselines.values():
        cells = "".join(
            f"{format_interval(rule[name], None, form):>10}"
            for name, form in _SHOWN.items()
        )
        lines.append(f"{rule['about']:<40}{cells}")
    return "\n".join(lines)


def told_finding(finding: Finding, width: int) -> str:
    """A paragraph, and a line for each example."""
    start = f"{finding.severity:<8} "
    text = " ".join(filter(None, (finding.line, finding.remedy)))
    lines = [_wrapped(f"{finding.name}: {text}", start, " " * len(start), width)]
    indent = " " * (len(start) + 2)
    lines += [_wrapped(line, indent, indent + "  ", width) for line in finding.examples]
    return "\n".join(lines)


def _wrapped(text: str, first: str, rest: str, width: int) -> str:
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    )


def compared(old: SplitNumbers, new: SplitNumbers) -> str:
    """A split and the one that is to replace it, side by side."""
    parts = [shares(("old ", old), ("new ", new))]
    for name, numbers in (("old", old), ("new", new)):
        if numbers.baselines:
            parts.append(rules(numbers.baselines, f"{name} "))
    return "\n\n".join(parts)
