"""What ``python -m fastretina.report`` runs."""

from fastretina.report.command import main

raise SystemExit(main(prog="python -m fastretina.report"))
