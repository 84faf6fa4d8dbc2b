"""What ``python -m fastretina.evaluate`` runs."""

from fastretina.evaluate.command import main

raise SystemExit(main(prog="python -m fastretina.evaluate"))
