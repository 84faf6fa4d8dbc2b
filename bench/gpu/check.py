"""Measure all that only a GPU can tell, in one go and in a given time.

python scripts/gpu_check.py OUT

Each section runs on its own and has a time of its own; what is known is written after
every measurement. So a failure, a crash or a kill loses nothing else, and --continue
takes on from there.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastretina import cli
from loaders.errors import DataError

if TYPE_CHECKING:
    from bench.gpu.check_state import Identity
    from bench.gpu.scope import Event, Scope, Section, SectionResults

PROG = "python scripts/gpu_check.py"
ABOUT = f"""Measure all that only a GPU can tell, the most valuable first: whether
the tests marked gpu pass; training from end to end, eager and compiled, and whether
each phase trains what it should; how far the GPU's JPEG decoder is from Pillow; what it
makes of damaged files; how fast each loader and a training step are, and how much of
the GPU's peak that is; and what memory they take. Each section has its share of
--seconds, and what does not fit is listed by name. Writes OUT/gpu_check.md and .json
after every measurement. Without CUDA it does what it can and lists what it could not.

Example: {PROG} check && {PROG} check --continue
"""

SectionName = Literal[
    "environment",
    "tests",
    "end_to_end",
    "compiled_training",
    "compiled",
    "parity",
    "rare_kinds",
    "corrupt",
    "throughput",
    "steps",
    "memory",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``scripts/gpu_check.py``.

    Attributes:
        out: Folder of the results, and of the photographs that are drawn.
        data: Folder of graded photographs; by default 1,000 are drawn, of 512 pixels.
        shards: Shards of photographs, instead of --data.
        seconds: Time for all of it; each section has a share, and what does not fit is
            left out, the least important first.
        only: Sections to measure, besides environment; all of the time is theirs. With
            --continue, what others have measured before stays.
        continue_: Take on a check that was killed or ran out of time, in the same OUT:
            what is finished is not measured again.
        device: auto, cpu, cuda or cuda:N.
        steps: Training steps of each phase in a run from end to end, and batches in a
            loader's epoch.
        quick: Tiny sizes, to see that it works.
    """

    out: Annotated[Positional[Path], arg(metavar="OUT")]
    data: Path | None = None
    shards: Path | None = None
    seconds: float = 460.0
    only: tuple[SectionName, ...] = ()
    continue_: Annotated[FlagCreatePairsOff[bool], arg(name="continue")] = False
    device: str = "auto"
    steps: int = 200
    quick: FlagCreatePairsOff[bool] = False

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"--seconds must be above 0, got {self.seconds}")
        if self.steps < 1:
            raise ValueError(f"--steps must be at least 1, got {self.steps}")
        if self.data is not None and self.shards is not None:
            raise ValueError("--data and --shards must not both be given")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    return cli.run(command, Options, argv, prog=PROG, about=ABOUT)


def command(options: Options) -> dict[str, Any]:
    """Measure everything; returns the JSON line's content.

    Raises:
        DataError: a bound does not hold or something failed; the line is printed then,
            too. Or the photographs, the device or the state can't be used.
    """
    from bench.gpu.budget import time_shares
    from bench.gpu.check_state import load_state
    from fastretina.nn.device import choose

    begun = time.monotonic()
    deadline = begun + options.seconds
    device = str(choose(options.device, "off").device)
    identity = _identity(options, device)
    known = load_state(options.out, identity) if options.continue_ else {}
    scope = prepare(options, device, deadline)
    chosen = chosen_stages(options.only)
    record = CheckRecord(scope, identity, begun, known)
    record.save()
    shares = time_shares([one for stage in chosen for one in record.left_of(stage)])
    try:
        _measure(chosen, replace(scope, shares=shares), record)
        # What a section had no time for, in the time that others have not needed.
        _measure(chosen, scope, record)
    finally:
        shutil.rmtree(scope.out / "work", ignore_errors=True)
    summary = record.summary()
    if broken := record.broken():
        print(json.dumps(summary))
        raise DataError(f"{broken}; see {scope.out / 'gpu_check.md'}")
    return summary


def _measure(
    stages: Sequence[Sequence[Section]], scope: Scope, record: CheckRecord
) -> None:
    """Take all measurements that are not done yet.

    A process takes 10 s to start: none does for what is finished, or when the time is
    over, and what is left has only to be listed.
    """
    from bench.gpu.process import in_own_process
    from bench.gpu.scope import measure

    for stage in stages:
        left = record.left_of(stage)
        if not left:
            continue
        isolated = scope.cuda and scope.seconds_left() > 0
        run = in_own_process if isolated else measure
        for section, event in run(left, scope, record.done()):
            record.add(section, event)
        record.end(left)


def stages() -> list[list[Section]]:
    """All sections, the most important first; those of a stage share a process.

    The seconds are what an H100 with 16 cores needs for the first of a section, and for
    most of it where it is short.
    """
    from bench.gpu import (
        corrupt,
        environment,
        memory,
        pixels,
        runs,
        speed,
        steps,
        tests,
    )
    from bench.gpu.scope import Section

    return [
        [
            Section("environment", environment.plan_environment, 8),
            Section("tests", tests.plan_tests, 120),
        ],
        [
            Section("end_to_end", runs.plan_end_to_end, 95),
            Section("compiled_training", runs.plan_compiled, 70),
            Section("compiled", steps.plan_compiled, 40),
        ],
        [
            Section("parity", pixels.plan_parity, 20),
            Section("rare_kinds", pixels.plan_odd, 10),
            Section("corrupt", corrupt.plan_corrupt, 20),
            Section("throughput", speed.plan_throughput, 45),
        ],
        [Section("steps", steps.plan_steps, 40)],
        [Section("memory", memory.plan_memory, 10)],
    ]


def chosen_stages(only: Sequence[str]) -> list[list[Section]]:
    """The sections that are asked for, or all; environment whatever is asked for."""
    wanted = {"environment", *only}
    chosen = [
        [section for section in stage if not only or section.name in wanted]
        for stage in stages()
    ]
    return [stage for stage in chosen if stage]


def _identity(options: Options, device: str) -> dict[str, object]:
    """What has to be the same for results to go together."""
    source = options.shards or options.data
    return {
        "device": device,
        "machine": _machine(device),
        "photographs": str(source.resolve()) if source else "drawn",
        "steps": options.steps,
        "quick": options.quick,
    }


def _machine(device: str) -> str:
    """What tells a machine's results from another's: its GPUs, or else its name.

    As the driver lists them: asking torch would start CUDA in this process, whose
    memory would count as in use.
    """
    if not device.startswith("cuda"):
        return platform.node()
    listed = Path("/proc/driver/nvidia/gpus").glob("*/information")
    models = [line for file in listed for line in file.read_text().splitlines()]
    return ", ".join(sorted(line for line in models if line.startswith("Model")))


def prepare(options: Options, device: str, deadline: float) -> Scope:
    """Make the photographs and all that follows from them; what is there is kept.

    Raises:
        DataError: the photographs can't be used.
    """
    from bench.gpu import photographs
    from bench.gpu.scope import FULL, QUICK, Scope
    from bench.gpu.tests import TEST_PROGRESS

    sizes = QUICK if options.quick else FULL
    steps = min(options.steps, sizes.most_steps)
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    if not options.continue_:
        shutil.rmtree(out / "work", ignore_errors=True)
        (out / TEST_PROGRESS).unlink(missing_ok=True)
    made = photographs.Kept(options.continue_)
    shards = options.shards or made(
        out / "shards",
        lambda: photographs.shard_photographs(options.data, out, sizes),
    )
    images, held_out = steps * sizes.batch, 2 * sizes.batch
    long, odd = out / "work" / "long", out / "work" / "odd"
    return Scope(
        out=out,
        shards=shards,
        long=made(
            long / "shards",
            lambda: photographs.long_epoch(shards, long, images, held_out),
        ),
        odd=made(odd / "shards", lambda: photographs.odd_jpegs(shards, odd)),
        device=device,
        steps=steps,
        sizes=sizes,
        deadline=deadline,
    )


class CheckRecord:
    """The results so far, written after every event."""

    def __init__(
        self,
        scope: Scope,
        identity: Identity,
        begun: float,
        known: Mapping[str, SectionResults],
    ) -> None:
        """Nothing is written before the first event.

        Args:
            scope: what is measured.
            identity: of the check, for its state.
            begun: when it began, on the monotonic clock, s.
            known: the results of a check that is taken on, by section.
        """
        from bench.gpu.scope import SectionResults

        self._scope, self._identity, self._begun = scope, identity, begun
        self._date = time.strftime("%Y-%m-%d %H:%M:%S %z")
        self.results: dict[str, SectionResults] = {
            section.name: known.get(section.name, SectionResults())
            for stage in stages()
            for section in stage
        }
        self._last = time.monotonic()

    def done(self) -> frozenset[str]:
        """Names of the measurements that need not be taken again."""
        return frozenset().union(*(part.done for part in self.results.values()))

    def add(self, section: str, event: Event) -> None:
        """Add an event to its section, and write everything."""
        from bench.gpu.scope import Begun

        results, now = self.results[section], time.monotonic()
        results.add(event)
        results.seconds += now - self._last
        self._last = now
        if isinstance(event, Begun):
            print(f"{section}: {event.what}", file=sys.stderr)
        else:
            self.save()

    def left_of(self, stage: Iterable[Section]) -> list[Section]:
        """The sections of a stage that are not finished."""
        return [one for one in stage if not self.results[one.name].finished]

    def end(self, sections: Iterable[Section]) -> None:
        """Note that sections have been gone through to their ends."""
        for section in sections:
            self.results[section.name].planned = True
        self.save()

    def save(self) -> None:
        """Write both files, and the state for ``--continue``."""
        from bench.gpu.bounds import judge
        from bench.gpu.check_state import UnfinishedCheck
        from bench.gpu.markdown import render
        from bench.gpu.section_rows import as_json
        from loaders.files import write_atomically

        UnfinishedCheck(self._identity, self.results).save(self._scope.out)
        summary = self.summary()
        record = {
            "summary": summary,
            "environment": self._environment(),
            "bounds": [bound._asdict() for bound in judge(self.results)],
            "sections": {
                name: {
                    "seconds": round(results.seconds, 2),
                    "rows": [as_json(row) for row in results.rows],
                    "failures": [failure._asdict() for failure in results.failures],
                    "left_out": [left._asdict() for left in results.left_out],
                }
                for name, results in self.results.items()
            },
        }
        text = render(self.results, {**summary, "date": self._date})
        for name, content in (
            ("gpu_check.json", json.dumps(record, indent=1) + "\n"),
            ("gpu_check.md", text),
        ):
            write_atomically(self._scope.out / name, content, durable=False)

    def summary(self) -> dict[str, Any]:
        """The content of the JSON line."""
        from bench.gpu.bounds import judge

        states: dict[str, list[str]] = {"held": [], "NOT held": [], "not measured": []}
        for bound in judge(self.results):
            states[bound.state].append(bound.name)
        return {
            "out": str(self._scope.out),
            "device": self._scope.device,
            "seconds": round(time.monotonic() - self._begun, 1),
            "bounds_held": states["held"],
            "bounds_not_held": states["NOT held"],
            "bounds_not_measured": states["not measured"],
            "failed": [f.what for part in self.results.values() for f in part.failures],
            "left_out": sum(len(part.left_out) for part in self.results.values()),
            "out_of_time": [
                left.what
                for part in self.results.values()
                for left in part.left_out
                if left.late
            ],
        }

    def broken(self) -> str:
        """What is not as it should be, in one line; empty where all is."""
        summary = self.summary()
        bad = {"not held": summary["bounds_not_held"], "failed": summary["failed"]}
        return "; ".join(f"{what}: {', '.join(bad[what])}" for what in bad if bad[what])

    def _environment(self) -> dict[str, Any]:
        from bench.gpu.scope import SectionResults
        from bench.gpu.section_rows import Fact

        scope = self._scope
        results = self.results.get("environment", SectionResults())
        facts = {row.what: row.value for row in results.rows if isinstance(row, Fact)}
        sizes = asdict(scope.sizes)
        return {"date": self._date, **facts, "steps": scope.steps, "sizes": sizes}
