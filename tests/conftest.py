"""Small made-up photographs, in the course's layout and as shards, for every test."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import simplejpeg

if TYPE_CHECKING:
    from golden_files import Golden
    from small_runs import Outcome

# Before torch is imported, here and in what the tests start: pytest-xdist's workers
# share the cores already, and the sums are the same on every machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A thread that waits must not spin: beside another worker it would hold up the rest.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REAL_DATA = Path(
    os.environ.get(
        "FASTRETINA_REAL_DATA", Path(__file__).parents[1].parent / "shared" / "data"
    )
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Flags to write every checked-in text anew, and to run the slow tests, too."""
    about = "write the files of tests/golden as they would be now"
    parser.addoption("--update-golden", action="store_true", help=about)
    about = "run the slow tests, too, as make check does"
    parser.addoption("--slow", action="store_true", help=about)


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Skip what takes 10 seconds or more, unless asked for."""
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: make check runs it, and --slow")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


def pytest_configure() -> None:
    """Heed Ctrl-C, which whatever is started by ``make test &`` ignores."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What is imported by now is not searched for rubbish again: 0.3 s each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """End the server that forks small runs, and wait for it, if any test began one."""
    if "fork_server" in sys.modules:
        sys.modules["fork_server"].stop_server()


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the doctor has found on this machine must not choose the tests' loaders.

    Matplotlib keeps its own folder, as it lists its fonts anew in an empty one.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    patch = pytest.MonkeyPatch()
    if "MPLCONFIGDIR" not in os.environ:
        patch.setenv("MPLCONFIGDIR", str(cache / "matplotlib"))
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def few_resamples() -> Iterator[None]:
    """Intervals from 5 resamples, not 1,000: each takes 5 ms of every evaluation."""
    patch = pytest.MonkeyPatch()
    patch.setattr("fastretina.metrics.bootstrap.RESAMPLES", 5)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real photographs; the test is skipped where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real photographs at {REAL_DATA} (FASTRETINA_REAL_DATA)")
    return REAL_DATA


def photograph(seed: int, size: int = 64, quality: int = 90) -> bytes:
    """A smooth random image as a 4:2:0 JPEG."""
    rng = np.random.Generator(np.random.PCG64(seed))
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = np.kron(coarse, np.ones((size // 8, size // 8, 1), np.uint8))
    noisy = np.clip(image + rng.integers(-12, 13, image.shape), 0, 255).astype(np.uint8)
    return simplejpeg.encode_jpeg(noisy, quality=quality, colorsubsampling="420")


def course_folder(root: Path, train: int = 37, test: int = 11, size: int = 64) -> Path:
    """Write ``train`` + ``test`` photographs with the course's four CSVs; return root.

    Two in three are grade 0; eyes come in pairs of a patient, and patients keep to
    one split.
    """
    (root / "data").mkdir(parents=True)
    first = 0
    for split, count in (("train", train), ("test", test)):
        numbers = range(first, first + count)
        names = [f"{n // 2 + 10}_{('left', 'right')[n % 2]}" for n in numbers]
        grades = [n % 15 // 3 if n % 3 == 0 else 0 for n in numbers]
        for n, name in zip(numbers, names, strict=True):
            (root / "data" / f"{name}.jpeg").write_bytes(photograph(n, size))
        (root / f"{split}_img.csv").write_text("\n".join(names) + "\n")
        (root / f"{split}_label.csv").write_text("\n".join(map(str, grades)) + "\n")
        first += count + count % 2
    return root


@pytest.fixture(scope="session")
def make_course() -> Callable[..., Path]:
    return course_folder


@pytest.fixture(scope="session")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 37 + 11 photographs of 64 pixels; read-only by agreement."""
    return course_folder(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="session")
def shards(course: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as shards of 10 samples; read-only by agreement."""
    from fastretina.shard import command as shard

    folder = tmp_path_factory.mktemp("shards")
    code = shard.main(
        [str(course), str(folder), "--samples-per-shard", "10", "--workers", "1"]
    )
    assert code == 0
    return folder


@pytest.fixture
def run_shard(
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, list[str], list[str]]]:
    """Run ``scripts/shard.py`` in this process: exit code, lines of stdout, stderr."""
    from fastretina.shard import command as shard

    def run(*words: object) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        code = shard.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return run


@pytest.fixture
def reports(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run ``fastretina.report`` in this process."""
    from small_runs import call

    from fastretina.report import command as report

    def run(*flags: object) -> Outcome:
        return call(report.main, [str(flag) for flag in flags], capsys)

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 120 made-up test photographs, reported; read-only by agreement."""
    from reported_runs import made_up_run

    from fastretina.report import command as report

    folder = made_up_run(tmp_path_factory.mktemp("runs") / "made-up")
    assert report.main([str(folder)]) == 0
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, by its relative name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with a file of ``tests/golden``: its name, the text."""
    from golden_files import compare

    return partial(compare, update=request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def read_folder() -> Callable[[Path], dict[str, bytes]]:
    return contents
