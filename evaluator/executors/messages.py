"""How objects cross a stream of bytes between a worker and its pool, whatever else is written to the stream.

A message is a header (a mark, the length of what follows, its CRC-32) and a pickle. The pool reads only what is there
and never waits for the rest of a message, so a worker that stops in the middle of one holds up nobody. What is not a
message is noticed by its first bytes and never unpickled.
"""

import pickle
import struct
import zlib
from typing import Any

from archloom.evaluator.trial import MEASUREMENT_BYTES

HEADER = struct.Struct(">4sII")
MARK = b"\xa7arc"
LARGEST = 2 * MEASUREMENT_BYTES
"""Bytes of the largest message; a header that announces more is none."""


class Garbled(Exception):
    """The stream holds something that is no message; nothing after it can be read."""


def pack(message: object) -> bytes:
    body = pickle.dumps(message)
    return HEADER.pack(MARK, len(body), zlib.crc32(body)) + body


class Inbox:
    """Puts messages together from the pieces in which a stream delivers them."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, piece: bytes) -> list[Any]:
        """The messages that `piece` completes, in their order. Raises `Garbled`."""
        self._bytes += piece
        messages = []
        while (body := self._next()) is not None:
            messages.append(pickle.loads(body))
        return messages

    def _next(self) -> bytes | None:
        if not self._bytes[: len(MARK)] == MARK[: len(self._bytes)]:
            raise Garbled(f"the worker's stream holds what is no message: {bytes(self._bytes[:20])!r}")
        if len(self._bytes) < HEADER.size:
            return None
        _, length, check = HEADER.unpack_from(self._bytes)
        if length > LARGEST:
            raise Garbled(f"a message of {length} bytes was announced; none has more than {LARGEST}")
        if len(self._bytes) < HEADER.size + length:
            return None
        body = bytes(self._bytes[HEADER.size : HEADER.size + length])
        if zlib.crc32(body) != check:
            raise Garbled(f"a message of {length} bytes arrived damaged")
        del self._bytes[: HEADER.size + length]
        return body
