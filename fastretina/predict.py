"""Grade single photographs with a run's network.

python -m fastretina.predict runs/resnet18-strong-1 photo.jpeg
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from fastretina import cli
from loaders.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fastretina.device import Compute
    from fastretina.trained import Trained

PROG = "python -m fastretina.predict"
ABOUT = f"""Grade photographs, JPEG or PNG, with a run's network. They are prepared as
its training images were; one that is not square is cropped to the fundus. Not a medical
device: do not treat anybody by it.

Example: {PROG} runs/resnet18-strong-1 left.jpeg right.jpeg --format json
"""
_BATCH = 32
_COLUMNS = ("image", "grade", "name", "p0", "p1", "p2", "p3", "p4", "error")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``fastretina.predict``.

    Attributes:
        run: The run's folder.
        images: Photographs to grade.
        format: Of the predictions on stdout; its last line is a summary in JSON.
        out: Write the predictions to this file instead.
        device: auto, cpu, cuda, cuda:N or mps.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE...")]
    format: Literal["csv", "json"] = "csv"
    out: Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("at least one IMAGE must be given")


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    return cli.run(command, Options, argv, prog=prog, about=ABOUT)


def command(options: Options) -> dict[str, Any]:
    """Grade every image that can be decoded; returns what the JSON line holds.

    Raises:
        DataError: after all others are graded, where some could not be.
    """
    from fastretina.device import choose_again
    from fastretina.run import Run
    from fastretina.trained import load_trained
    from loaders._files import write_atomically

    run = Run(options.run)
    compute = choose_again(options.device, run.config()["precision"])
    trained = load_trained(run, compute.device)
    rows = list(_grade(options.images, trained, compute))
    text = _as_csv(rows) if options.format == "csv" else _as_json(rows)
    if options.out is None:
        print(text, end="")
    else:
        write_atomically(options.out, text)
    print("Not a medical device.", file=sys.stderr)
    failed = [row for row in rows if row["error"]]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(rows)} images can't be graded: "
            f"{failed[0]['image']}: {failed[0]['error']}"
        )
    return {
        "run": str(options.run),
        "images": len(rows),
        "grades": [row["grade"] for row in rows],
        "weights_sha256": trained.weights_sha256,
    }


def _grade(
    paths: Sequence[Path], trained: Trained, compute: Compute
) -> Iterator[dict[str, Any]]:
    """A row for each image, in order."""
    import numpy as np
    import torch

    from fastretina.augment import normalise
    from loaders._course import GRADES

    for first in range(0, len(paths), _BATCH):
        chosen = paths[first : first + _BATCH]
        prepared = [_prepare(path, trained) for path in chosen]
        good = [image for image, error in prepared if not error]
        graded = np.empty((0, len(GRADES)))
        if good:
            with torch.inference_mode(), compute.autocast():
                images = torch.from_numpy(np.stack(good)).to(compute.device)
                logits = trained.network(normalise(images))
            graded = logits.float().softmax(dim=1).cpu().numpy()
        shares = iter(graded)
        for path, (_, error) in zip(chosen, prepared, strict=True):
            row: dict[str, Any] = dict.fromkeys(_COLUMNS) | {"image": str(path)}
            if error:
                yield row | {"error": error}
                continue
            chances = next(shares)
            grade = int(chances.argmax())
            row |= {"grade": grade, "name": GRADES[grade]}
            yield row | {f"p{k}": round(float(p), 4) for k, p in enumerate(chances)}


def _prepare(path: Path, trained: Trained) -> tuple[npt.NDArray[np.uint8], str]:
    """The image as the network was trained on its like, or why it can't be.

    One of another shape than the square images of training is cropped to the fundus.
    """
    import numpy as np

    from fastretina.prepare import Preparer, Rejected
    from loaders._turbo import Decoder

    how = trained.config["data"]["preprocessing"] or {"steps": [], "size": None}
    height, width = trained.config["image_shape"]
    image = np.empty((height, width, 3), np.uint8)
    try:
        content = path.read_bytes()
        ready = Preparer(how["steps"], how["size"])(content)
        if ready.width != ready.height and trained.config["square"]:
            ready = Preparer(["crop"])(ready.jpeg)
        Decoder((height, width))(ready.jpeg, (False, False), image)
    except OSError as error:
        return image, error.strerror or str(error)
    except (Rejected, ValueError) as error:
        return image, str(error)
    return image, ""


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _as_json(rows: Sequence[dict[str, Any]]) -> str:
    return json.dumps(rows, indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(main())
