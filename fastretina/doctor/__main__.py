"""What ``python -m fastretina.doctor`` runs."""

from fastretina.doctor.command import main

raise SystemExit(main(prog="python -m fastretina.doctor"))
