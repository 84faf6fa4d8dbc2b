"""What ``python -m fastretina.experiments`` runs."""

from fastretina.cli import open_door

raise SystemExit(open_door("experiments"))
