"""A file from a web server that nobody vouches for, within bounds of time and bytes.

The standard library's client, as fsspec's needs aiohttp and six more packages; but none
of what it does unasked: redirects to any host or to ftp, bodies and heads without end.
"""

from __future__ import annotations

import io
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
)
from typing import Any
from urllib.error import URLError
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import (
    AbstractHTTPHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

_SILENCE = 30.0  # seconds without a byte, or to connect
_RATE = 1 << 14  # bytes/s that must come on average, from 30 s of waiting on
_MOMENT = 0.25  # seconds within which it is noticed that nobody waits any longer
_SPARE = 1 << 22  # bytes beside the body: the head, and what is read of it ahead
_PER_BYTE = 8  # and for each of the body's that is asked for; chunks of one have 6
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}


class Response(HTTPResponse):
    """An answer whose body is read with ``readinto``, within the bounds.

    Attributes:
        length: bytes of the body that are still to come; None where it isn't told.
    """

    def __init__(
        self, sock: socket.socket, *words: Any, stopped: threading.Event, **named: Any
    ) -> None:
        super().__init__(sock, *words, **named)
        self._wire = _Wire(sock, self.fp, stopped)
        self.fp = io.BufferedReader(self._wire)

    def readinto(self, room: Any) -> int:
        """Fill the room as far as bytes have come; 0 at the end.

        Raises:
            OSError: the connection breaks off, is too slow, or sends what is no http.
        """
        asked = memoryview(room).nbytes
        self._wire.allowed += _PER_BYTE * asked
        with as_os_errors():
            num_read = super().readinto(room)
        self._wire.allowed -= _PER_BYTE * (asked - num_read)
        return num_read


class _Wire(io.RawIOBase):
    """The bytes that come through a socket.

    Attributes:
        allowed: how many may come by now.
    """

    def __init__(
        self, sock: socket.socket, file: io.IOBase, stopped: threading.Event
    ) -> None:
        """Takes the socket's own file, which keeps it open until it is closed."""
        self.allowed = _SPARE
        self._socket, self._file, self._stopped = sock, file, stopped
        self._received, self._waited = 0, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        silent_from = self._waited
        while True:
            enough = self._received / _RATE + _SILENCE
            left = min(silent_from + _SILENCE, enough) - self._waited
            if left <= 0:
                slow = f"it sent {self._received:,} bytes in {self._waited:.0f} s"
                raise TimeoutError(f"the server is too slow: {slow}")
            if self._stopped.is_set():
                raise ConnectionAbortedError("nobody waits for it any longer")
            self._socket.settimeout(min(left, _MOMENT))
            started = time.monotonic()
            try:
                num_read = self._socket.recv_into(room)
            except TimeoutError:
                continue
            finally:
                self._waited += time.monotonic() - started
            self._received += num_read
            if self._received > self.allowed:
                raise ConnectionError("the server sends much beside what was asked for")
            return num_read

    def close(self) -> None:
        super().close()
        self._file.close()


class _Handler(AbstractHTTPHandler):
    """http and https whose answers are read within the bounds."""

    http_request = https_request = AbstractHTTPHandler.do_request_

    def __init__(self, stopped: threading.Event) -> None:
        super().__init__()
        self._answer = partial(Response, stopped=stopped)

    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self._connect, HTTPConnection), request)

    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self._connect, HTTPSConnection), request)

    def _connect(self, kind: type[HTTPConnection], host: str, **named: Any) -> Any:
        connection = kind(host, **named)
        connection.response_class = self._answer  # type: ignore[assignment]
        return connection


def get(url: str, stopped: threading.Event | None = None) -> Response:
    """Ask for a file, by the proxy that the environment names, if any.

    Args:
        url: of http or https, without a user, a password, a query or a fragment: they
            would stand in errors, logs and run folders.
        stopped: ends the waiting, within a moment, but for that for a connection.

    Returns:
        The answer with its body as it is, which is still to be read.

    Raises:
        OSError: the URL is none, the server can't be reached or gives another answer;
            FileNotFoundError where it has no such file.
    """
    opener = OpenerDirector()
    opener.add_handler(ProxyHandler())
    opener.add_handler(_Handler(stopped or threading.Event()))
    with as_os_errors():
        parts = urlsplit(url)
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(
                "a URL with a user, a password, a query or a fragment is not taken, "
                "as it would be written into errors and runs"
            )
        for _ in range(1 + _MOST_REDIRECTS):
            response: Response = opener.open(Request(url), timeout=_SILENCE)
            if response.status not in _REDIRECTS:
                return _checked(response)
            response.close()
            url = _redirected(url, response.headers.get("Location", ""))
    raise ConnectionError(f"the server redirects more than {_MOST_REDIRECTS} times")


def _checked(response: Response) -> Response:
    """The same, if its body is the file's bytes as they are."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if response.status == 200 and encoding == "identity":
        return response
    response.close()
    if response.status in (404, 410):
        raise FileNotFoundError("the server has no such file")
    if response.status != 200:
        said = f"{response.status} {response.reason}".strip()
        raise ConnectionError(f"the server says {said}")
    raise ConnectionError(f"the server sends it encoded, by {encoding}")


def _redirected(url: str, location: str) -> str:
    """Where a server redirects to.

    Raises:
        ConnectionError: to another host or port, but for https in place of http.
    """
    to = urljoin(url, location)
    before, after = urlsplit(url), urlsplit(to)
    same = _origin(after) == _origin(before)
    safer = after.scheme == "https" and _origin(after) == (before.hostname, 443)
    allowed = after.scheme in (before.scheme, "https") and after.username is None
    if not (location and allowed and (same or safer)):
        place = f"{after.scheme}://{after.netloc.rpartition('@')[2]}"
        raise ConnectionError(
            f"the server redirects to another place, {place}: give the URL there, "
            "where you trust it"
        )
    return to


def _origin(url: SplitResult) -> tuple[str | None, int | None]:
    return url.hostname, url.port or _PORTS.get(url.scheme)


@contextmanager
def as_os_errors() -> Iterator[None]:
    """Raise what comes of a server's answer as an ``OSError`` of one short line."""
    try:
        yield
    except IncompleteRead:
        raise ConnectionError("the connection broke off") from None
    except (HTTPException, ValueError) as error:  # ValueError: of a URL that is none
        raise ConnectionError(_one_line(error)) from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConnectionError(_one_line(error)) from None


def _one_line(error: Exception) -> str:
    """What an error says, which a server may have chosen, fit for a terminal."""
    reason = error.reason if isinstance(error, URLError) else error
    said = (isinstance(reason, OSError) and reason.strerror) or reason
    text = " ".join(str(said).split())
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return _shortened(text) or type(error).__name__


def _shortened(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def without_secrets(url: str) -> str:
    """A URL without the user, password, query and fragment that it may hold."""
    return re.split("[?#]", re.sub(r"^(https?://)[^/]*@", r"\1", url))[0]
