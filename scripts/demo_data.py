"""Door to ``fastretina demo``: made-up fundus photographs to try everything with."""

import sys

from fastretina.demo.command import main

if __name__ == "__main__":
    sys.exit(main(prog="python scripts/demo_data.py"))
