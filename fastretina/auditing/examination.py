"""Look at everything, the labels first and then the images."""

from __future__ import annotations

from fastretina.auditing.audited import Audited
from fastretina.auditing.duplicates import find_duplicates
from fastretina.auditing.fingerprints import Prints, take
from fastretina.auditing.headers import label_files
from fastretina.auditing.splits import fellows, numbers
from fastretina.auditing.subject import Subject


def examine(subject: Subject, *, look: bool, workers: int) -> Audited:
    """Audit a data set.

    Args:
        subject: to audit.
        look: whether to look at the images that are there.
        workers: threads that do so.

    Raises:
        DataError: its files changed under our hands, or its shards are damaged.
    """
    duplicates, prints = None, Prints({}, {})
    if look and subject.there:
        prints = take(subject.read, subject.there, workers)
        duplicates = find_duplicates(prints.found, subject.read, workers)
    return Audited(
        subject=subject,
        numbers=numbers(subject.eyes),
        fellows=fellows(subject.eyes),
        files=label_files(subject.data, subject.layout),
        duplicates=duplicates,
        unreadable=prints.unreadable,
    )
