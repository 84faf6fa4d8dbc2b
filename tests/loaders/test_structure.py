"""How `loaders` is built: flat classes, and public doors that cost little."""

import ast
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import loaders
from loaders import LOADERS, available

ROOT = Path(__file__).parents[2]
PUBLIC = sorted(
    f"loaders.{module.name}"
    for module in pkgutil.iter_modules(loaders.__path__)
    if not module.name.startswith("_")
)


def test_public_modules_are_these():
    names = "arrays base contents cores course decode device errors files folder"
    names += " formulas grades index_table jpeg_structure leftovers manifest order"
    names += " parquet place schedule shards tar untrusted"
    assert [name.removeprefix("loaders.") for name in PUBLIC] == names.split()


@pytest.mark.parametrize("name", available())
def test_back_end_derives_from_the_one_base_alone(name):
    from loaders._epoch import EpochLoader

    back_end = getattr(import_module(LOADERS[name].module), LOADERS[name].cls)
    ours = [kind for kind in back_end.__mro__ if kind.__module__.startswith("loaders")]
    assert ours == [back_end, EpochLoader]


def test_public_modules_bring_no_torch():
    """But for the one that has a Dataset of torch's."""
    light = ["loaders", *(name for name in PUBLIC if name != "loaders.folder")]
    code = f"import {', '.join(light)}, sys; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert not {"torch", "nvidia", "webdataset", "fastretina"} & set(out.split())


# What reaches into a back end, and why.
KNOWN_PRIVATE = {
    # How chroma is upsampled is for the GPU check alone, and no option of a loader.
    "bench/gpu/pixels.py: loaders._dali.DaliLoader",
}


@pytest.mark.parametrize("folder", ["fastretina", "scripts", "bench"])
def test_others_import_public_modules_alone(folder):
    """Imports, and module names in strings such as those that a server preloads."""
    private = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = [node.value]
            private += [
                f"{path.relative_to(ROOT)}: {name}"
                for name in names
                if name.startswith("loaders._")
            ]
    known = {one for one in KNOWN_PRIVATE if one.startswith(f"{folder}/")}
    assert set(private) == known
