"""What ``python -m fastretina.audit`` runs."""

from fastretina.cli import open_door

raise SystemExit(open_door("audit"))
