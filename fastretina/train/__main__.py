"""What ``python -m fastretina.train`` runs."""

from fastretina.train.command import main

raise SystemExit(main(prog="python -m fastretina.train"))
