"""What else the numbers say: how the images are stored, the memory, what is absent.

Nothing here measures: the same measurements give the same sentences.
"""

from __future__ import annotations

from fastretina.doctor.bottleneck import limit
from fastretina.doctor.measurements import CLEARLY_FASTER, Measurements
from fastretina.doctor.storage import Change
from fastretina.formatting import format_gib
from fastretina.recipe import PHASES


def storage_notes(measurements: Measurements) -> list[str]:
    """Whether the images should be stored differently; empty without a data set."""
    data = measurements.data
    if data is None:
        return []
    changes = data.storage.changes
    sentences = [_change_sentence(change, data.shape) for change in changes]
    if data.resized_to and not data.asked:
        sentences.append(
            f"The images have {data.sizes} different sizes, so training needs "
            f"--image-size; measured with {data.resized_to}. Resized once, by "
            f"fastretina shard --size {data.resized_to}, they load faster."
        )
    if not sentences:
        return ["The images are stored well: baseline JPEGs of the size that is used."]
    if changes and all(limit(measurements, phase) == "step" for phase in PHASES):
        sentences.append("As the step limits, none of that would be noticed here.")
    return sentences


def memory_notes(measurements: Measurements) -> list[str]:
    """What training takes of the machine's memory, and of the GPU's."""
    training, wanted = measurements.training, measurements.batch_size
    peak = f"Memory: {format_gib(training.memory.peak)}"
    peak += f" with batches of {training.batch}"
    if training.batch < wanted and not training.out_of_memory:
        peak += f", at most about {format_gib(peak_at(measurements))} with {wanted}"
    peak += f", of {format_gib(measurements.memory_granted)}."
    used = training.memory.gpu
    if used is None:
        return [peak, "GPU memory: not measured, as there is no GPU in use."]
    total = format_gib(training.memory.gpu_total or 0)
    return [peak, f"GPU memory: {format_gib(used)} of {total}, beside CUDA's own."]


def absent_loader_notes(measurements: Measurements) -> list[str]:
    """A sentence for each speed that is missing, with the reason."""
    absent = measurements.not_measured.items()
    return [f"Not measured: {words} ({reason})." for words, reason in absent]


def peak_at(measurements: Measurements) -> float:
    """Bytes at the batch size that was asked for, if all but imports grew with it."""
    memory = measurements.training.memory
    grows = max(memory.peak - memory.before, 0)
    return memory.before + grows * measurements.batch_size / measurements.training.batch


def _change_sentence(change: Change, shape: tuple[int, int]) -> str:
    name, share, times = change
    faster = f"they would decode {times:.1f} times as fast (measured)"
    if times < CLEARLY_FASTER:
        faster = f"which costs next to nothing here ({times:.2f} times as fast without)"
    height, width = shape
    size = f"--size {height}" if height == width else "--size"
    return {
        "baseline": f"{share:.0%} of the images are progressive JPEGs: as baseline, "
        f"which jpegtran makes of them without loss, {faster}.",
        "4:2:0": f"{share:.0%} of the images are stored with full chroma (4:4:4): as "
        f"4:2:0, {faster}; that loses colour detail.",
        "smaller": f"{share:.0%} of the images have at least twice the pixels of the "
        f"{width} x {height} that are used: stored at that size "
        f"(fastretina shard {size}), {faster}.",
    }[name]
