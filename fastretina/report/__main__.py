"""What ``python -m fastretina.report`` runs."""

from fastretina.cli import open_door

raise SystemExit(open_door("report"))
