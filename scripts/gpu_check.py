"""Measure all that only a GPU can tell: see ``bench.gpu.check``."""

import sys
from pathlib import Path

if __name__ == "__main__":  # the sections' processes import this file too
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for bench
    from bench.gpu.check import main

    sys.exit(main())
