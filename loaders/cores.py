"""How many processor cores this process may really use."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def granted_cores() -> int:
    """Cores granted by affinity and by the container's quota, at least 1.

    ``os.cpu_count()`` counts the machine's, which a scheduler or ``docker --cpus``
    may not have given us.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        cores = min(cores, round(int(quota) / int(period)))
    except (OSError, ValueError):  # no cgroup v2 here, or a quota of "max"
        pass
    return max(cores, 1)
