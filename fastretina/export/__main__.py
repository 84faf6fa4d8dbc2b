"""What ``python -m fastretina.export`` runs."""

from fastretina.cli import open_door

raise SystemExit(open_door("export"))
