"""What ``python -m fastretina.predict`` runs."""

from fastretina.predict.command import main

raise SystemExit(main(prog="python -m fastretina.predict"))
