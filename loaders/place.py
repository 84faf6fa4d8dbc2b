"""Where a data set lies: a folder, or a web server that streams it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote

from loaders._http import Response, get, without_secrets

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Url:
    """As much of ``pathlib.Path`` as reading shards takes, over http or https.

    The server is not trusted: what it takes too long for, or sends without end, is an
    error. As text it is without a user, a password and a query.
    """

    text: str

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self.text.rstrip('/')}/{quote(name)}")

    def __str__(self) -> str:
        return without_secrets(self.text)

    def exists(self) -> bool:
        """Whether the server answers to it."""
        try:
            self.open("rb").close()
        except OSError:
            return False
        return True

    def open(
        self, mode: str = "rb", *, stopped: threading.Event | None = None
    ) -> BinaryIO:
        """The response, a stream that can't seek, to be read by ``readinto``.

        Args:
            mode: for reading.
            stopped: is set once nobody waits for it any longer.

        Raises:
            OSError: the server can't be reached, or the URL is none;
                FileNotFoundError where it has no such file.
        """
        return cast(BinaryIO, self._get(mode, stopped))

    def _get(self, mode: str, stopped: threading.Event | None = None) -> Response:
        assert mode == "rb", mode
        try:
            return get(self.text, stopped)
        except FileNotFoundError:
            raise FileNotFoundError(f"no such file on the server: {self}") from None

    def read_bytes(self, most: int) -> bytes:
        """The whole body of the response, so many bytes at most.

        Raises:
            OSError: as in ``open``, the connection breaks off, or the body is larger.
        """
        pieces, num_read = [], 0
        room = memoryview(bytearray(_PIECE))
        with self._get("rb") as response:
            left = response.length or 0
            while num_read + left <= most:
                try:
                    got = response.readinto(room)
                except ConnectionError as error:
                    raise ConnectionError(f"{error} after {num_read:,} bytes") from None
                if not got:
                    break
                pieces.append(bytes(room[:got]))
                num_read += got
                left = response.length or 0
        if num_read + left > most:
            raise ConnectionError(f"it is larger than {most:,} bytes")
        if left:
            raise ConnectionError(f"the connection broke off after {num_read:,} bytes")
        return b"".join(pieces)


Place = Path | Url


def place(name: str | Path | Url) -> Place:
    """A folder, or a URL where it begins with ``http://`` or ``https://``."""
    if isinstance(name, str):
        return Url(name) if is_url(name) else Path(name)
    return name


def is_url(name: str) -> bool:
    """Whether this is the name of something on a web server."""
    return name.startswith(("http://", "https://"))


def stream_size(stream: BinaryIO) -> int | None:
    """Bytes that an http response announces; None where it doesn't."""
    return stream.length if isinstance(stream, Response) else None
