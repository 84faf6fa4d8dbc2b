"""What the tests that need a GPU share; ``pytest -m gpu tests`` runs them all."""

from __future__ import annotations

import pytest
import torch

from loaders import LOADERS, available

DEVICE = "cuda"
OURS = [name for name in available() if not LOADERS[name].own_order]

MARKS = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="needs CUDA, and there is none here"
    ),
    pytest.mark.timeout(120),
    # A new driver or torch warns of this and that; the rare GPU is for what they do.
    pytest.mark.filterwarnings("default"),
]
