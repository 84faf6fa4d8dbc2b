"""A figure of a page: a PNG with its caption, and its numbers for who can't see it.

blank  ->  the caller draws  ->  to_picture  ->  Picture  ->  page and FIGURES/*.png
"""

from __future__ import annotations

import io
import warnings
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from PIL import Image

from loaders.files import make_inner_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# As wide as a phone is in CSS pixels, so that 9 points are read as 9 points there;
# twice as many pixels, for sharp screens and for print.
WIDTH, _DPI = 4.6, 200
LineStyle = tuple[str, str | tuple[int, tuple[int, ...]]]  # colour and dashes
# Of Okabe and Ito's colours, which all can tell apart; and so are their dashes.
GRADE_STYLES: tuple[LineStyle, ...] = (
    ("#0072b2", "-"),
    ("#009e73", "--"),
    ("#c98500", "-."),
    ("#d55e00", (0, (5, 1, 1, 1, 1, 1))),
    ("#a0447f", ":"),
)
_FOOT = 0.24  # inches below the axes, for the checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A figure as a PNG.

    Attributes:
        name: Name of the file, without the suffix.
        png: Content of the file.
        width: Width, pixels.
        height: Height, pixels.
        alt: What the figure shows, with the numbers, for who can't see it.
        caption: How to read the figure.
    """

    name: str
    png: bytes
    width: int
    height: int
    alt: str
    caption: str

    @property
    def data(self) -> str:
        """The figure as a ``data:`` URL."""
        return data_url(self.png, "image/png")


def data_url(content: bytes, kind: str) -> str:
    """A URL that holds its own content, e.g. ``data:image/png;base64,...``."""
    return f"data:{kind};base64,{b64encode(content).decode()}"


def blank(height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure ``height`` inches high, and its axes from top to bottom."""
    figure = Figure(figsize=(WIDTH, height))
    room = (0, _FOOT / height, 1, 1 - _FOOT / height)
    figure.set_layout_engine("constrained", rect=room)
    axes = figure.subplots(rows, 1, squeeze=False, sharex=rows > 1)
    return figure, list(axes[:, 0])


def to_picture(
    figure: Figure, *, name: str, title: str, checkpoint: str, alt: str, caption: str
) -> Picture:
    """Write the title above and the checkpoint below; returns the whole as a PNG.

    Args:
        figure: The figure, drawn.
        name: Name of the file, without the suffix.
        title: What the figure shows, in a few words.
        checkpoint: Whose predictions the figure shows.
        alt: What the figure shows, with the numbers.
        caption: How to read the figure.
    """
    figure.suptitle(title, fontsize=11, fontweight="bold")
    figure.text(
        0.99,
        0.012,
        _shorten(checkpoint),
        fontsize=6.5,
        color="0.35",
        ha="right",
        parse_math=False,
    )
    image = _render(figure)
    return Picture(
        name=name,
        png=_encode(image),
        width=image.width,
        height=image.height,
        alt=f"{alt} Checkpoint: {checkpoint}.",
        caption=caption,
    )


def save_all(pictures: Sequence[Picture], folder: Path) -> None:
    """Write each picture as ``FOLDER/NAME.png``."""
    make_inner_folder(folder)
    for picture in pictures:
        write_atomically(folder / f"{picture.name}.png", picture.png)


def _render(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a run may have any name
        figure.savefig(buffer, dpi=_DPI, format="rgba")
    width = round(WIDTH * _DPI)
    size = (width, buffer.tell() // (4 * width))
    return Image.frombytes("RGBA", size, buffer.getvalue()).convert("RGB")


def _encode(image: Image.Image) -> bytes:
    """A PNG of 128 colours, which no eye tells from all: a third of the bytes."""
    buffer = io.BytesIO()
    try:
        few_colours = image.quantize(128, dither=Image.Dither.NONE)
    except ValueError as error:  # which Pillow raises for lack of memory alone
        raise MemoryError from error
    few_colours.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _shorten(checkpoint: str, limit: int = 78) -> str:
    """The end of a checkpoint's line, where the weights stand."""
    if len(checkpoint) <= limit:
        return checkpoint
    return f"...{checkpoint[3 - limit :]}"
