"""What ``python -m fastretina.parity`` runs."""

from fastretina.cli import open_door

raise SystemExit(open_door("parity"))
