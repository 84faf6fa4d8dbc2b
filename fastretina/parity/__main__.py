"""What ``python -m fastretina.parity`` runs."""

from fastretina.parity.command import main

raise SystemExit(main(prog="python -m fastretina.parity"))
