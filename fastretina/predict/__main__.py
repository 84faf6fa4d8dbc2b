"""What ``python -m fastretina.predict`` runs."""

from fastretina.cli import open_door

raise SystemExit(open_door("predict"))
