"""Where a data set lies: a folder, or a web server that streams it."""

from __future__ import annotations

from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

_TIMEOUT = 30  # seconds without a byte


@dataclass(frozen=True, slots=True)
class Url:
    """As much of ``pathlib.Path`` as reading shards takes, over http or https.

    The standard library's, as fsspec's http needs aiohttp and six more packages.
    """

    text: str

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self.text.rstrip('/')}/{quote(name)}")

    def __str__(self) -> str:
        return self.text

    def exists(self) -> bool:
        """Whether the server answers to it."""
        try:
            self.open("rb").close()
        except OSError:
            return False
        return True

    def open(self, mode: str = "rb") -> BinaryIO:
        """The response, a stream that can't seek.

        Raises:
            OSError: the server can't be reached; FileNotFoundError where it has no
                such file.
        """
        assert mode == "rb", mode
        try:
            response: BinaryIO = urlopen(self.text, timeout=_TIMEOUT)
        except HTTPError as error:
            error.close()
            if error.code == 404:
                raise FileNotFoundError(f"no such file on the server: {self}") from None
            raise OSError(f"the server says {error.code} {error.reason}") from None
        return response

    def read_bytes(self) -> bytes:
        """The whole body of the response."""
        with self.open() as response:
            return response.read()

    def read_text(self, encoding: str) -> str:
        """The whole body of the response, decoded."""
        with self.open() as response:
            return TextIOWrapper(response, encoding).read()


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
    headers = getattr(stream, "headers", None)
    length = headers.get("Content-Length") if headers else None
    return int(length) if length else None
