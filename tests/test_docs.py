"""The README and the pages under docs/: links lead somewhere, and it is short."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "bench" / "README.md", *ROOT.glob("docs/*.md")]
PAGES += [ROOT / "SECURITY.md"]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
SCRIPTS = [*ROOT.glob("scripts/*"), *ROOT.glob("bench/*.sh"), ROOT / "Makefile"]
SCRIPTS += [ROOT / ".ci" / "run"]
OURS = "tests|bench|scripts|docs|loaders|fastretina"
PATH = re.compile(rf"(?<![\w./-])(?:{OURS})/[\w./-]*\w")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize(
    "file",
    [path for path in (*PAGES, *SCRIPTS) if path.is_file()],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_paths_that_are_named_are_there(file: Path) -> None:
    named = PATH.findall(file.read_text())
    assert not [path for path in named if not (ROOT / path).exists()]


def test_paths_of_tests_are_seen() -> None:
    named = PATH.findall((ROOT / "scripts" / "pillow_simd.sh").read_text())
    assert "tests/loaders/test_parity.py" in named


def unreleased() -> str:
    """What the changelog says of the next release."""
    text = (ROOT / "CHANGELOG.md").read_text()
    return text.partition("## Unreleased")[2].partition("\n## ")[0]


def written() -> str:
    return "\n".join([*(page.read_text() for page in PAGES), unreleased()])


def test_paths_of_the_next_release_are_there() -> None:
    named = PATH.findall(unreleased())
    assert "scripts/gpu_check.py" in named
    assert not [path for path in named if not (ROOT / path).exists()]


def test_make_targets_that_are_named_are_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:`|^    )make ([\w-]+)", written(), re.MULTILINE))
    assert named >= {"demo", "test", "check", "docs", "bench", "bench-peers"}
    assert named <= targets


def test_modules_that_are_named_are_there() -> None:
    """And what is named in them, e.g. ``loaders.order``, ``metrics.scores.score``."""
    layers = "data|nn|metrics|measure"
    named = re.findall(rf"`((?:fastretina|loaders|{layers})(?:\.\w+)+)", written())
    modules = {name for name in named if Path(name).suffix not in (".py", ".json")}
    assert len(modules) > 20
    missing = []
    for name in modules:
        ours = name.startswith(("fastretina", "loaders"))
        try:
            resolve_name(name if ours else f"fastretina.{name}")
        except (ImportError, AttributeError):
            missing.append(name)
    assert not missing


def test_every_image_is_shown() -> None:
    shown = written()
    images = [path.name for path in (ROOT / "docs" / "images").iterdir()]
    assert not [name for name in images if f"images/{name})" not in shown]


def test_chart_of_the_pages_is_the_published_one() -> None:
    """The pages are served alone, so they have a copy, and no link."""
    copy = ROOT / "docs" / "images" / "loaders_batch.png"
    readme = (ROOT / "README.md").read_text()
    (published,) = re.findall(r"\((bench/results/loaders_\S+_batch\.png)\)", readme)
    assert not copy.is_symlink()
    assert copy.read_bytes() == (ROOT / published).read_bytes()


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


def test_readme_names_commands_that_are_there() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"python -m fastretina\.(\w+)", text))
    assert len(named) >= 9  # and scripts/shard.py
    for name in named:
        assert (ROOT / "fastretina" / name / "__main__.py").is_file(), name


CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(code, id=f"{name}-{number}")
    for name in ("README.md", "docs/loaders.md")
    for number, code in enumerate(CODE.findall((ROOT / name).read_text()))
]


def test_pages_with_code_are_seen() -> None:
    assert len(BLOCKS) >= 3
    assert all("make_loader" in block.values[0] for block in BLOCKS)


@pytest.mark.filterwarnings("default")  # of Lightning's, where it is
@pytest.mark.parametrize("code", BLOCKS)
def test_code_runs_as_it_stands_where_there_is_no_gpu(
    code: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On few photographs: batches of 8, which is where a run goes on in its second."""
    if "import lightning" in code:
        pytest.importorskip("lightning")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").symlink_to(shards)
    assert "batch_size=32" in code
    code = code.replace("batch_size=32", "batch_size=8")
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(code.replace("first_batch=40", "first_batch=2"), names)
    if "inputs" in names:
        assert names["inputs"].shape == (5, 3, 64, 64)  # of the last batch of 37
        assert len(names["loader"]) == 5
    else:
        assert names["trainer"].global_step == 2 * 5
    assert names["loader"].device.type == "cpu"


def test_pages_build_without_a_warning(tmp_path: Path) -> None:
    """With the API page, whose names must exist; a dead link is an error, too."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q"]
    done = subprocess.run(
        [*command, "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    api = (tmp_path / "site" / "api.html").read_text()
    for name in ("make_loader", "LoaderConfig", "train_step", "predict_split"):
        assert name in api
