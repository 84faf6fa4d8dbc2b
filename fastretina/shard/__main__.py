"""What ``python -m fastretina.shard`` runs."""

from fastretina.shard.command import main

raise SystemExit(main(prog="python -m fastretina.shard"))
