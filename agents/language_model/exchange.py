"""One request and what came back, read within a size and a time that no server can stretch.

The SDK limits the time between two bytes but not that of a whole answer, and it reads the body of an error to its end.
So hooks of its HTTP client do the reading: they run before the SDK looks at a response, stop at `MAX_ANSWER` bytes, and
a timer shuts the connection when the time is over, wherever the exchange then stands. What the hooks cannot bound is
the look-up of the host's name, and a connection is given `openai.Timeout.connect` seconds for each of its addresses.
"""

import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from threading import Timer
from typing import Any, Protocol, Self

MAX_ANSWER = 1_000_000
"""Bytes of an answer that are read; a longer one is refused."""
MAX_ERROR = 10_000
"""Bytes of an error that are read; the rest is left."""


class Request(Protocol):
    """What is used of the HTTP client's request."""

    extensions: Any


class Response(Protocol):
    """What is used of the HTTP client's response."""

    status_code: int

    @property
    def headers(self) -> Mapping[str, str]: ...

    def iter_raw(self) -> Iterable[bytes]: ...


class Ended(Exception):
    """Raised by `answered` to keep the SDK from reading on; the exchange holds what there is."""


class Exchange:
    """A context in which one request is sent; it ends after `seconds` at the latest.

    `sent`: the request was on its way, so the server may have worked on it. `status`: None as long as none came.
    `headers`: names in small letters. `refused`: why the body of a good answer is not taken, or "".
    `late`: the time was over before the end.
    """

    def __init__(self, *, seconds: float) -> None:
        self.sent = False
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.body = bytearray()
        self.refused = ""
        self.late = False
        self._socket: socket.socket | None = None
        self._timer = Timer(seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()

    @property
    def good(self) -> bool:
        """Whether the server said that it answers the request."""
        return self.status is not None and 200 <= self.status < 300

    def asked(self, request: Request) -> None:
        """The hook that is called with the request before it is sent."""
        request.extensions = {**request.extensions, "trace": self._traced}

    def answered(self, response: Response) -> None:
        """The hook that is called with the response before its body is read.

        Errors: `Ended` if the response is an error, or its body is refused.
        """
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        encoding = self.headers.get("content-encoding", "identity")
        if self.good and encoding != "identity":
            # A few bytes may unpack to any number, and it was asked not to.
            self.refused = f"an answer in the encoding {encoding!r}, which was not asked for"
            raise Ended
        limit = MAX_ANSWER if self.good else MAX_ERROR
        for chunk in response.iter_raw():
            self.body += chunk
            if len(self.body) > limit:
                self.refused = f"an answer of more than {limit} bytes"
                raise Ended
        if not self.good:
            raise Ended

    def _traced(self, event: str, info: Mapping[str, Any]) -> None:
        """Called by the HTTP client at each step of the exchange, as `connection.connect_tcp.complete`."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
            if self.late:
                self._shut()
        elif event.endswith("send_request_headers.started"):
            self.sent = True

    def _expire(self) -> None:
        self.late = True
        self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # it was closed just now
                self._socket.shutdown(socket.SHUT_RDWR)
