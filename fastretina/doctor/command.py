"""Tell what limits training on this machine, and which loader to take.

fastretina doctor --shards shards --arch resnet18
"""

from __future__ import annotations

import math
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from fastretina import cli
from fastretina.doctor.deadline import Deadline
from fastretina.outputs import ask_for_file
from fastretina.progress import report_progress
from fastretina.recipe import STRONG, Arch
from fastretina.wall_clock import part

if TYPE_CHECKING:
    from fastretina.doctor.advice import Advice
    from fastretina.doctor.measurements import Measurements
    from fastretina.doctor.sample import ExaminedShards
    from fastretina.measure.forecast import Forecast
    from fastretina.nn.device import Compute

PROG = "fastretina doctor"
ABOUT = f"""Measure every stage that an image goes through, from the disk to the trained
network, in about a minute; then say which stage limits, how much there is to win, which
loader, workers, prefetch and batch size to use, whether the images should be stored
differently, and how long training takes. Checks the installation, too. What it finds
fastest is what --loader auto takes on this machine from then on.

Example: {PROG} --shards shards --arch resnet18
"""

_SHARDS = "shards"
_ENDING = 2.0  # seconds that judging, matplotlib's import and the chart take
_OVER, _SPLIT = 1.1, 2.0  # times --seconds, and seconds, within which it is kept to


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``fastretina doctor``.

    Attributes:
        shards: The data set to train on. Without one, the installation is checked and a
            training step is timed on made-up images.
        arch: The network.
        image_size: Resize to this many pixels square while loading.
        batch_size: Images per step.
        amp: Mixed precision: auto takes bf16 where the device has it, fp16 on older
            GPUs.
        device: auto, cpu, cuda, cuda:N or mps.
        seconds: Seconds that all of it takes, a few more where single steps are slow.
            What there is no time for is left out, and named.
        out: The chart.
    """

    shards: Annotated[
        Path | None,
        arg(metavar="PATH", help_behavior_hint="(default: shards, where it is)"),
    ] = None
    arch: Arch = "resnet18"
    image_size: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: as they are)")
    ] = None
    batch_size: int = STRONG.batch_size
    amp: Literal["auto", "bf16", "fp16", "off"] = "auto"
    device: str = "auto"
    seconds: float = 60.0
    out: Annotated[Path, arg(metavar="PNG")] = Path("doctor.png")

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 64:
            raise ValueError(f"--image-size must be at least 64, got {self.image_size}")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, got {self.batch_size}")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"--seconds must be above 0, got {self.seconds}")
        if self.out.suffix != ".png":
            raise ValueError(f"--out must end in .png, got {self.out}")
        if not self.out.parent.is_dir():
            raise ValueError(f"--out must lie in a folder that exists, got {self.out}")
        if str(self.shards).startswith(("http:", "https:")):
            raise ValueError(
                f"--shards must be a folder on this machine, got {self.shards}"
            )


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    return cli.run(command, Options, argv, prog=prog, about=ABOUT)


def command(options: Options) -> dict[str, object]:
    """Measure, judge, draw, remember; returns what the JSON line holds.

    Raises:
        DataError: the shards or the device can't be used, or the chart not written.
    """
    ask_for_file(options.out)
    with part("imports"):
        from fastretina.doctor import examination_text
        from fastretina.doctor.installation import inspect, look_if_busy
        from fastretina.nn.device import choose

    begun = time.perf_counter()
    ending = min(_ENDING, 0.5 * options.seconds)
    deadline = Deadline.after(options.seconds - ending)
    with part("start"):
        compute = choose(options.device, options.amp)
    with part("data"):
        shards = _shards(options)
    with part("start"):
        machine, before = examination_text.describe_machine(compute), look_if_busy()
        checks = inspect(before)
    columns = shutil.get_terminal_size().columns
    print(
        f"{machine}\n\n{examination_text.format_checks(checks, columns)}\n", flush=True
    )
    with part("evaluation"):
        measurements = _measure(options, compute, shards, deadline)
    quiet = before.state == look_if_busy().state == "ok"
    result = {
        "shards": None if shards is None else str(shards.folder),
        "machine": machine,
        "installation": {check.name: check[1:] for check in checks},
        **_judge(measurements, options.out, machine, keep=quiet),
    }
    seconds = time.perf_counter() - begun
    _note_if_late(seconds, options.seconds)
    return {**result, "seconds": round(seconds, 1)}


def _note_if_late(seconds: float, asked: float) -> None:
    """Say on stderr why it has taken longer than it was to."""
    if seconds > _OVER * asked + _SPLIT:
        print(
            f"note: it took {seconds:.0f} s, not {asked:.3g}: the least of each stage "
            "takes that long here",
            file=sys.stderr,
        )


def _shards(options: Options) -> ExaminedShards | None:
    """The data set; None where none was named and there is none.

    Raises:
        NoShards: what was named is none.
    """
    from fastretina.doctor.sample import open_examined

    if options.shards is None and not Path(_SHARDS).exists():
        print(
            "note: no data set in ./shards, so loading is not measured: make one with "
            "'fastretina shard data/ shards/', or pass --shards",
            file=sys.stderr,
        )
        return None
    return open_examined(options.shards or Path(_SHARDS), options.image_size)


def _measure(
    options: Options,
    compute: Compute,
    shards: ExaminedShards | None,
    deadline: Deadline,
) -> Measurements:
    """Measure every stage, on this data set or on made-up images."""
    from fastretina.doctor.examination import Examination, examine

    examination = Examination(
        shards=shards,
        arch=options.arch,
        compute=compute,
        image_size=options.image_size,
        batch_size=options.batch_size,
        deadline=deadline,
        progress=_print_progress,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # of broken metadata
        return examine(examination)


def _judge(
    measurements: Measurements, out: Path, machine: str, *, keep: bool
) -> dict[str, object]:
    """Print and draw what limits and what to use; returns its part of the JSON line."""
    from fastretina.doctor import bottleneck
    from fastretina.doctor.advice import advise
    from fastretina.doctor.contradictions import contradictions

    recipe = replace(STRONG, arch=measurements.arch, batch_size=measurements.batch_size)
    advice = advise(measurements)
    contradictory = contradictions(measurements)
    forecast = None if contradictory else measurements.forecast(recipe)
    _show(measurements, advice, forecast)
    _draw(measurements, out, machine)
    phases = tuple(measurements.training.step)
    return {
        **measurements.summary(),
        "contradictions": [one.summary() for one in contradictory],
        "limits": {phase: bottleneck.limit(measurements, phase) for phase in phases},
        "to_win": {
            phase: None if times is None else round(times, 3)
            for phase in phases
            for times in [bottleneck.to_win(measurements, phase)]
        },
        "advice": advice.summary() if advice else None,
        "forecast": forecast.summary() if forecast else None,
        "figure": str(out),
        "remembered": _remember(measurements, advice, keep=keep and not contradictory),
    }


def _show(
    measurements: Measurements, advice: Advice | None, forecast: Forecast | None
) -> None:
    """Print the bars, the sentences and the flags to use."""
    from fastretina.doctor import examination_text
    from fastretina.doctor.chart import bars

    columns = shutil.get_terminal_size().columns
    print(f"{bars(measurements.stages(), columns, examination_text.block())}\n")
    print(examination_text.format_measurements(measurements, advice, forecast, columns))
    if advice is not None:
        print(f"\nUse: {advice.flags}")


@part("figures")
def _draw(measurements: Measurements, out: Path, machine: str) -> None:
    """Write the chart as a PNG and name it."""
    from fastretina.doctor.bottleneck import headline
    from fastretina.doctor.chart import draw
    from fastretina.doctor.examination_text import describe_work

    caption = f"{describe_work(measurements)}\n{machine}"
    draw(out, measurements.stages(), headline(measurements), caption)
    print(f"Chart: {out}")


def _remember(
    measurements: Measurements, advice: Advice | None, *, keep: bool
) -> str | None:
    """Keep the best loader for ``--loader auto``; returns the file."""
    from fastretina.data.auto_loader import Choice, remember

    if advice is None or measurements.data is None:
        return None
    if not keep:
        print("Not kept for --loader auto, as something else was running.")
        return None
    choice = Choice(
        loader=advice.loader,
        workers=advice.workers,
        images_per_second=round(advice.images_per_second, 1),
        pixels=max(measurements.data.shape),
        hw_decoder_load=advice.hw_decoder_load,
    )
    try:
        path = remember(measurements.device, choice)
    except OSError as error:
        reason = cli.describe_os_error(error)
        print(f"note: not kept for --loader auto: {reason}", file=sys.stderr)
        return None
    if path is None:
        return None
    print(f"Kept for --loader auto: {advice.loader}, in {path}")
    return str(path)


def _print_progress(stage: str) -> None:
    report_progress(f"measuring: {stage}")
