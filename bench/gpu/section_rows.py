"""What is measured: a record for each row of a section, and what the JSON has of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fastretina.measure.rounds import FinishLine, Rate
    from fastretina.measure.steps import Case
    from fastretina.recipe import Phase


class Fact(NamedTuple):
    """Something of the machine, as it is printed."""

    what: str
    value: object


class DecoderSetting(NamedTuple):
    """A loader, and how its decoder is set.

    Attributes:
        decoder: the setting's name in the tables.
        loader: name of the loader.
        device: the device that its batches lie on.
        fancy: whether chroma is upsampled as libjpeg-turbo does; ``None`` where the
            host decodes.
        hw_decoder_load: share of the images that a GPU's JPEG engine decodes; ``None``
            where the host does.
    """

    decoder: str
    loader: str
    device: str
    fancy: bool | None
    hw_decoder_load: float | None


class DifferencesRow(NamedTuple):
    """Differences of many images to Pillow's, of 255 grey levels.

    Attributes:
        images: number of images compared.
        images_exact: share of the images that are equal in every value.
        values_exact: share of the values that are equal.
        values_above_2: share of the values that differ by more than 2.
        mean: mean difference of all values.
        worst_mean: the largest mean difference of an image.
        max: the largest difference of a value.
        worst_key: key of the image with the largest difference.
    """

    images: int
    images_exact: float
    values_exact: float
    values_above_2: float
    mean: float
    worst_mean: float
    max: int
    worst_key: str


class ParityRow(NamedTuple):
    """How far photographs are from Pillow's under a decoder.

    Attributes:
        setting: the decoder.
        differences: the differences to Pillow.
        batches_by_host: number of batches that the host decoded, as DALI failed.
    """

    setting: DecoderSetting
    differences: DifferencesRow
    batches_by_host: int


class KindDifference(NamedTuple):
    """How far a JPEG of a rare kind is from Pillow's.

    Attributes:
        mean: mean difference of its values, of 255.
        max: the largest difference of a value, of 255.
        by_host: whether the host decoded it, as DALI failed.
    """

    mean: float
    max: int
    by_host: bool


class RareKindsRow(NamedTuple):
    """How far JPEGs of rare kinds are from Pillow's under a decoder, kind by kind."""

    setting: DecoderSetting
    kinds: Mapping[str, KindDifference]


class DamagedFileRow(NamedTuple):
    """What became of a damaged file, and of the good ones around it.

    Attributes:
        file: what was done to the file.
        loader: name of the loader, and its device.
        outcome: what an epoch makes of the file that does not skip.
        skipped: number of images left out by an epoch that skips.
        rest: how many of the others came, in words.
        rest_mean: the largest mean difference of one of the others to Pillow, of 255.
        rest_max: the largest difference of one of their values, of 255.
        rest_good: whether all others came, as they should be.
        next_epoch: how many images the epoch after the failure had, in words.
        next_epoch_good: whether all came then, as they should be.
        batches_by_host: number of batches that the host decoded, as DALI failed.
    """

    file: str
    loader: str
    outcome: str
    skipped: int
    rest: str
    rest_mean: float
    rest_max: int
    rest_good: bool
    next_epoch: str
    next_epoch_good: bool
    batches_by_host: int


class ThroughputRow(NamedTuple):
    """How fast a loader is to a finish line.

    Attributes:
        line: the finish line.
        loader: the loader's name in the tables.
        rate: speed over the epochs, images/s.
        images_per_round: number of images in an epoch.
        ceiling_images_per_second: median speed of libjpeg-turbo alone, images/s.
        share_of_ceiling: median of the rounds' own shares.
        batch_size: images in a batch.
        cores: number of cores granted.
    """

    line: FinishLine
    loader: str
    rate: Rate
    images_per_round: int
    ceiling_images_per_second: float
    share_of_ceiling: float
    batch_size: int
    cores: int


class FailedLoaderRow(NamedTuple):
    """A loader that failed on its way to a finish line, while others went on.

    Attributes:
        line: the finish line.
        loader: the loader's name in the tables.
        error: the exception in one line.
        batch_size: images in a batch.
        cores: number of cores granted.
    """

    line: FinishLine
    loader: str
    error: str
    batch_size: int
    cores: int


class LoaderMemoryRow(NamedTuple):
    """What a loader takes of a GPU's memory, bytes.

    Attributes:
        loader: the loader's name in the tables.
        before_bytes: in use on the device before the loader was opened.
        largest_bytes: in use in the largest reading.
        after_bytes: in use once the loader was closed.
        taken_bytes: the largest reading less what was in use before.
        torch_peak_bytes: the most that torch's allocator had given out.
    """

    loader: str
    before_bytes: int
    largest_bytes: int
    after_bytes: int
    taken_bytes: int
    torch_peak_bytes: int


class StepRow(NamedTuple):
    """How long a training step takes.

    Attributes:
        case: the kind of step.
        ms: the median step, ms.
        fastest_ms: the fastest step, ms.
        slowest_ms: the slowest step, ms.
        steps: number of steps timed.
        images_per_second: speed of the median step, images/s.
        peak_bytes: the most that torch's allocator had given out; ``None`` on a CPU.
        warmup_seconds: time before the first timed step, s.
        flop_per_image: floating-point operations of the step's convolutions and matrix
            products for an image.
        share_of_peak: what the step does of these in a second, as a share of what the
            device can at most in that precision; ``None`` where that is not known.
        tf32_convolutions: whether convolutions in float32 use TF32.
        tf32_products: whether matrix products in float32 use TF32.
    """

    case: Case
    ms: float
    fastest_ms: float
    slowest_ms: float
    steps: int
    images_per_second: float
    peak_bytes: int | None
    warmup_seconds: float
    flop_per_image: float
    share_of_peak: float | None
    tf32_convolutions: bool
    tf32_products: bool


class TrainedPhaseRow(NamedTuple):
    """A phase of a run from end to end; its first epoch has all that is slow at first.

    Attributes:
        loader: name of the loader.
        device: the device trained on.
        precision: of the forward pass.
        compiled: whether the network was compiled.
        phase: ``head`` or ``full``.
        batch_size: images in a batch.
        epochs: number of epochs of the phase.
        images_per_second: speed of the phase's last epoch, images/s.
        wait_fraction: share of its last epoch spent waiting for the loader.
        first_seconds: time that its first epoch took, s.
        first_wait_seconds: time that its first epoch waited for the loader, s.
        trained_parameters: number of parameters that the phase trains.
        changed_parameters: number that it has changed; ``None`` where the trainer does
            not say.
        torch_peak_bytes: the most that torch's allocator had given out in the run;
            ``None`` on a CPU.
        largest_bytes: the most in use on the device in the run; ``None`` on a CPU.
    """

    loader: str
    device: str
    precision: str
    compiled: bool
    phase: Phase
    batch_size: int
    epochs: int
    images_per_second: float
    wait_fraction: float
    first_seconds: float
    first_wait_seconds: float
    trained_parameters: int
    changed_parameters: int | None
    torch_peak_bytes: int | None
    largest_bytes: int | None


class MarkedTestsRow(NamedTuple):
    """How the tests marked ``gpu`` ended.

    Attributes:
        passed: number of tests that passed.
        failed: number of tests that failed or broke off.
        skipped: number of tests that were skipped.
        not_run: names of the tests that no time was left for.
        limit_seconds: time that pytest had, s.
        failures: pytest's line for each test that failed.
        last_lines: the end of pytest's output.
    """

    passed: int
    failed: int
    skipped: int
    not_run: list[str]
    limit_seconds: float
    failures: list[str]
    last_lines: list[str]


SectionRow = (
    Fact
    | ParityRow
    | RareKindsRow
    | DamagedFileRow
    | ThroughputRow
    | FailedLoaderRow
    | LoaderMemoryRow
    | StepRow
    | TrainedPhaseRow
    | MarkedTestsRow
)


def as_json(row: SectionRow) -> dict[str, object]:
    """The row's values by name; those of a record within it stand beside its own."""
    values: dict[str, object] = {}
    for name, value in row._asdict().items():
        if isinstance(value, Mapping):
            values |= {key: part._asdict() for key, part in value.items()}
        elif hasattr(value, "_asdict"):
            values |= value._asdict()
        else:
            values[name] = value
    return values
