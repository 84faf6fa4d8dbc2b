"""The plain way, which every other loader is measured against.

Pillow in a torch DataLoader, from shards or (through ``loaders.folder.FolderSource``)
from the files of a folder.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import traceback
from collections import deque
from collections.abc import Generator, Iterator
from functools import partial
from typing import TypeVar

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from loaders._epoch import Decoded, EpochLoader, Failure, Made, to_device
from loaders._runs import Plans
from loaders._worker_faults import hand_over_errors, worker_faults_told
from loaders.arrays import UInt8
from loaders.base import Decoding, Jpeg, LoaderConfig, Source
from loaders.cores import granted_cores
from loaders.decode import describe_failure, read_with_pillow
from loaders.errors import DataError, SampleError
from loaders.schedule import Plan, Schedule

T = TypeVar("T")


class PilLoader(EpochLoader):
    """Pillow in a torch DataLoader, whole batches per worker; see ``base.Loader``.

    ``workers`` are processes here, and 0 decodes in this one.
    """

    def __init__(self, source: Source, config: LoaderConfig) -> None:
        schedule = Schedule(source, config)
        resize = "Pillow" if schedule.resizes else None
        decoding = Decoding(f"Pillow {PIL.__version__}", "libjpeg-turbo", resize)
        super().__init__(schedule, decoding)

    def _batches(self, plans: Plans) -> Generator[Made, None, None]:
        return to_device(self._finish_all(self._decode(plans)), self.device)

    def _decode(self, plans: Iterator[Plan]) -> Generator[Decoded, None, None]:
        workers = self._config.workers
        workers = granted_cores() if workers is None else workers
        taken: deque[Plan] = deque()
        images = DataLoader(
            _PlanImages(self._source, self._schedule.shape, self._config.verify_reads),
            sampler=_Taken(plans, taken),
            batch_size=None,  # the plan is the batch
            collate_fn=_unchanged,
            num_workers=workers,
            prefetch_factor=self._config.prefetch if workers else None,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=partial(_start_worker, os.getpid()),
            generator=torch.Generator(),  # or it would draw from the global one
        )
        for decoded in worker_faults_told(_iterated(images)):
            if isinstance(decoded, Exception):
                raise decoded
            yield Decoded(taken.popleft(), *decoded)


def _iterated(images: DataLoader[ImagesOrError]) -> Iterator[ImagesOrError]:
    """Its batches; workers begin with the first that is asked for."""
    yield from images


class _Taken(Sampler[Plan]):
    """Plans for a DataLoader, which are noted down as it takes them ahead."""

    def __init__(self, plans: Iterator[Plan], taken: deque[Plan]) -> None:
        self._plans, self._taken = plans, taken

    def __iter__(self) -> Iterator[Plan]:
        for plan in self._plans:
            self._taken.append(plan)
            yield plan


def _unchanged(decoded: T) -> T:  # DataLoader types it for a list of samples
    return decoded


def _start_worker(owner: int, worker: int) -> None:
    """Leave signals to the process that takes the batches, and end when it ends.

    A signal to the whole group must not kill the workers before their owner saves.
    torch's own watch is on the parent, which is a fork server where the owner was
    forked by one, and would outlive it with its workers. Only Linux can watch another
    process; elsewhere torch's watch has to do.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    hand_over_errors()
    if hasattr(os, "pidfd_open"):
        threading.Thread(target=_end_with, args=(owner,), daemon=True).start()


def _end_with(owner: int) -> None:
    """Wait for the end of a process, and end this one; return where none may wait."""
    try:
        watched = os.pidfd_open(owner)
    except ProcessLookupError:  # it has ended already
        os._exit(1)
    except OSError:  # an old kernel or a sandbox: torch's watch is left
        return
    poll = select.poll()  # select.select fails for descriptors from 1,024 on
    poll.register(watched, select.POLLIN)
    poll.poll()
    os._exit(1)


# Images and those that failed, or what stopped it all.
ImagesOrError = tuple[torch.Tensor, list[Failure]] | Exception


class _PlanImages(Dataset[ImagesOrError]):
    """From a plan to its images, uint8[B, H, W, 3], or to the error that came up.

    An error is returned, as the DataLoader would raise it with a worker's traceback in
    its text, and keep its workers for as long as that error is kept.
    """

    def __init__(self, source: Source, shape: tuple[int, int], verify: bool) -> None:
        self._source = source
        self._shape = shape
        self._verify = verify

    def __getitem__(self, plan: Plan) -> ImagesOrError:
        try:
            return self._decode(plan)
        except (DataError, OSError) as error:  # of reading: no image's fault
            return error.with_traceback(None)
        except Exception:  # a bug; its own type may not survive the pickling
            return RuntimeError(traceback.format_exc())

    def _decode(self, plan: Plan) -> tuple[torch.Tensor, list[Failure]]:
        images = np.empty((len(plan.rows), *self._shape, 3), np.uint8)
        failures: list[Failure] = []
        read = self._source.reading(plan.rows, verify=self._verify).read
        for place, row in enumerate(plan.rows.tolist()):
            flip = (bool(plan.flips[place, 0]), bool(plan.flips[place, 1]))
            try:
                jpeg = read(place)
            except SampleError as error:
                # Without the traceback, whose frames hold the bytes.
                failures.append((place, error.with_traceback(None)))
                continue
            try:
                images[place] = decode_with_pillow(jpeg, flip, self._shape)
            except ValueError as error:
                reason = describe_failure(error, jpeg)
                failures.append((place, self._source.failure(row, reason)))
        return torch.from_numpy(images), failures


def decode_with_pillow(
    jpeg: Jpeg, flip: tuple[bool, bool], shape: tuple[int, int]
) -> UInt8:
    """Decode, resize (antialiased bilinear) and flip one image with Pillow alone.

    Returns:
        uint8[H, W, 3], RGB.

    Raises:
        ValueError: Pillow can't, or may not.
    """
    image = read_with_pillow(jpeg)
    if (image.height, image.width) != shape:
        image = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    if flip[0]:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if flip[1]:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return np.asarray(image)
