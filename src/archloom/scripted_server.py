"""A server on loopback that speaks the protocols of chat completions and embeddings and says what it is told to.

For tests, for benchmarks, and for trying the language-model arm without a model:

    with ScriptedServer(lambda request: Scripted(text='{"term": "..."}')) as server:
        ...  # point `base_url` at server.url

It can also fail in the ways that real servers do: refuse, wait, trickle, stop half way, hang, and never end.
"""

import json
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, Self

PIECE = 65_536
"""Bytes that are written at once."""
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripted:
    """What is sent for one request: a completion with `text`, or `body` as it stands if `text` is None.

    Tokens that are not given are counted as a quarter of the characters.
    """

    text: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    """Seconds before anything is sent."""
    pace: float = 0.0
    """Seconds before each byte of the body; 0 sends it at once."""
    padding: int = 0
    """Blanks sent after the body, as part of it."""
    cut: bool = False
    """Only the first half of the body is sent, and then the connection is closed."""
    hang: bool = False
    """Nothing is sent until the server closes."""


class ScriptedServer:
    """Serves while it is a context: `answer` maps the body of a request to what is sent, in the request's own thread.

    `url` is the `base_url` for clients. A body that is no JSON object is answered 400, any other address 404. Leaving
    the context ends every request, those that hang included, and returns when all of its threads are gone.
    """

    def __init__(self, answer: Callable[[Mapping[str, Any]], Scripted], *, models: tuple[str, ...] = ("scripted",)):
        self.answer = answer
        self.models = models
        self._lock = Lock()
        self._requests: list[Mapping[str, Any]] = []
        self._headers: list[Mapping[str, str]] = []
        self._sent: list[int] = []
        self._closing = Event()
        self._http = _Http(self)
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    @property
    def requests(self) -> tuple[Mapping[str, Any], ...]:
        """The bodies of the requests for completions, as they came."""
        with self._lock:
            return tuple(self._requests)

    @property
    def headers(self) -> tuple[Mapping[str, str], ...]:
        """The headers of those requests; names in small letters."""
        with self._lock:
            return tuple(self._headers)

    @property
    def sent(self) -> tuple[int, ...]:
        """Bytes of a body that were handed to the system for each answer that is over, in the order of their ends."""
        with self._lock:
            return tuple(self._sent)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.hang_up()
        self._http.server_close()  # waits for the threads of requests

    def received(self, request: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Called by the thread of a request."""
        with self._lock:
            self._requests.append(request)
            self._headers.append(headers)

    def ended(self, sent: int) -> None:
        """Called by the thread of a request."""
        with self._lock:
            self._sent.append(sent)

    def wait(self, seconds: float | None) -> bool:
        """Waits so long, or for ever if None; whether the server closes meanwhile."""
        return self._closing.wait(seconds)


class _Http(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, script: ScriptedServer) -> None:
        self.script = script
        self.open: set[socket.socket] = set()
        self.lock = Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def hang_up(self) -> None:
        """Wakes every thread that reads from or writes to a client."""
        with self.lock:
            for each in self.open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with self.server.lock:
            if self.server.script.wait(0):  # it closes, and has hung up on the others
                return
            self.server.open.add(self.connection)
        try:
            with suppress(ConnectionError):  # the client has left, or the server closes
                super().handle()
        finally:
            with self.server.lock:
                self.server.open.discard(self.connection)

    def finish(self) -> None:
        with suppress(ConnectionError):
            super().finish()

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/v1/models":
            listed = [{"id": name, "object": "model", "created": 0} for name in self.server.script.models]
            self._send(Scripted(body=json.dumps({"object": "list", "data": listed}).encode()))
        else:
            self._send(_error(404, f"no such address: {self.path}"))

    def do_POST(self) -> None:
        script = self.server.script
        written = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.path not in ("/v1/chat/completions", "/v1/embeddings"):
            self._send(_error(404, f"no such address: {self.path}"))
            return
        try:
            request = json.loads(written)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            self._send(_error(400, "the body is no JSON object"))
            return
        script.received(request, {name.lower(): value for name, value in self.headers.items()})
        scripted = script.answer(request)
        if script.wait(None if scripted.hang else scripted.delay):
            self.close_connection = True
            return
        body = scripted.body if scripted.text is None else completion(request, scripted)
        self._send(scripted, body)

    def _send(self, scripted: Scripted, body: bytes | None = None) -> None:
        body = scripted.body if body is None else body
        length = len(body) + scripted.padding
        self.send_response(scripted.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        for name, value in scripted.headers:
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = self.close_connection or scripted.cut
        sent, wanted = 0, length // 2 if scripted.cut else length
        try:
            while sent < wanted and not self.server.script.wait(scripted.pace):
                size = min(1 if scripted.pace else PIECE, wanted - sent)
                self.wfile.write(body[sent : sent + size].ljust(size))
                sent += size
        finally:
            self.server.script.ended(sent)

    def log_message(self, format: str, *args: object) -> None:
        """The server is silent."""


def completion(request: Mapping[str, Any], scripted: Scripted) -> bytes:
    """The body of a chat completion with the scripted text and what it used."""
    text = scripted.text or ""
    asked = len(json.dumps(request.get("messages", [])))
    prompt = asked // CHARACTERS_PER_TOKEN if scripted.prompt_tokens is None else scripted.prompt_tokens
    written = len(text) // CHARACTERS_PER_TOKEN if scripted.completion_tokens is None else scripted.completion_tokens
    message = {"role": "assistant", "content": text}
    body = {
        "id": "scripted",
        "object": "chat.completion",
        "created": 0,
        "model": request.get("model", "scripted"),
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written},
    }
    return json.dumps(body).encode()


def _error(status: int, message: str) -> Scripted:
    return Scripted(status=status, body=json.dumps({"error": {"message": message}}).encode())
