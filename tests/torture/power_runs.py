"""The commands whose power is cut, and what may be there when it is back."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from conftest import course_folder

from torture.campaign import Fault
from torture.disk import Content

_HERE = Path(__file__).parents[1]


class WatchedRun(Protocol):
    """A command that writes below a folder.

    Attributes:
        name: of what it writes.
        in_place: paths that are written in place, as they are checked or appended to.
        seldom: of so many states that the command is run again on, one is.
    """

    name: str
    in_place: re.Pattern[str]
    seldom: int

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        """Make what there is before, and return the words of the command."""

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        """Read what there is as its readers do.

        Raises:
            Fault: it is neither the old nor the new, nor unfinished.
        """

    def again(self, shared: Path, disk: Path, scratch: Path, whole: Content) -> None:
        """Run the same command once more.

        Raises:
            Fault: it fails, or ends with something else than undisturbed.
        """


def environment() -> dict[str, str]:
    """Of the commands: our code, and one thread, for the same sums."""
    paths = os.pathsep.join([str(_HERE.parent), str(_HERE)])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def quietly(main: Callable[[Sequence[str]], int], *words: object) -> None:
    """Run a command here.

    Raises:
        Fault: its exit code is not 0.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    if code:
        raise Fault(f"the same command ends with {code}: {err.getvalue().strip()}")


def compare(disk: Path, whole: Content, leave_out: str = "$^") -> None:
    """Make sure that a folder holds what an undisturbed run has left, and no more.

    Raises:
        Fault: it doesn't.
    """
    from torture.disk import content_of, read_disk

    now = content_of(read_disk(disk))
    for path in sorted(set(now) | set(whole)):
        if not re.fullmatch(leave_out, path) and now.get(path, b"") != whole.get(
            path, b""
        ):
            word = "is left" if path not in whole else "is not as undisturbed"
            raise Fault(f"the same command ran again, and {path} {word}")


class Sharding:
    """Shards, their index and their manifest, in a new folder."""

    name = "shards"
    # What markers say is compared with the shards.
    in_place = re.compile(r"out/\.progress/(lock|.*\.tar\.json)")
    seldom = 4
    more: tuple[str, ...] = ("--samples-per-shard", "10")

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        course = course_folder(shared / "course", 37, 11)
        return [sys.executable, "-m", "fastretina.shard", *self._words(course, disk)]

    def _words(self, course: Path, disk: Path) -> list[str]:
        return [str(course), str(disk / "out"), "--workers", "1", *self.more]

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        manifest = content.get("out/manifest.json")
        self._read(disk / "out", manifest is not None)
        if manifest is None:
            return
        for path, data in self._set_of(manifest, whole).items():
            if (
                path.startswith("out/")
                and data is not None
                and content.get(path) != data
            ):
                raise Fault(f"the manifest is there, and {path} is not of its set")

    def _set_of(self, manifest: bytes, whole: Content) -> Content:
        assert manifest == whole["out/manifest.json"]
        return {path: data for path, data in whole.items() if "/." not in path}

    def _read(self, out: Path, there: bool) -> None:
        from loaders.errors import ShardError
        from loaders.shards import open_split

        for split in ("train", "test"):
            try:
                with open_split(out, split) as opened:
                    for row in range(len(opened)):
                        opened.read(row)
            except ShardError as error:
                if there:
                    raise Fault(f"a finished set can't be read: {error}") from error
            else:
                if not there:
                    raise Fault("shards without a manifest were opened")

    def again(self, shared: Path, disk: Path, scratch: Path, whole: Content) -> None:
        from fastretina.shard.command import main

        quietly(main, *self._words(shared / "course", disk))
        compare(disk, whole, r"out/\.progress.*" if "out/.progress" in whole else "$^")


class Resharding(Sharding):
    """Other shards in place of those that are there."""

    name = "shards in place of others"
    in_place = re.compile(
        r"out/\.progress/(replacement/\.progress/)?(lock|.*\.tar\.json)"
    )
    more = ("--samples-per-shard", "13", "--seed", "5", "--overwrite")
    _old: Content

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        from fastretina.shard.command import main
        from torture.disk import content_of, read_disk

        words = super().prepare(shared, disk)
        quietly(main, shared / "course", disk / "out", "--samples-per-shard", 10)
        self._old = content_of(read_disk(disk))
        return words

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        if "out/manifest.json" not in content:
            raise Fault("neither the old set nor the new is there")
        super().check(disk, content, whole)

    def _set_of(self, manifest: bytes, whole: Content) -> Content:
        if manifest == self._old["out/manifest.json"]:
            return self._old
        return super()._set_of(manifest, whole)


_MOVING_ONE_BY_ONE = """
import sys
from fastretina.shard import command, replacing
def refuse(one, other):
    raise OSError("a mount point")
replacing.exchange_names = refuse
sys.exit(command.main(sys.argv[1:]))
"""


class Moving(Resharding):
    """The same where folders can't be exchanged: then files are moved one by one."""

    name = "shards in place of others, one by one"

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        words = super().prepare(shared, disk)[3:]
        return [sys.executable, "-c", _MOVING_ONE_BY_ONE, *words]

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        Sharding.check(self, disk, content, whole)


_CACHING = """
import sys
from torture.power_runs import read_through_cache
read_through_cache(sys.argv[1], sys.argv[2], 10)
read_through_cache(sys.argv[1], sys.argv[2], 37)
"""
_IMAGE = 64 * 64 * 3


def read_through_cache(shards: str, cache: str, room: int) -> list[Any]:
    """Two epochs' images, with room for so many of them in a folder."""
    from loaders import LoaderConfig, make_loader

    room_gb = room * _IMAGE / 1e9
    config = LoaderConfig(batch_size=8, workers=1, cache=cache, cache_gb=room_gb)
    with make_loader("turbo", shards, "train", config) as loader:
        return [
            batch.images.numpy().copy() for n in (0, 1) for batch in loader.epoch(n)
        ]


class Caching:
    """Decoded images, kept in a folder that has room for some, then for all."""

    name = "decoded images"
    in_place = re.compile(r"cache/.*")  # images count by their checksums alone
    seldom = 1 << 30  # what is checked is that very command already
    _shards: str
    _images: list[Any]

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        from fastretina.shard.command import main

        course, shards = course_folder(shared / "course", 37, 11), shared / "shards"
        quietly(main, course, shards, "--workers", 1)
        self._shards = str(shards)
        self._images = read_through_cache(self._shards, str(shared / "other"), 37)
        return [sys.executable, "-c", _CACHING, self._shards, str(disk / "cache")]

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        images = read_through_cache(self._shards, str(disk / "cache"), 37)
        if not all(map(np.array_equal, images, self._images)):
            raise Fault("the folder for decoded images gives other pixels")

    def again(self, shared: Path, disk: Path, scratch: Path, whole: Content) -> None:
        pass


class Splitting:
    """A new split of the audit's, in place of another."""

    name = "splits"
    in_place = re.compile("$^")
    seldom = 4
    _old: Mapping[str, bytes | None]

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        from fastretina.audit.command import main
        from torture.disk import content_of, read_disk

        course = course_folder(shared / "course", 37, 11)
        self._write_old(main, course, disk)
        self._old = content_of(read_disk(disk))
        words = [*self._words(course, disk), "--seed", "1"]
        return [sys.executable, "-m", "fastretina.audit", *words]

    def _write_old(self, main: Any, course: Path, disk: Path) -> None:
        quietly(main, *self._words(course, disk))

    def _words(self, course: Path, disk: Path) -> list[str]:
        return [str(course), "--no-images", "--fix", str(disk / "fixed")]

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        from loaders.course import COURSE_FILES

        names = [f"fixed/{name}" for name in (*COURSE_FILES, "data", "split.json")]
        if not all(f"fixed/{name}" in content for name in COURSE_FILES):
            return  # nobody takes it for a split
        if all(content.get(name) == whole[name] for name in names):
            return
        if self._old and all(content.get(name) == self._old[name] for name in names):
            return
        raise Fault("the four CSVs are there, of two splits")

    def again(self, shared: Path, disk: Path, scratch: Path, whole: Content) -> None:
        from fastretina.audit.command import main

        quietly(main, *self._words(shared / "course", disk), "--seed", "1")
        compare(disk, whole, "fixed/data")  # which is relative to where it lies


class FirstSplitting(Splitting):
    """A new split of the audit's, in a new folder."""

    name = "first splits"

    def _write_old(self, main: Any, course: Path, disk: Path) -> None:
        pass


class Drawing:
    """Photographs of the demo and their labels, in place of others."""

    name = "drawn photographs"
    in_place = re.compile("$^")
    seldom = 16

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        from fastretina.demo.command import main

        quietly(main, *self._words(disk), "--seed", "3")
        return [
            sys.executable,
            "-m",
            "fastretina.demo",
            *self._words(disk),
            "--overwrite",
        ]

    def _words(self, disk: Path) -> list[str]:
        flags = ["--images", "12", "--image-size", "64", "--workers", "1"]
        return [str(disk / "demo"), *flags]

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        labels = [path for path in whole if path.endswith(".csv")]
        if all(content.get(path) == whole[path] for path in labels):
            for path, data in whole.items():
                if content.get(path) != data:
                    raise Fault(f"the labels are there, and {path} is not of their set")

    def again(self, shared: Path, disk: Path, scratch: Path, whole: Content) -> None:
        from fastretina.demo.command import main

        quietly(main, *self._words(disk), "--overwrite")
        compare(disk, whole)
