"""What ``python -m fastretina.audit`` runs."""

from fastretina.audit.command import main

raise SystemExit(main(prog="python -m fastretina.audit"))
