"""What ``python -m fastretina.demo`` runs."""

from fastretina.demo.command import main

raise SystemExit(main(prog="python -m fastretina.demo"))
