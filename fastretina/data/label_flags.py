"""Flags that say how labels are kept, the same for every command that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from fastretina.data.layout_names import LAYOUTS, Layout

LayoutFlag = Annotated[
    Layout | None,
    arg(metavar=f"{{{','.join(LAYOUTS)}}}", help_behavior_hint="(default: recognised)"),
]
LabelsFlag = Annotated[
    Path | None, arg(metavar="CSV", help_behavior_hint="(default: found)")
]
PatientColumnFlag = Annotated[
    str | None, arg(metavar="NAME", help_behavior_hint="(default: by image names)")
]
PatientPatternFlag = Annotated[
    str | None,
    arg(metavar="REGEX", help_behavior_hint="(default: 7_left, P1_OS, 3-R, ...)"),
]
