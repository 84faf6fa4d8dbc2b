"""What ``python -m fastretina.shard`` runs."""

from fastretina.cli import open_door

raise SystemExit(open_door("shard"))
