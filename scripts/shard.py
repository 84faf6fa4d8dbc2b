"""Turn a folder of graded photographs into shards: see ``fastretina shard``."""

import sys

if __name__ == "__main__":  # the workers import this file too, and need no command line
    from fastretina.shard.command import main

    sys.exit(main(prog="python scripts/shard.py"))
