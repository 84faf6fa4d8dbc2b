"""What the benchmarks share: the images, the races, and how they are reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.data import BenchData, prepare
from bench.race import Entrant, EntrantResult, Rules, race
from bench.replay import clock
from bench.tables import summary
from fastretina.measure import machine
from fastretina.measure.ceilings import decode_only
from loaders.cores import granted_cores
from loaders.shards import MANIFEST

_IMAGES, _ROUNDS = 512, 5
_FULL_IMAGES, _FULL_ROUNDS = 2048, 9
_SMALL_IMAGES, _SMALL_ROUNDS = 40, 1


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastretina")
    group.addoption(
        "--shards",
        type=Path,
        help="shards to benchmark on; by default demo photographs, drawn once",
    )
    group.addoption(
        "--full",
        action="store_true",
        help=f"{_FULL_ROUNDS} rounds of up to {_FULL_IMAGES:,} images instead of "
        f"{_ROUNDS} of {_IMAGES}, and other numbers of workers and batch sizes, too",
    )
    group.addoption(
        "--small",
        action="store_true",
        help="only show that it all runs: no figure of it means anything",
    )
    group.addoption("--images", type=int, help="images in a round, instead of these")
    group.addoption("--rounds", type=int, help="rounds, instead of these")
    group.addoption(
        "--no-peers", action="store_true", help="leave out the loaders of others"
    )


def pytest_configure(config: pytest.Config) -> None:
    if not getattr(config.option, "benchmark_only", False):
        return
    shards = config.getoption("shards")
    if shards is not None and not (shards / MANIFEST).exists():
        raise pytest.UsageError(
            f"--shards: {shards} holds no data set; scripts/shard.py makes one"
        )
    for name, least in (("images", _SMALL_IMAGES), ("rounds", 1)):
        value = config.getoption(name)
        if value is not None and value < least:
            raise pytest.UsageError(f"--{name} must be at least {least}, got {value}")
    if config.option.benchmark_json is None:  # for bench.report
        path = Path(config.rootpath) / ".benchmarks" / "latest.json"
        path.parent.mkdir(exist_ok=True)
        config.option.benchmark_json = str(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # a race is run in the set-up of its first entrant
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(0))


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    import torch

    cache = Path(config.cache.mkdir("fastretina"))  # type: ignore[union-attr]
    card = machine.host_facts().summary() | machine.disk_facts(cache).summary()
    if torch.cuda.is_available():
        card |= machine.gpu_facts(torch.device("cuda")).summary()
    else:
        card["GPU"] = "none"
    machine_info["card"] = card | machine.package_facts().summary()


def pytest_benchmark_generate_json(
    config: pytest.Config,
    benchmarks: list[Any],
    include_data: bool,
    machine_info: dict[str, Any],
    commit_info: dict[str, Any],
) -> None:
    commit_info["skipped"] = _skipped


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    file = getattr(config.option, "benchmark_json", None)
    if file is None or not Path(file).exists():
        return
    try:
        told = json.loads(Path(file).read_text())
    except ValueError:  # no benchmark has run
        return
    terminalreporter.section("images/s, beside the ceiling of the same round")
    terminalreporter.write(summary(told))
    terminalreporter.write(f"\npython -m bench.report {file}  # table, plots\n")


_skipped: dict[str, str] = {}  # names of entrants, with the reason


@pytest.fixture(scope="session")
def photographs(pytestconfig: pytest.Config) -> Path:
    """A course-format folder of demo photographs of 512 pixels, drawn once."""
    from fastretina.demo import command as demo

    assert pytestconfig.cache is not None
    folder = Path(pytestconfig.cache.mkdir("fastretina")) / "photographs"
    assert demo.main([str(folder), "--images", "650"]) == 0
    return folder


@pytest.fixture(scope="session")
def shards(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Path:
    """The shards to take images from."""
    given: Path | None = pytestconfig.getoption("shards")
    if given is not None:
        return given
    from fastretina.shard import command as shard

    photographs: Path = request.getfixturevalue("photographs")
    folder = photographs.parent / "shards"
    assert shard.main([str(photographs), str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def data(pytestconfig: pytest.Config, shards: Path) -> BenchData:
    """The images, laid out for all entrants."""
    sizes = (_SMALL_IMAGES, _IMAGES, _FULL_IMAGES)
    images = pytestconfig.getoption("images") or _chosen(pytestconfig, sizes)
    assert pytestconfig.cache is not None
    return prepare(shards, images, Path(pytestconfig.cache.mkdir("fastretina")))


@pytest.fixture(scope="session")
def jpegs(data: BenchData) -> list[bytes]:
    """The bytes of all images, in memory."""
    return [file.read_bytes() for file in data.files]


@pytest.fixture(scope="session")
def decode_ceiling(jpegs: list[bytes]) -> Callable[[Entrant], float]:
    """Images/s of libjpeg-turbo alone on all granted cores, measured anew each time."""
    return lambda _: decode_only(jpegs, granted_cores())


@pytest.fixture(scope="session")
def rounds(pytestconfig: pytest.Config) -> int:
    numbers = (_SMALL_ROUNDS, _ROUNDS, _FULL_ROUNDS)
    return pytestconfig.getoption("rounds") or _chosen(pytestconfig, numbers)


def _chosen(config: pytest.Config, values: tuple[int, int, int]) -> int:
    small, usual, full = values
    if config.getoption("small"):
        return small
    return full if config.getoption("full") else usual


@pytest.fixture(scope="module")
def run_race(
    request: pytest.FixtureRequest,
    pytestconfig: pytest.Config,
    rounds: int,
    data: BenchData,
) -> Any:
    """``race`` with the rules of this session, for those that ``-k`` has left.

    What is going on is told.
    """
    names = {
        item.callspec.params["name"]  # type: ignore[attr-defined]
        for item in request.session.items
        if item.getparent(pytest.Module) is request.node
    }
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")

    def tell(text: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.write(f"\n  {text}")

    def run(entrants: Sequence[Entrant], **rules: Any) -> dict[str, EntrantResult]:
        with_defaults = {"rounds": rounds, "logs": data.logs, "tell": tell} | rules
        chosen = [
            entrant
            for entrant in entrants
            if entrant.name in names | {with_defaults.get("ceiling_of")}
        ]
        outcomes = race(chosen, Rules(**with_defaults))
        return {outcome.entrant.name: outcome for outcome in outcomes}

    return run


@pytest.fixture
def report(benchmark: Any) -> Callable[[str, dict[str, EntrantResult], str], None]:
    """Hand an entrant's laps of a race to pytest-benchmark, or skip with its reason."""

    def hand_over(line: str, outcomes: dict[str, EntrantResult], name: str) -> None:
        if name not in outcomes:
            pytest.skip("left out")
        outcome = outcomes[name]
        if not outcome.laps or outcome.error:
            _skipped[f"{line}: {name}"] = outcome.error
            if outcome.entrant.kind != "peer" and "not installed" not in outcome.error:
                pytest.fail(f"{name}: {outcome.error}")
            pytest.skip(f"{name}: {outcome.error}")
        benchmark.group = line
        benchmark.extra_info.update(line=line, entrant=name, **outcome.facts())
        clock.hand_over(benchmark, [lap.seconds for lap in outcome.laps])

    return hand_over
