"""Where a data set lies: a folder, or a web server that streams it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
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
            OSError: the server can't be reached, or the URL is none;
                FileNotFoundError where it has no such file.
        """
        assert mode == "rb", mode
        try:
            with _as_os_errors():
                response: BinaryIO = urlopen(self.text, timeout=_TIMEOUT)
        except HTTPError as error:
            error.close()
            if error.code == 404:
                raise FileNotFoundError(f"no such file on the server: {self}") from None
            raise OSError(f"the server says {error.code} {error.reason}") from None
        return response

    def read_bytes(self) -> bytes:
        """The whole body of the response.

        Raises:
            OSError: as in ``open``, or the connection breaks off.
        """
        with self.open() as response, _as_os_errors():
            return response.read()

    def read_text(self, encoding: str) -> str:
        """The whole body of the response, decoded.

        Raises:
            OSError: as in ``read_bytes``.
            UnicodeDecodeError: it is in another encoding.
        """
        return self.read_bytes().decode(encoding)


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """Raise what ``http.client`` has of its own as an ``OSError`` of one line."""
    try:
        yield
    except IncompleteRead as error:
        got = len(error.partial)
        raise ConnectionError(f"the connection broke off after {got:,} bytes") from None
    except (HTTPException, ValueError) as error:  # ValueError: of a URL that is none
        text = " ".join(str(error).split())
        raise ConnectionError(text or type(error).__name__) from None


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
