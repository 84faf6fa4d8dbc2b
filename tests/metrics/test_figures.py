"""The pictures of a run: the old one or the new, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from matplotlib.figure import Figure

from fastretina.metrics.figures import draw_confusion, draw_curves

COUNTS = [[3, 1, 0, 0, 0]] * 5


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: draw_curves(path, [], 0.7, "a run"),
        lambda path: draw_confusion(path, COUNTS, "a run"),
    ],
    ids=["curves", "confusion"],
)
def test_figure_that_fails_half_way_leaves_the_old_one(
    draw: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def fail(_: Figure, file: BinaryIO | Path, **_options: object) -> None:
        with file.open("wb") if isinstance(file, Path) else file as opened:
            opened.write(b"half")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match=r"figure\.png"):
        draw(path)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"old"]
