"""Kills the workers of a pool that has died, with all that they have started.

A worker leads a process group. While its pool lives, the pool kills the group; this program does it when the pool is
gone, by `kill -9` too. The worker itself could not: it may hold Python's lock in a call that never returns. The program
runs apart (a session of its own, so that no signal to the pool's group reaches it), needs the standard library only and
has one wait: for orders on its standard input, "+<group>" or "-<group>" a line, and for the end of its parent. An actor
of Ray is its own pool here and has its own group watched.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys

LOOK_SECONDS = 0.5
"""How often it looks whether its parent is still there: the end of its input can be late, if the pool's process was
forked and a copy holds the other end."""


class Guard:
    """The pool's side. It belongs to the thread of its pool."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process = _start()

    def watch(self, group: int) -> None:
        """Kill this process group when the calling process dies. Raises `OSError` if no guard can be started."""
        self._groups.add(group)
        self._order(f"+{group}\n")

    def forget(self, group: int) -> None:
        """The group is dead, and its number may come to mean another one."""
        self._groups.discard(group)
        self._order(f"-{group}\n")

    def close(self) -> None:
        """End the guard. It kills what it still watches."""
        self._end()

    def _order(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
        except BrokenPipeError:  # somebody killed the guard
            self._end()
            self._process = _start()
            assert self._process.stdin is not None
            self._process.stdin.write("".join(f"+{group}\n" for group in self._groups).encode())

    def _end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def kill_group(group: int) -> None:
    """End every process of a group at once; nothing to do if there is none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter is what macOS says of dead processes
        os.killpg(group, signal.SIGKILL)


def _start() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        bufsize=0,
        cwd="/",
    )


def main() -> None:
    """The guard's side: take orders until the parent is gone, then kill. The parent may be gone before this begins."""
    parent, groups, rest = int(sys.argv[1]), set[int](), b""
    while True:
        gone = os.getppid() != parent
        piece: bytes | None = None
        if select.select([0], [], [], 0 if gone else LOOK_SECONDS)[0]:
            piece = os.read(0, 65536)
        if piece == b"" or (gone and piece is None):
            break
        *lines, rest = (rest + (piece or b"")).split(b"\n")
        for line in lines:
            (groups.add if line.startswith(b"+") else groups.discard)(int(line[1:]))
    for group in groups:
        kill_group(group)


if __name__ == "__main__":
    main()
