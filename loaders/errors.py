"""What can be wrong with the data, as exceptions a command prints in one line.

    DataError
    |-- LabelError          a label file or image folder that is no sample table
    |-- ShardError          a shard folder that cannot be used as it stands
    |   |-- NoShards        there is none; the message names the commands that make one
    |   `-- SampleError     one image that cannot be decoded: shard, key and reason
    |-- LoaderError         a loader that cannot be had here, or cannot go on
    |   `-- LoaderUnavailable   its package is missing; the message names the extra
    `-- RunError            a run folder that cannot be used as it stands

A bad argument is a ``ValueError`` instead, raised where it is given.
"""

from __future__ import annotations

_SHARD_AGAIN = "shard the photographs again, which sets aside what can't be decoded"


class DataError(Exception):
    """An expected failure: its text is one line a user can act on."""


class LabelError(DataError):
    """Label files or image folders that do not make a sample table."""


class ShardError(DataError):
    """A shard folder that is missing a part, damaged or of another format."""


class NoShards(ShardError):
    """A folder that holds no finished data set."""


class SampleError(ShardError):
    """One sample that cannot be decoded.

    Attributes:
        shard: path or URL of the tar, or of the image's own file in a folder of images.
        key: the sample's name.
        reason: the decoder's message.
        remedy: what mends it.
    """

    def __init__(
        self, shard: str, key: str, reason: str, remedy: str = _SHARD_AGAIN
    ) -> None:
        super().__init__(f"{shard}, sample {key}: {reason}; {remedy}")
        self.shard = shard
        self.key = key
        self.reason = reason
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str, str, str]]:
        """Survive the pickling that carries it out of a worker process."""
        return SampleError, (self.shard, self.key, self.reason, self.remedy)


class LoaderError(DataError):
    """A loader that cannot be had, or cannot go on."""


class LoaderUnavailable(LoaderError):
    """A loader whose package is not installed here."""


class RunError(DataError):
    """A run folder that is missing, unfinished, damaged or in the way."""
