"""What `import loaders` promises: names, cost, and the texts of its refusals."""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import loaders
from loaders import LoaderConfig, available, make_loader, resolve
from loaders._pil import PilLoader
from loaders._turbo import TurboLoader
from loaders.errors import DataError, LoaderError, LoaderUnavailable, NoShards

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "loaders").glob("*.py"))


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_all_agrees_with_the_namespace():
    assert len(set(loaders.__all__)) == len(loaders.__all__)
    from_here = {
        name
        for name, value in vars(loaders).items()
        if not name.startswith("_")
        and (name in loaders.__all__ or getattr(value, "__module__", "") == "loaders")
    }
    assert from_here == set(loaders.__all__)


def test_import_brings_no_heavy_package():
    heavy = {"torch", "PIL", "cv2", "pyarrow", "simplejpeg", "webdataset", "fastretina"}
    code = "import loaders, loaders.shards, loaders.order, sys; print(*sys.modules)"
    assert not heavy & set(run(code).split())
    code = (
        "import loaders, loaders.schedule, sys; "
        "loaders.LoaderConfig(device='auto'); print(*sys.modules)"
    )
    assert "torch" not in run(code).split()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_lower_layer_imports_nothing_from_the_upper(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            imported.add(node.module)
    assert not {name for name in imported if name.partition(".")[0] == "fastretina"}


def test_every_registered_loader_has_a_module_of_this_package():
    for module, *_ in loaders.LOADERS.values():
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


def test_available_lists_the_loaders_that_always_work():
    found = available()
    assert found == [name for name in loaders.LOADERS if name in found]
    assert {"pil", "turbo"} <= set(found)


@pytest.mark.parametrize("name", ["", "Turbo", "tensorflow"])
def test_unknown_loader_lists_the_names(shards, name):
    with pytest.raises(ValueError, match="loader must be one of") as caught:
        make_loader(name, shards, "train", LoaderConfig())
    names = ", ".join(["auto", *loaders.LOADERS])
    assert str(caught.value) == f"loader must be one of {names}, got {name!r}"


@pytest.mark.parametrize(
    ("extra", "hint"),
    [("dali", ": pip install 'fastretina[dali]'"), (None, "")],
)
def test_missing_package_names_the_command_that_brings_it(
    tmp_path, monkeypatch, extra, hint
):
    (tmp_path / "needy.py").write_text("import surely_absent.part\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        loaders, "LOADERS", {"needy": loaders.LoaderEntry("needy", "Needy", extra)}
    )
    with pytest.raises(LoaderUnavailable) as caught:
        make_loader("needy", tmp_path, "train", LoaderConfig())
    wanted = "loader 'needy' needs surely_absent, which is not installed"
    assert str(caught.value) == wanted + hint
    assert isinstance(caught.value, LoaderError)
    assert available() == []


def test_package_that_cannot_be_loaded_says_why_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(
        "raise ImportError('no libneedy.so\\nat all')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = loaders.LoaderEntry("broken", "Broken", "dali")
    monkeypatch.setattr(loaders, "LOADERS", {"broken": entry})
    assert (
        loaders.missing("broken") == "loader 'broken' can't be loaded: no libneedy.so"
    )


def test_missing_module_of_our_own_is_no_missing_package(tmp_path, monkeypatch):
    entry = loaders.LoaderEntry("loaders._absent", "Absent", "dali")
    monkeypatch.setattr(loaders, "LOADERS", {"absent": entry})
    with pytest.raises(ModuleNotFoundError, match="_absent"):
        make_loader("absent", tmp_path, "train", LoaderConfig())


def test_make_loader_gives_the_loader_of_that_name(shards):
    for name, cls in (("pil", PilLoader), ("turbo", TurboLoader)):
        with make_loader(name, shards, "train", LoaderConfig()) as loader:
            assert type(loader) is cls


def test_auto_is_one_of_the_available_loaders(shards):
    assert resolve("auto") in available()
    assert resolve("pil") == "pil"
    assert resolve("pil", "auto") == "pil"
    with make_loader("auto", shards, "test", LoaderConfig()) as loader:
        assert type(loader).__name__.lower() == f"{resolve('auto')}loader"
        assert sum(len(batch.index) for batch in loader.epoch(0)) == 11


def test_auto_loader_on_an_auto_device_is_the_one_for_it(monkeypatch):
    monkeypatch.setattr(loaders, "missing", lambda name: None)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for gpu, name in ((True, "dali"), (False, "turbo")):
        monkeypatch.setattr("torch.cuda.is_available", lambda gpu=gpu: gpu)
        monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
        assert resolve("auto", "auto") == name


def test_make_loader_takes_path_string_and_open_split(shards):
    with loaders.open_split(shards, "test") as split:
        for source in (shards, str(shards), split):
            with make_loader("turbo", source, "test", LoaderConfig()) as loader:
                assert len(next(loader.epoch(0)).index) == 11


def test_make_loader_without_shards_names_the_way_out(tmp_path):
    with pytest.raises(NoShards, match=r"fastretina shard") as caught:
        make_loader("auto", tmp_path, "train", LoaderConfig())
    assert isinstance(caught.value, DataError)


IMPOSSIBLE = [
    ({"batch_size": 0}, "batch size must be at least 1, got 0"),
    ({"batch_size": -4}, "batch size must be at least 1, got -4"),
    ({"hflip": 1.1}, "hflip must lie in 0 to 1, got 1.1"),
    ({"vflip": -0.1}, "vflip must lie in 0 to 1, got -0.1"),
    ({"hflip": float("nan")}, "hflip must lie in 0 to 1, got nan"),
    ({"balance": 2, "shuffle": True}, "balance must lie in 0 to 1, got 2"),
    ({"balance_decay": 1.5}, "balance decay must lie in 0 to 1, got 1.5"),
    ({"window": 0}, "window must be at least 1, got 0"),
    ({"image_size": 7}, "image size must be at least 8, got 7"),
    ({"workers": -1}, "workers must be at least 0, got -1"),
    ({"prefetch": 0}, "prefetch must be at least 1, got 0"),
    ({"on_corrupt": "warn"}, "on corrupt must be raise or skip, got warn"),
    ({"device": "gpu"}, "device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
    ({"hw_decoder_load": 1.5}, "hw decoder load must lie in 0 to 1, got 1.5"),
    ({"cache": ""}, "cache must be device, memory or a folder, got ''"),
    ({"cache_gb": 0}, "cache gb must be above 0, got 0"),
    ({"world_size": 0}, "world size must be at least 1, got 0"),
    ({"rank": 1}, "rank must lie in 0 to 0, got 1"),
    ({"rank": -1, "world_size": 2}, "rank must lie in 0 to 1, got -1"),
    ({"world_size": 3}, "batch size must be a multiple of the 3 ranks, got 32"),
    ({"balance": 0.5}, "balance must be 0 without shuffle, got 0.5"),
]


@pytest.mark.parametrize(
    ("options", "text"), IMPOSSIBLE, ids=[t for _, t in IMPOSSIBLE]
)
def test_impossible_config_says_thing_rule_and_value(options, text):
    with pytest.raises(ValueError, match="must") as caught:
        LoaderConfig(**options)
    assert str(caught.value) == text


def test_config_takes_the_ends_of_every_range():
    LoaderConfig(
        batch_size=1, hflip=0, vflip=1, balance=1, balance_decay=0, shuffle=True
    )
    LoaderConfig(window=1, image_size=8, workers=0, prefetch=1)
    LoaderConfig(batch_size=6, rank=2, world_size=3)


def test_config_is_frozen_and_by_keyword():
    config = LoaderConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.batch_size = 3
    with pytest.raises(TypeError):
        LoaderConfig(3)
    with pytest.raises(TypeError):
        LoaderConfig(batchsize=3)
