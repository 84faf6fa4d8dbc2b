"""What ``python -m fastretina`` runs: the console command, by the module."""

from fastretina.cli import main

raise SystemExit(main(prog="python -m fastretina"))
