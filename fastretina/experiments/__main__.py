"""What ``python -m fastretina.experiments`` runs."""

from fastretina.experiments.command import main

raise SystemExit(main(prog="python -m fastretina.experiments"))
