"""What ``python -m fastretina.parity`` runs."""

from fastretina.parity.command import main

raise SystemExit(main())
