"""The writable end of a process' stdin as the keeper holds it."""

from __future__ import annotations

import fcntl
import os

from daemon.runtime.attach import SPLICE
from daemon.runtime.loop import OUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.runtime.attach import Client
    from daemon.runtime.loop import Loop

F_SETPIPE_SZ = 1031


def enlarge(fd: int) -> None:
    """A bigger pipe means fewer wake-ups. May be refused (pipe-max-size), then it stays as it is."""
    try:
        fcntl.fcntl(fd, F_SETPIPE_SZ, SPLICE)
    except OSError:
        return


class Input:
    """The writable end of a process' stdin. Never blocks: what is not taken waits, and the client with it."""

    __slots__ = ("_backlog", "_ending", "_enlarged", "_loop", "_waiting", "closed", "fd", "on_closed", "tty")

    def __init__(self, loop: Loop, fd: int, *, tty: bool, on_closed: Callable[[], None]) -> None:
        os.set_blocking(fd, False)
        self._loop = loop
        self.fd = fd
        self.tty = tty
        self.on_closed = on_closed
        self.closed = False
        self._backlog = b""
        self._waiting: list[Client] = []
        self._ending = False
        self._enlarged = False

    @property
    def spliceable(self) -> bool:
        return not self.tty and not self._backlog

    def write(self, data: bytes, client: Client) -> None:
        if self.closed or self._ending:
            return
        self._backlog += data
        self._flush()
        if self._backlog:
            self.wait(client)

    def wait(self, client: Client) -> None:
        """The pipe is full: `client` is not read until there is room."""
        client.pause()
        if not self._enlarged and not self.tty:
            self._enlarged = True
            enlarge(self.fd)
        if client not in self._waiting:
            self._waiting.append(client)
        if not self._loop.watching(self.fd):
            self._loop.add(self.fd, OUT, self._writable)

    def _flush(self) -> None:
        try:
            while self._backlog:
                self._backlog = self._backlog[os.write(self.fd, self._backlog) :]
        except BlockingIOError:
            if not self._loop.watching(self.fd):
                self._loop.add(self.fd, OUT, self._writable)
        except OSError:
            self.close()

    def _writable(self, events: int) -> None:
        self._flush()
        if self._backlog or self.closed:
            return
        self._loop.remove(self.fd)
        if self._ending:
            self.close()
        self._resume()

    def _resume(self) -> None:
        waiting, self._waiting = self._waiting, []
        for client in waiting:
            if client.sock.fileno() >= 0:
                client.resume()

    def forget(self, client: Client) -> None:
        if client in self._waiting:
            self._waiting.remove(client)

    def end(self) -> None:
        """End of input, after what waits."""
        self._ending = True
        if not self._backlog:
            self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._backlog = b""
        self._loop.remove(self.fd)
        os.close(self.fd)
        self.on_closed()
        self._resume()
