"""Which versions of packages are installed."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

DALI_PACKAGES = ("nvidia-dali-cuda110", "nvidia-dali-cuda120", "nvidia-dali-cuda130")
_IN_A_RUN = (  # what its result may depend on
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "simplejpeg",
    *DALI_PACKAGES,
    "webdataset",
)


@cache
def installed(package: str) -> str | None:
    """A package's version; None where it is not installed.

    Looked up once in a process, as each time takes 1.5 ms.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions_in_a_run() -> dict[str, str]:
    """The versions of the packages that a run's result may depend on."""
    return {name: found for name in _IN_A_RUN if (found := installed(name))}
