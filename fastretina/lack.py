"""What a machine lacks, told from the errors that it comes as, in one line."""

from __future__ import annotations

import re

_MEMORY = (
    "there is not enough memory: close other programs, or take fewer --workers, or a "
    "smaller --batch-size, --prefetch or --cache-gb where the command has it"
)

# Texts of torch's, DALI's and Python's errors, which have no class of their own.
_TOLD_BY = {
    r"can't allocate memory|bad_?alloc|out of memory|cannot allocate memory|"
    r"unable to mmap|failed to map segment": _MEMORY,
    r"can't start new thread|Resource temporarily unavailable": (
        "no further thread or process can be started: there is not enough memory, or "
        "too many run (ulimit -u)"
    ),
    r"Too many open files": (
        "too many files are open: allow more (ulimit -n 1024), or take fewer --workers"
    ),
    r"unable to (?:open|allocate) shared memory|unable to write to file </torch_|"
    r"unable to resize file </torch_|insufficient shared memory": (
        "there is not enough shared memory (/dev/shm): allow more, e.g. docker's "
        "--shm-size, or take a --loader of threads, such as turbo"
    ),
    r"DataLoader worker \(pid": (
        "a worker process has ended unexpectedly, as for lack of memory, of shared "
        "memory or of open files: take fewer --workers, or --loader turbo"
    ),
}


def describe_lack(error: BaseException) -> str | None:
    """What was too little for what failed; None where it failed for another reason."""
    if isinstance(error, MemoryError):
        return _MEMORY
    said = str(error)
    if isinstance(error, OSError) and error.strerror:
        said = error.strerror  # without the file's name, which may say anything
    for text, lack in _TOLD_BY.items():
        if re.search(text, said, re.IGNORECASE):
            return lack
    return None
