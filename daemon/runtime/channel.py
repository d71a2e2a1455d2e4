"""One asyncio connection to the supervisor or the keeper, with its requests under way."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from daemon.runtime import protocol
from daemon.runtime.protocol import Connection, Disconnected
from daemon.runtime.results import Unavailable, failure


class Channel:
    """One connection with its requests under way; `on_event` gets what is no reply."""

    def __init__(
        self, sock: socket.socket, on_event: Callable[[dict[str, Any]], None], on_close: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(sock)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._seq = 0
        self._on_event = on_event
        self._on_close = on_close
        self.open = True
        self._pidfd = -1
        self.ended = asyncio.Event()
        self._loop.add_reader(sock.fileno(), self._readable)

    def watch_process(self, pid: int) -> None:
        """Closes when the peer dies. The socket alone would not tell: a clone of a killed supervisor on
        its way to execve still holds it."""
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self.close()
            return
        self._loop.add_reader(self._pidfd, self.close)

    async def call(self, op: str, fds: tuple[int, ...] = (), **fields: Any) -> dict[str, Any]:
        if not self.open:
            raise Unavailable("the connection to the container supervisor is broken")
        self._seq += 1
        seq = self._seq
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._waiting[seq] = future
        try:
            self.post({"op": op, "seq": seq, **fields}, fds)
            reply = await future
        finally:
            self._waiting.pop(seq, None)
        if "error" in reply:
            raise failure(reply["error"])
        return reply

    def post(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        try:
            self._connection.send(message, fds)
            if self._connection.pending:
                self._loop.add_writer(self._connection.fileno(), self._writable)
        except Disconnected:
            self.close()

    def _writable(self) -> None:
        try:
            self._connection.flush()
        except Disconnected:
            self.close()
            return
        if not self._connection.pending:
            self._loop.remove_writer(self._connection.fileno())

    def _readable(self) -> None:
        try:
            while self.open and (received := self._connection.receive()) is not None:
                message, fds = received
                protocol.close_all(fds)
                self._dispatch(message)
        except Disconnected:
            self.close()

    def _dispatch(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._on_event(message)
            return
        future = self._waiting.get(message.get("seq", -1))
        if future is not None and not future.done():
            future.set_result(message)

    def close(self) -> None:
        if not self.open:
            return
        self.open = False
        self.ended.set()
        self._loop.remove_reader(self._connection.fileno())
        self._loop.remove_writer(self._connection.fileno())
        self._connection.close()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the container supervisor went away during the request"))
        self._on_close()
