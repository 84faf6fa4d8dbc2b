"""What ``python -m fastretina.report`` runs."""

from fastretina.report.command import main

raise SystemExit(main())
