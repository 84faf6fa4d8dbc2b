"""The layouts that labels are kept in, and the share that is held out where none is."""

from __future__ import annotations

from typing import Literal, get_args

Layout = Literal["course", "kaggle", "aptos", "folders", "tars"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

TEST_SHARE = 0.2  # of the patients, where the labels have no test split

# The file in which `fastretina audit --fix` tells how it made a split.
SPLIT_NOTE = "split.json"
