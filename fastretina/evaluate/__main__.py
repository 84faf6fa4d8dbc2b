"""What ``python -m fastretina.evaluate`` runs."""

from fastretina.cli import open_door

raise SystemExit(open_door("evaluate"))
