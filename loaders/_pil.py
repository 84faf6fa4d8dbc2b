"""The plain way, which every other loader is measured against.

``RetinopathyDataset`` is the course report's Dataset over the image folder, made right
about header lines. ``PilLoader`` decodes with Pillow in a torch DataLoader, from shards
or (through ``FolderSource``) from such a Dataset.
"""

from __future__ import annotations

import io
import os
import select
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from loaders._epoch import Decoded, EpochLoader, Failure, Made, to_device
from loaders.arrays import UInt8
from loaders.base import Decoding, LoaderConfig, Source
from loaders.cores import granted_cores
from loaders.course import find_course_csvs, index_images, read_course_split
from loaders.errors import DataError, LabelError, SampleError
from loaders.schedule import Plan, Schedule


class RetinopathyDataset(Dataset[tuple[Any, int]]):
    """The report's Dataset: PIL image and grade, one file at a time.

    Attributes:
        img_name: image names as the CSV lists them, without extension.
        label: their grades, 0 to 4.
        paths: their files.
    """

    def __init__(
        self,
        root: str | Path,
        mode: Literal["train", "test"],
        transform: Callable[[Image.Image], Any] | None = None,
    ) -> None:
        """Read the course's CSV files, which lie in ``root`` or beside it.

        Args:
            root: the folder with the images.
            mode: ``train`` or ``test``.
            transform: applied to the RGB image; ``None`` returns the image itself.

        Raises:
            LabelError: the lists are missing, malformed, or name a missing image.
        """
        self.root = Path(root)
        folder = find_course_csvs(self.root)
        if folder is None:
            raise LabelError(
                f"no {mode}_img.csv and {mode}_label.csv in {root} or beside it"
            )
        self.img_name, self.label = read_course_split(folder, mode)
        self.mode = mode
        self.transform = transform
        files = index_images(self.root)
        missing = [name for name in self.img_name if name not in files]
        if missing:
            raise LabelError(
                f"{len(missing):,} of {len(self.img_name):,} images listed in "
                f"{folder / f'{mode}_img.csv'} are missing from {root}: "
                + ", ".join(missing[:3])
            )
        self.paths = [files[name] for name in self.img_name]

    def __len__(self) -> int:
        return len(self.img_name)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.open(self.paths[index]).convert("RGB")
        return (self.transform(image) if self.transform else image), self.label[index]


class FolderSource:
    """A ``RetinopathyDataset`` as a loader's source: one shard, in the CSV's order."""

    def __init__(self, dataset: RetinopathyDataset) -> None:
        self._dataset = dataset
        self.labels = np.asarray(dataset.label, np.int64)
        self.rows = np.arange(len(dataset))

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """The number of images in the folder, which counts as one shard."""
        return (len(self.rows),)

    @cached_property
    def dimensions(self) -> tuple[tuple[int, int], ...]:
        """The distinct (height, width): opens every file once, 0.1 ms each."""
        return tuple(sorted({self._size_of(row) for row in self.rows.tolist()}))

    def _size_of(self, row: int) -> tuple[int, int]:
        try:
            with Image.open(self._dataset.paths[row]) as image:
                return image.height, image.width
        except (OSError, SyntaxError) as error:
            raise self.failure(row, str(error)) from error

    def read(self, row: int) -> bytes:
        """The bytes of a row's file."""
        return self._dataset.paths[row].read_bytes()

    def key(self, row: int) -> str:
        """The image's name."""
        return self._dataset.img_name[row]

    def failure(self, row: int, reason: str) -> SampleError:
        """The error that names the file of a row."""
        return SampleError(str(self._dataset.paths[row]), self.key(row), reason)

    def close(self) -> None:
        """Do nothing, as no file is held open."""


class PilLoader(EpochLoader):
    """Pillow in a torch DataLoader, whole batches per worker; see ``base.Loader``.

    ``workers`` are processes here, and 0 decodes in this one.
    """

    def __init__(self, source: Source, config: LoaderConfig) -> None:
        schedule = Schedule(source, config)
        resize = "Pillow" if schedule.resizes else None
        decoding = Decoding(f"Pillow {PIL.__version__}", "libjpeg-turbo", resize)
        super().__init__(schedule, decoding)

    def _batches(self, number: int, first_batch: int) -> Generator[Made, None, None]:
        plans = self._schedule.plans(number, first_batch)
        return to_device(self._finish_all(self._decode(plans)), self.device)

    def _decode(self, plans: Iterator[Plan]) -> Generator[Decoded, None, None]:
        listed = list(plans)
        workers = self._config.workers
        workers = granted_cores() if workers is None else workers
        images = DataLoader(
            _PlanImages(self._source, self._schedule.shape),
            sampler=listed,
            batch_size=None,  # the plan is the batch
            collate_fn=_unchanged,
            num_workers=workers,
            prefetch_factor=self._config.prefetch if workers else None,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=partial(_start_worker, os.getpid()),
            generator=torch.Generator(),  # or it would draw from the global one
        )
        for plan, decoded in zip(listed, images, strict=True):
            if isinstance(decoded, Exception):
                raise decoded
            yield Decoded(plan, *decoded)


def _unchanged(decoded: Any) -> Any:  # DataLoader types it for a list of samples
    return decoded


def _start_worker(owner: int, worker: int) -> None:
    """Leave signals to the process that takes the batches, and end when it ends.

    A signal to the whole group must not kill the workers before their owner saves.
    torch's own watch is on the parent, which is a fork server where the owner was
    forked by one, and would outlive it with its workers.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "pidfd_open"):  # elsewhere the parent is the owner
        threading.Thread(target=_end_with, args=(owner,), daemon=True).start()


def _end_with(owner: int) -> None:
    with suppress(ProcessLookupError):  # it has ended already
        select.select([os.pidfd_open(owner)], [], [])
    os._exit(1)


# Images and those that failed, or what stopped it all.
ImagesOrError = tuple[torch.Tensor, list[Failure]] | Exception


class _PlanImages(Dataset[ImagesOrError]):
    """From a plan to its images, uint8[B, H, W, 3], or to the error that came up.

    An error is returned, as the DataLoader would raise it with a worker's traceback in
    its text, and keep its workers for as long as that error is kept.
    """

    def __init__(self, source: Source, shape: tuple[int, int]) -> None:
        self._source = source
        self._shape = shape

    def __getitem__(self, plan: Plan) -> ImagesOrError:
        images = np.empty((len(plan.rows), *self._shape, 3), np.uint8)
        failures: list[Failure] = []
        for place, row in enumerate(plan.rows.tolist()):
            flip = (bool(plan.flips[place, 0]), bool(plan.flips[place, 1]))
            try:
                images[place] = decode(self._source.read(row), flip, self._shape)
            except SampleError as error:
                failures.append((place, error))
            except DataError as error:
                return error
            except (ValueError, OSError, SyntaxError) as error:  # Pillow's
                failures.append((place, self._source.failure(row, str(error))))
            except Exception:  # a bug; its own type may not survive the pickling
                return RuntimeError(traceback.format_exc())
        return torch.from_numpy(images), failures


def decode(
    jpeg: memoryview | bytes, flip: tuple[bool, bool], shape: tuple[int, int]
) -> UInt8:
    """Decode, resize (antialiased bilinear) and flip one image with Pillow alone.

    Returns:
        uint8[H, W, 3], RGB.
    """
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    if (image.height, image.width) != shape:
        image = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    if flip[0]:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if flip[1]:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return np.asarray(image)
