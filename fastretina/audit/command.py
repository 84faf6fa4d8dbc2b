"""Audit a data set before anything is learned from it, and split it anew.

fastretina audit data/ --fix fixed/
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastretina import cli
from fastretina.data.label_flags import (
    LabelsFlag,
    LayoutFlag,
    PatientColumnFlag,
    PatientPatternFlag,
)
from fastretina.data.layout_names import TEST_SHARE
from fastretina.data.patient_names import PatientSource, patient_source
from fastretina.outputs import ask_for_file, ask_for_folder
from fastretina.wall_clock import part, with_wall_seconds

if TYPE_CHECKING:
    from fastretina.audit.findings import Finding
    from fastretina.audit.survey import AuditResult
    from fastretina.data.labels import LabelOptions

PROG = "fastretina audit"
ABOUT = f"""Find what makes a score worth little: fellow eyes and copies of photographs
in both splits, photographs with several grades, labels that lose their first line, and
what can be scored without a pixel. Label files are enough; images are looked at where
they are there. --fix writes a split that doesn't leak.

Example: {PROG} data --fix fixed
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``fastretina audit``.

    Attributes:
        data: Folder with the labels, and with the photographs if there are any; or a
            folder of shards.
        layout: How the labels are kept.
        labels: The file with the grades, where more than one could be meant.
        patient_column: Column of the label file that names each photograph's patient.
        patient_pattern: Regular expression that finds the patient in an image's name,
            in brackets: IM([0-9]+) finds 7 in IM7-2. Groups that are named,
            (?P<patient>...) and (?P<eye>...), find the eye, too.
        images: Look at the images, where they are there, for duplicates.
        fix: Write a split to this folder that keeps the eyes of a patient and the
            copies of a photograph on one side, stratified by grade: the course's four
            CSVs and a link to the photographs, as fastretina shard takes them.
        test_share: Share to test on, in the split of --fix, and where the labels have
            no test split.
        seed: Seed of the split of --fix, and of the one that sharding makes where the
            labels have none.
        out: Write all that was found, with every name, to this JSON file.
        strict: Exit with 1 if the split leaks or a photograph has several grades.
        workers: Threads that look at images.
    """

    data: Annotated[Positional[Path], arg(metavar="DATA")]
    layout: LayoutFlag = None
    labels: LabelsFlag = None
    patient_column: PatientColumnFlag = None
    patient_pattern: PatientPatternFlag = None
    images: bool = True
    fix: Annotated[
        Path | None, arg(metavar="OUT", help_behavior_hint="(default: none)")
    ] = None
    test_share: Annotated[
        float | None,
        arg(
            metavar="FLOAT",
            help_behavior_hint=f"(default: as it is, else {TEST_SHARE})",
        ),
    ] = None
    seed: int = 0
    out: Annotated[
        Path | None, arg(metavar="JSON", help_behavior_hint="(default: none)")
    ] = None
    strict: FlagCreatePairsOff[bool] = False
    workers: Annotated[
        int | None,
        arg(metavar="INT", help_behavior_hint="(default: all cores granted)"),
    ] = None

    def __post_init__(self) -> None:
        if self.test_share is not None and not 0 < self.test_share < 1:
            got = self.test_share
            raise ValueError(f"--test-share must lie between 0 and 1, got {got}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed must be 0 to 2^63 - 1, got {self.seed}")
        if self.workers is not None and not 1 <= self.workers <= 1024:
            raise ValueError(f"--workers must be 1 to 1,024, got {self.workers:,}")
        if self.out is not None and not self.out.parent.is_dir():
            raise ValueError(f"--out must lie in a folder that exists, got {self.out}")
        if self.fix is not None and _lies_in(self.fix, self.data):
            raise ValueError(f"--fix must lie outside DATA, got {self.fix}")
        self.patients  # noqa: B018 (which refuses a bad pattern)

    @property
    def patients(self) -> PatientSource:
        """Where the patients are told."""
        return patient_source(self.patient_column, self.patient_pattern)


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    return cli.run(command, Options, argv, prog=prog, about=ABOUT)


def command(options: Options) -> dict[str, object]:
    """Audit, print the report, and split anew; returns what the JSON line holds.

    Raises:
        AuditError: --fix can't be done; or, with --strict, something is wrong, and the
            report and the JSON line are printed already.
        DataError: DATA is no data set.
        OSError: a file can't be written.
    """
    if options.out is not None:
        ask_for_file(options.out)
    if options.fix is not None:
        ask_for_folder(options.fix, "--fix")
    with part("imports"):
        from fastretina.audit.audit_report import format_report
        from fastretina.audit.audited_data_set import AuditError, open_data_set
        from fastretina.audit.findings import list_findings
        from fastretina.audit.split_writer import refuse_to_write
        from fastretina.audit.survey import audit_data_set
        from loaders.cores import granted_cores

    started = time.perf_counter()
    images = options.images or options.fix is not None  # a split links to them
    with ExitStack() as stack:
        with part("data"):
            opened = open_data_set(options.data, _reading(options), images=images)
            data_set = stack.enter_context(opened)
        for warning in data_set.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if options.fix is not None:
            refuse_to_write(options.fix, data_set)
        workers = options.workers or granted_cores()
        with part("evaluation"):
            result = audit_data_set(data_set, look=options.images, workers=workers)
        findings = list_findings(result)
        print(format_report(result, findings, shutil.get_terminal_size().columns))
        summary = {
            **result.summary(),
            "findings": {one.name: one.severity for one in reversed(findings)},
            "fix": _fix(result, options.fix, options) if options.fix else None,
            "seconds": round(time.perf_counter() - started, 3),
        }
        if options.out is not None:
            _write_details(options.out, summary, result, findings)
        complaint = result.complaint()
    if options.strict and complaint:
        print(json.dumps(with_wall_seconds(summary)))
        raise AuditError(complaint)
    return summary


def _reading(options: Options) -> LabelOptions:
    """How DATA's labels are to be read."""
    from fastretina.data.labels import LabelOptions

    return LabelOptions(
        layout=options.layout,
        labels=options.labels,
        patients=options.patients,
        test_share=options.test_share or TEST_SHARE,
        seed=options.seed,
    )


def _write_details(
    out: Path,
    summary: dict[str, object],
    result: AuditResult,
    findings: Sequence[Finding],
) -> None:
    """Write what the JSON line holds, with every finding in full and every name."""
    from loaders.files import write_atomically

    everything = {
        **summary,
        "findings": [finding._asdict() for finding in findings],
        **result.details(),
    }
    write_atomically(out, json.dumps(everything, indent=1) + "\n")


@part("data")
def _fix(result: AuditResult, out: Path, options: Options) -> dict[str, object]:
    """Write a new split and report it; returns its part of the JSON line."""
    from fastretina.audit.audit_report import format_comparison
    from fastretina.audit.fix import inseparable, new_split
    from fastretina.audit.split_counts import split_numbers
    from fastretina.audit.split_writer import SplitNote, write_split

    data_set, old = result.data_set, result.numbers.images
    groups = result.duplicates.groups if result.duplicates else []
    own = old["test"] / sum(old.values()) if data_set.own_split else TEST_SHARE
    share = options.test_share or (own if 0 < own < 1 else TEST_SHARE)
    eyes = new_split(data_set.eyes, groups, share, options.seed)
    numbers = split_numbers(eyes)
    note = SplitNote(
        source_layout=data_set.layout,
        seed=options.seed,
        test_share=share,
        images=numbers.images,
        kept_together=len(set(inseparable(data_set.eyes, groups))),
        looked_for_copies=result.duplicates is not None,
    )
    write_split(out, data_set, eyes, note)
    print(f"\n{format_comparison(result.numbers, numbers)}\n\n{_where(result, out)}")
    return {"out": str(out), **asdict(note), **numbers.summary()}


def _where(result: AuditResult, out: Path) -> str:
    """Say what was written, and what it is good for."""
    data_set = result.data_set
    lines = [f"Written in {out}: the four CSVs of the course's layout"]
    if data_set.layout != "course":
        lines[0] += ", the only one that carries a split"
    next_step = f"fastretina shard {out} shards"
    if data_set.paths:
        lines[0] += f", and {out / 'data'}, a link to the photographs"
        lines.append(f"Next: {next_step}")
    else:
        lines.append(
            f"Put the photographs, or a link to their folder, at {out / 'data'}; then: "
            f"{next_step}"
        )
    if result.duplicates is None:
        lines.append("Copies of a photograph were not looked for: no image was seen.")
    return ".\n".join(lines)


def _lies_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
