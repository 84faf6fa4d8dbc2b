"""The JSON of a run of the benchmarks: one row for each entrant at a finish line."""

from __future__ import annotations

from typing import TypedDict


class Setup(TypedDict, total=False):
    """How an entrant was set up.

    Attributes:
        flips: what its own operations flip: ``both``, ``left-right`` or ``none``.
        stores: the format that it reads, in words.
        batch_size: images in a batch.
        workers: number of threads or processes.
        loader: name of our loader whose workers and batch size are varied.
        case: the kind of training step, in words.
        decoder: name of the JPEG decoder.
        resize: whether the decoder also resizes.
        threads: number of threads that decode, or of the ceiling beside it.
    """

    flips: str
    stores: str
    batch_size: int
    workers: int
    loader: str
    case: str
    decoder: str
    resize: bool
    threads: int


class _Measured(TypedDict):
    """What every row holds.

    Attributes:
        line: the finish line.
        entrant: the entrant's name.
        kind: ``ours``, ``report``, ``peer`` or ``ceiling``.
        pixels: how the images compare with the reference, in words.
        images_per_second: median speed of the rounds, images/s.
        slowest: speed of the slowest round, images/s.
        fastest: speed of the fastest round, images/s.
        rounds: number of rounds that were timed.
        cpu_ms_per_image: processor time of the process tree for an image, ms.
    """

    line: str
    entrant: str
    kind: str
    pixels: str
    images_per_second: float
    slowest: float
    fastest: float
    rounds: int
    cpu_ms_per_image: float


class EntrantRow(_Measured, Setup, total=False):
    """An entrant's figures at a finish line.

    Attributes:
        images_per_round: number of images in the first round.
        first_batch_seconds: time from opening to the first batch, with everything
            imported, s.
        peak_bytes: most memory of the process tree (PSS).
        ceiling_images_per_second: median ceiling of the same rounds, images/s.
        share_of_ceiling: median of the rounds' own shares.
        shares: share of the ceiling, round by round.
        pause_ms: median wait of a consumer between two epochs, ms.
        longest_pause_ms: the longest of these waits, ms.
        wait_ms: what it waits within an epoch, for a quarter of the batches at least,
            ms.
        cold_images_per_second: speed of a round with nothing in the page cache,
            images/s.
        cold_first_batch_seconds: time from opening to the first batch in that round, s.
    """

    images_per_round: int
    first_batch_seconds: float | None
    peak_bytes: int | None
    ceiling_images_per_second: float
    share_of_ceiling: float
    shares: list[float]
    pause_ms: float
    longest_pause_ms: float
    wait_ms: float
    cold_images_per_second: float
    cold_first_batch_seconds: float


class Stats(TypedDict, total=False):
    """The seconds of each round, as pytest-benchmark has them."""

    data: list[float]


class BenchmarkEntry(TypedDict):
    """An entrant at a finish line, as pytest-benchmark writes it."""

    group: str
    name: str
    stats: Stats
    extra_info: EntrantRow


class MachineInfo(TypedDict):
    """The machine that it ran on: what is listed, and its value."""

    card: dict[str, object]


class CommitInfo(TypedDict, total=False):
    """The commit that ran.

    Attributes:
        id: its hash.
        dirty: whether there were changes that it does not hold.
        skipped: the entrants that did not run, with the reason.
        older: of merged runs, the finish lines that another one measured, with its
            date and commit in words.
    """

    id: str
    dirty: bool
    skipped: dict[str, str]
    older: dict[str, str]


class BenchmarkRun(TypedDict):
    """pytest-benchmark's JSON, as far as it is read here."""

    datetime: str
    machine_info: MachineInfo
    commit_info: CommitInfo
    benchmarks: list[BenchmarkEntry]


def describe_date(run: BenchmarkRun) -> str:
    """When it was measured, to the minute."""
    return run["datetime"][:16].replace("T", " ")


def describe_commit(run: BenchmarkRun) -> str:
    """The commit that was measured, and whether that was all."""
    commit = run["commit_info"]
    dirty = ", with changes that it does not hold" if commit.get("dirty") else ""
    return f"{commit.get('id', 'unknown')[:12]}{dirty}"


def rows_of(run: BenchmarkRun) -> list[EntrantRow]:
    """What was measured of each entrant, in order."""
    return [
        entry["extra_info"]
        for entry in run["benchmarks"]
        if "line" in entry["extra_info"]
    ]
