"""From numbers to findings: how bad it is, in plain words, and what to do about it.

Nothing here looks at anything: the same numbers give the same findings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from fastretina.audit.duplicates import KINDS, DuplicateGroup
from fastretina.audit.survey import AuditResult
from fastretina.formatting import format_count, format_interval
from fastretina.metrics.fellow_agreement import describe_chance_agreement
from loaders.grades import GRADES

# fault: scores or labels can't be trusted. warning: mind it. note: good to know.
Severity = Literal["fault", "warning", "note", "ok"]
_SEVERITIES = get_args(Severity)

_UNLIKELY = 0.01
_NAMED = 10  # of the examples; --out has them all
_MEMBERS = 4  # of a group's images
_BY = {"bytes": "identical bytes", "pixels": "identical pixels", "look": "look"}


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        severity: how bad it is.
        name: what was looked at, in two or three words.
        line: what was found, in a sentence.
        remedy: what to do about it; empty where nothing is to be done.
        examples: a line for each of the first ten cases.
    """

    severity: Severity
    name: str
    line: str
    remedy: str = ""
    examples: tuple[str, ...] = ()


def list_findings(result: AuditResult) -> list[Finding]:
    """Judge all that an audit has measured; the worst findings come first."""
    findings = [
        _fellow_eyes(result),
        *_patients(result),
        *_duplicates(result),
        *_grades(result),
        *_must_beat(result),
        *_left_and_right(result),
        *_header(result),
        *_coverage(result),
        *_decoded(result),
    ]
    return sorted(findings, key=lambda finding: _SEVERITIES.index(finding.severity))


def _fellow_eyes(result: AuditResult) -> Finding:
    name, leak = "fellow eyes", result.numbers.leak
    if leak.eyes:
        return Finding(
            "fault",
            name,
            f"{leak.eyes:,} of {leak.total:,} test images ({leak.share:.1%}) are of "
            "patients whose other eye is in train, so a score is partly memory.",
            "--fix OUT writes a split by patient.",
        )
    if not any(eye.known for eye in result.data_set.eyes):
        return Finding(
            "warning",
            name,
            f"No patient can be identified from {result.data_set.patients}, so "
            "whether one is in both splits is unknown.",
            _identify(result),
        )
    some = any(result.numbers.unknown.values())
    far = ", as far as patients are known" if some else ""
    if not result.data_set.own_split:
        return Finding(
            "ok",
            name,
            "The labels have no test split. The one that sharding makes, which is "
            f"shown here, holds out whole patients{far}.",
        )
    return Finding("ok", name, f"No test image's fellow eye is in train{far}.")


def _patients(result: AuditResult) -> Iterator[Finding]:
    unknown = [eye for eye in result.data_set.eyes if not eye.known]
    if 0 < len(unknown) < len(result.data_set.eyes):
        yield Finding(
            "warning",
            "patients",
            f"The patients of {len(unknown):,} of {len(result.data_set.eyes):,} "
            f"photographs can't be identified from {result.data_set.patients}: "
            f"{_names(eye.name for eye in unknown)}.",
            _identify(result),
        )


def _identify(result: AuditResult) -> str:
    again = "Shard again: " if result.data_set.layout == "shards" else ""
    return (
        f"{again}--patient-column NAME (of the label file) or --patient-pattern REGEX "
        "(for the image names) says who is whose."
    )


def _duplicates(result: AuditResult) -> Iterator[Finding]:
    if result.duplicates is None:
        return
    groups, across = result.duplicates.groups, result.across
    if across:
        yield Finding(
            "fault",
            "in both splits",
            f"{_are(len(across), 'photograph')} in train and in test, as "
            f"{format_count(len(result.leaking), 'test image')} ({_kinds(across)}).",
            "--fix OUT writes a split that keeps all copies on one side.",
            _examples(result, across),
        )
    if result.conflicting:
        yield Finding(
            "fault",
            "several grades",
            f"{_have(len(result.conflicting), 'photograph')} more than one "
            f"grade ({_kinds(result.conflicting)}).",
            "Have them graded again, or leave them out.",
            _examples(result, result.conflicting),
        )
    faulty = {group.places for group in (*across, *result.conflicting)}
    rest = [group for group in groups if group.places not in faulty]
    if rest:
        yield Finding(
            "warning",
            "duplicates",
            f"{_are(len(rest), 'photograph')} more than once in a split, with the "
            f"same grade ({_kinds(rest)}).",
            "They count as often as they are there; leave the copies out.",
            _examples(result, rest),
        )
    if not groups:
        number = len(result.data_set.there) - len(result.unreadable)
        yield Finding("ok", "duplicates", f"None among {number:,} images.")


def _kinds(groups: Sequence[DuplicateGroup]) -> str:
    counts = Counter(group.kind for group in groups)
    return ", ".join(f"{counts[k]:,} by {_BY[k]}" for k in KINDS if counts[k])


def _examples(result: AuditResult, groups: Sequence[DuplicateGroup]) -> tuple[str, ...]:
    examples = [_example(result, group) for group in groups[:_NAMED]]
    if len(groups) > _NAMED:
        examples.append(f"and {len(groups) - _NAMED:,} more; --out FILE names all")
    return tuple(examples)


def _example(result: AuditResult, group: DuplicateGroup) -> str:
    eyes = result.eyes(group)
    names = [f"{eye.name} ({eye.split}, grade {eye.grade})" for eye in eyes[:_MEMBERS]]
    if len(eyes) > _MEMBERS:
        names.append(f"{len(eyes) - _MEMBERS:,} more")
    how = [_BY[group.kind]]
    if group.kind == "look":
        turned = sorted({link.how for link in group.links} - {"", "as it is"})
        least = min(link.agreement for link in group.links)
        how = [*turned, f"agreement {least:.2f}"]
    if len({eye.patient for eye in eyes}) == 1 < len({eye.side for eye in eyes}):
        how.append("one eye filed as both")
    return f"{' = '.join(names)}: {', '.join(how)}"


def _grades(result: AuditResult) -> Iterator[Finding]:
    images = result.numbers.images
    for split, counts in result.numbers.counts.items():
        absent = [f"{g} {GRADES[g]}" for g, count in enumerate(counts) if not count]
        if not images[split]:
            yield Finding("warning", "grades", f"The {split} split is empty.")
        elif absent:
            names = ", ".join(absent)
            yield Finding("warning", "grades", f"No {split} image has grade {names}.")
    differ = result.numbers.difference
    if differ is None:
        return
    roughly = ", roughly, as some counts are small" if differ.few else ""
    gap = (
        f"{differ.largest * 100:.1f} points at most (grade {differ.grade}); "
        f"chi-squared {differ.statistic:.1f}, {differ.degrees} degrees of freedom, "
        f"p = {differ.p:.2g}{roughly}."
    )
    if differ.p < _UNLIKELY:
        yield Finding(
            "warning",
            "grades",
            f"Train and test differ in the shares of the grades, by {gap}",
            "Accuracy on this test split says little of the shares in train; compare "
            "QWK and balanced accuracy.",
        )
    else:
        yield Finding(
            "ok",
            "grades",
            "Train and test differ in the shares of the grades by no more than chance: "
            f"{gap}",
        )


def _must_beat(result: AuditResult) -> Iterator[Finding]:
    best = result.must_beat
    if best is not None:
        yield Finding(
            "note",
            "to beat",
            f"Labels alone score {best.accuracy:.1%} accuracy, QWK "
            f"{format_interval(best.qwk, None, '.3f')}, "
            f"{best.balanced_accuracy:.1%} balanced accuracy on "
            "this test split. "
            "A network that scores less has not shown that it looks at the images.",
        )


def _left_and_right(result: AuditResult) -> Iterator[Finding]:
    pairs = result.fellows
    if pairs is not None:
        yield Finding(
            "note",
            "left and right",
            f"The two eyes have the same grade in {pairs.same / pairs.pairs:.1%} of "
            f"{format_count(pairs.pairs, 'pair')}, and are within one grade in "
            f"{pairs.near / pairs.pairs:.1%} (QWK "
            f"{format_interval(pairs.qwk, None, '.3f')}).",
        )
    for split, (found, first) in result.chance_agreements().items():
        yield Finding(
            "warning",
            "left and right",
            f"In {split}, {describe_chance_agreement(found, first.name)}.",
            "Compare some photographs with their grades.",
        )


def _header(result: AuditResult) -> Iterator[Finding]:
    for files in result.files:
        pair = f"{files.split}_img.csv and {files.split}_label.csv"
        if files.shifted:
            one = "label" if files.image_header else "img"
            yield Finding(
                "fault",
                "header",
                f"{files.split}_{one}.csv has no header line and its counterpart has: "
                "a reader that treats them alike pairs every image with its "
                "neighbour's grade. (Here they are paired rightly.)",
                "Give both a header, or neither.",
            )
        elif not files.image_header:
            yield Finding(
                "warning",
                "header",
                f"{pair} have no header line. A reader that assumes one, as "
                f"pandas.read_csv does, finds {files.rows_read:,} samples and not "
                f"{files.rows:,}: it loses {files.first} (grade {files.grade}).",
                "Read them with header=None.",
            )
        else:
            yield Finding("ok", "header", f"{pair} have a header line.")
    if not result.files and result.data_set.layout in ("kaggle", "aptos"):
        yield Finding("ok", "header", "The label file has a header line.")


def _coverage(result: AuditResult) -> Iterator[Finding]:
    """Images that are not here, not listed, or were set aside: the names alone."""
    data_set, missing = result.data_set, result.data_set.missing
    if result.duplicates is None:
        why = "were not looked at" if data_set.there else "are not here"
        yield Finding(
            "note", "images", f"The images {why}, so duplicates are not looked for."
        )
    if missing:
        yield Finding(
            "warning",
            "images",
            f"{_are(len(missing), 'listed image')} missing: {_names(missing)}.",
            "fastretina shard --allow-missing goes on without them.",
        )
    for each in data_set.left_out:
        yield Finding("warning", "left out", _sentence(each.describe(data_set.data)))
    if data_set.set_aside:
        yield Finding(
            "note",
            "set aside",
            f"{_are(data_set.set_aside, 'image')} quarantined by sharding.",
            "manifest.json names them, with reasons.",
        )


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _decoded(result: AuditResult) -> Iterator[Finding]:
    """Images that were looked at, and show nothing or can't be decoded."""
    data_set = result.data_set
    if result.unreadable:
        named = [
            f"{data_set.eyes[place].name}: {why}"
            for place, why in list(result.unreadable.items())[:_NAMED]
        ]
        yield Finding(
            "warning",
            "unreadable",
            f"{format_count(len(result.unreadable), 'image')} can't be decoded.",
            "Sharding sets them aside.",
            tuple(named),
        )
    if result.duplicates and (blank := result.duplicates.blank):
        yield Finding(
            "warning",
            "blank",
            f"{_have(len(blank), 'image')} next to nothing on it: "
            f"{_names(data_set.eyes[place].name for place in blank)}.",
            "Look whether it can have been graded.",
        )


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    more = f", and {len(listed) - _NAMED:,} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


def _are(number: int, what: str) -> str:
    return f"{format_count(number, what)} {'is' if number == 1 else 'are'}"


def _have(number: int, what: str) -> str:
    return f"{format_count(number, what)} {'has' if number == 1 else 'have'}"
