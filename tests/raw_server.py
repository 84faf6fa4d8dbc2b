"""A web server on loopback that says whatever a test wants, byte by byte."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

Word = bytes | float  # what is sent, or seconds to wait
Answer = Callable[[str], Iterable[Word]]


def head(status: str = "200 OK", **headers: object) -> bytes:
    """The head of a response; ``content_length=5`` is ``Content-Length: 5``."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def whole(body: bytes, **headers: object) -> Iterable[Word]:
    """A response as it should be."""
    return [head(content_length=len(body), **headers), body]


def chunked(body: bytes, size: int) -> Iterable[Word]:
    """The same without a length, in chunks of some bytes."""
    pieces = [body[place : place + size] for place in range(0, len(body), size)]
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    return [head(transfer_encoding="chunked"), *chunks, b"0\r\n\r\n"]


class RawServer:
    """Answers each request with the words that ``answer`` gives for its path.

    Attributes:
        url: of the server, without a slash at its end.
        asked: the paths, in order.
        sent: bytes of all answers together.
        answer: may be set anew.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer, self.asked, self.sent = answer, list[str](), 0
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> RawServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(20)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(
                target=self._serve, args=(connection,), daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(1)
            request = b""
            while b"\r\n\r\n" not in request:
                piece = connection.recv(65536)
                if not piece:
                    return
                request += piece
            path = request.split()[1].decode()
            self.asked.append(path)
            for word in self.answer(path):
                if not self._say(connection, word):
                    return

    def _say(self, connection: socket.socket, word: Word) -> bool:
        """Send it, or wait; False where nobody listens any longer."""
        if isinstance(word, bytes | bytearray):
            view = memoryview(word)
            while view and not self._closed.is_set():
                with contextlib.suppress(TimeoutError):
                    sent = connection.send(view)
                    self.sent += sent
                    view = view[sent:]
            return not self._closed.is_set()
        until = time.monotonic() + word
        connection.settimeout(0.05)
        while (left := until - time.monotonic()) > 0 and not self._closed.is_set():
            connection.settimeout(min(left, 0.05))
            with contextlib.suppress(TimeoutError):
                if not connection.recv(1):  # it has hung up
                    return False
        connection.settimeout(1)
        return not self._closed.is_set()
