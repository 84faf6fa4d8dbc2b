"""``python -m few_resamples MODULE ...``: a command with intervals from 2 resamples.

The 1,000 of the command itself would take ten seconds of a processor.
"""

from __future__ import annotations

import runpy
import sys

from fastretina.metrics import bootstrap

if __name__ == "__main__":
    bootstrap.RESAMPLES = 2
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
