"""Measure all that only a GPU can tell: see ``fastretina.gpu.check``."""

import sys

if __name__ == "__main__":  # the sections' processes import this file too
    from fastretina.gpu.check import main

    sys.exit(main())
