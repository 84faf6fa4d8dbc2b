"""What ``python -m fastretina.demo`` runs."""

from fastretina.cli import open_door

raise SystemExit(open_door("demo"))
