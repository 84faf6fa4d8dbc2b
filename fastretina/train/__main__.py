"""What ``python -m fastretina.train`` runs."""

from fastretina.cli import open_door

raise SystemExit(open_door("train"))
