"""What ``python -m fastretina.doctor`` runs."""

from fastretina.cli import open_door

raise SystemExit(open_door("doctor"))
