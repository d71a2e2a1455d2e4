"""The listening side of the protocol: accepts connections on the loop, hands messages to one function.

Each connection has a role in `data`: "daemon" until it says otherwise. Only root and our own user may
connect. A peer that vanishes or talks nonsense is dropped; that concerns nobody else.
"""

from __future__ import annotations

from daemon.runtime import protocol
from daemon.runtime.loop import ERR, HUP, IN, OUT
from daemon.runtime.protocol import Connection, Disconnected

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from daemon.runtime.loop import Loop
    from daemon.runtime.protocol import Message


class RequestError(Exception):
    """A request cannot be served. `kind`: "launch", "not_running", "refused" or "internal"."""

    def __init__(self, kind: str, message: str, exit_code: int = 128) -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = exit_code

    def reply(self) -> Message:
        return {"error": {"kind": self.kind, "message": str(self), "exit_code": self.exit_code}}


class Server:
    def __init__(
        self, loop: Loop, listener: socket.socket, serve: Callable[[Connection, Message, list[int]], None]
    ) -> None:
        self._loop = loop
        self._serve = serve
        self._connections: set[Connection] = set()
        self.listener = listener
        self.on_lost: Callable[[Connection], None] = lambda connection: None
        loop.add(listener.fileno(), IN, self._accept)

    def _accept(self, events: int) -> None:
        try:
            sock, _ = self.listener.accept()
        except BlockingIOError:
            return
        if not protocol.peer_allowed(sock):
            sock.close()
            return
        connection = Connection(sock)
        connection.data = "daemon"
        self._connections.add(connection)
        self._loop.add(sock.fileno(), IN, lambda events: self._ready(connection, events))

    def _ready(self, connection: Connection, events: int) -> None:
        try:
            if events & OUT:
                connection.flush()
            if events & (IN | HUP | ERR):
                received = connection.receive()
                if received is not None:
                    self._serve(connection, *received)
            self._watch(connection)
        except Disconnected:
            self._lose(connection)

    def _watch(self, connection: Connection) -> None:
        if connection in self._connections:
            self._loop.modify(connection.fileno(), IN | OUT if connection.pending else IN)

    def _lose(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._loop.remove(connection.fileno())
            connection.close()
            self.on_lost(connection)

    def connected(self, role: str) -> bool:
        return any(connection.data == role for connection in self._connections)

    def send(self, connection: Connection, message: Message, fds: Iterable[int] = ()) -> None:
        """To a peer that may be gone already."""
        if connection not in self._connections:
            return
        try:
            connection.send(message, fds)
            self._watch(connection)
        except Disconnected:
            self._lose(connection)

    def publish(self, role: str, message: Message) -> None:
        for connection in [c for c in self._connections if c.data == role]:
            self.send(connection, message)
