"""Look at everything, the labels first and then the images."""

from __future__ import annotations

from fastretina.audit.dataset import AuditedDataset
from fastretina.audit.duplicates import find_duplicates
from fastretina.audit.fingerprints import Prints, take
from fastretina.audit.headers import label_files
from fastretina.audit.split_counts import fellows, numbers
from fastretina.audit.survey import Audited


def examine(subject: AuditedDataset, *, look: bool, workers: int) -> Audited:
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
