"""What ``python -m fastretina.export`` runs."""

from fastretina.export.command import main

raise SystemExit(main(prog="python -m fastretina.export"))
