"""The supervisor's side of the keeper: it starts it, talks to it, and starts another when it dies.

The link keeps duplicates of the keeper's listening socket and of its journal, so that a new keeper takes
up where the old one was killed. What processes' stdio must be handed over again is not known here:
`on_restart` is called with a fresh connection.
"""

from __future__ import annotations

import os
import socket
import sys
import time

from daemon.runtime import protocol
from daemon.runtime.loop import ERR, HUP, IN, OUT
from daemon.runtime.protocol import Connection, Disconnected
from daemon.runtime.tasks import Future, start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from daemon.runtime.children import Children
    from daemon.runtime.loop import Loop
    from daemon.runtime.protocol import Message

QUICK_RESTARTS = 10
"""A keeper that dies more often than this within a second is restarted once a second."""
KEEPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "keeper.py")


class KeeperLost(Exception):
    """The keeper died under the request; another is being started."""


class KeeperRefused(Exception):
    """The keeper answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.kind: str = error["kind"]


class KeeperLink:
    def __init__(self, loop: Loop, children: Children, path: str) -> None:
        self._loop = loop
        self._children = children
        self._spawned: list[float] = []
        self._path = path
        self._connection: Connection | None = None
        self._waiting: dict[int, Future] = {}
        self._seq = 0
        self._listener: socket.socket | None = None
        self._journal: int | None = None
        self._stopping = False
        self.pid = 0
        self.on_held: Callable[[Message, list[int]], None] = lambda message, fds: protocol.close_all(fds)
        self.on_stdin_closed: Callable[[str, str | None], None] = lambda container_id, exec_id: None
        self.on_restart: Callable[[], None] = lambda: None

    # -- life --------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Finds the living keeper (its holdings come through `on_held`), or starts one."""
        try:
            sock = protocol.connect(self._path)
        except OSError:
            self._listener = protocol.listen(self._path)
            sock = self._spawn()
        self._use(sock)
        await self._hello()

    async def _hello(self) -> None:
        reply = await self.call("hello", role="supervisor")
        self.pid = reply["pid"]
        journal, listener = reply["fds"]
        if self._journal is not None:
            os.close(self._journal)
        self._journal = journal
        if self._listener is None:
            self._listener = socket.socket(fileno=listener)
        else:
            os.close(listener)

    def _spawn(self) -> socket.socket:
        """Starts a keeper; connecting needs no waiting, since the listening socket is ours."""
        assert self._listener is not None
        inherited = {"--listen-fd": os.dup(self._listener.fileno())}
        if self._journal is not None:
            inherited["--journal-fd"] = os.dup(self._journal)
        argv = [sys.executable, "-I", "-S", KEEPER, "--socket", self._path]  # the path is for readers of `ps`
        for name, fd in inherited.items():
            os.set_inheritable(fd, True)
            argv += [name, str(fd)]
        try:
            pid = os.posix_spawn(sys.executable, argv, dict(os.environ), setsid=True)
        finally:
            protocol.close_all(inherited.values())
        sock = protocol.connect(self._path)
        self._spawned = [*self._spawned[1 - QUICK_RESTARTS :], time.monotonic()]
        self._children.expect(pid, lambda status: self._died(sock))
        return sock

    def _died(self, sock: socket.socket) -> None:
        """Our child is dead: what it said last is read first. When it had not accepted us yet, the
        connection would never tell."""
        if self._connection is not None and self._connection.sock is sock:
            self._ready(IN)
        if self._connection is not None and self._connection.sock is sock:
            self._lost()

    def _use(self, sock: socket.socket) -> None:
        self._connection = Connection(sock)
        self._loop.add(sock.fileno(), IN, self._ready)

    def _lost(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._loop.remove(connection.fileno())
        connection.close()
        lost, self._waiting = self._waiting, {}
        if not self._stopping:
            print("pyd-supervisor: the keeper is gone; starting another", file=sys.stderr, flush=True)
            recent = [when for when in self._spawned if when > time.monotonic() - 1]
            if len(recent) < QUICK_RESTARTS:
                self._restart()
            else:
                self._loop.later(1.0, self._restart)
        for future in lost.values():
            future.fail(KeeperLost("the keeper died"))

    def _restart(self) -> None:
        self._use(self._spawn())
        start(self._hello_again())
        self.on_restart()

    async def _hello_again(self) -> None:
        try:
            reply = await self.call("hello", role="supervisor")
        except (KeeperLost, KeeperRefused):
            return
        self.pid = reply["pid"]
        protocol.close_all(reply["fds"])

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._stopping

    # -- requests ------------------------------------------------------------------------------------------

    async def call(self, op: str, fds: Iterable[int] = (), **fields: Any) -> dict[str, Any]:
        """Raises KeeperLost or KeeperRefused. Received descriptors are in `fds` of the reply."""
        reply: dict[str, Any] = await self._post(op, fds, fields)
        if "error" in reply:
            raise KeeperRefused(reply["error"])
        return reply

    def send(self, op: str, fds: Iterable[int] = (), **fields: Any) -> None:
        """A request whose answer nobody waits for."""
        self._post(op, fds, fields)

    def _post(self, op: str, fds: Iterable[int], fields: dict[str, Any]) -> Future:
        future = Future()
        connection = self._connection
        if connection is None:
            future.fail(KeeperLost("there is no keeper"))
            return future
        self._seq += 1
        self._waiting[self._seq] = future
        try:
            connection.send({"op": op, "seq": self._seq, **fields}, fds)
            self._loop.modify(connection.fileno(), IN | OUT if connection.pending else IN)
        except Disconnected:
            self._loop.defer(self._lost_later(connection))
        return future

    def _lost_later(self, connection: Connection) -> Callable[[], None]:
        return lambda: self._lost() if self._connection is connection else None

    def stop(self) -> Future:
        """Asks the keeper to exit."""
        self._stopping = True
        return self._post("shutdown", (), {})

    # -- what comes ------------------------------------------------------------------------------------------

    def _ready(self, events: int) -> None:
        connection = self._connection
        assert connection is not None
        try:
            if events & OUT:
                connection.flush()
                self._loop.modify(connection.fileno(), IN | OUT if connection.pending else IN)
            if events & (IN | HUP | ERR):
                while connection is self._connection and (received := connection.receive()) is not None:
                    self._dispatch(*received)
        except Disconnected:
            self._lost()

    def _dispatch(self, message: Message, fds: list[int]) -> None:
        event = message.get("event")
        if event == "held":
            self.on_held(message, fds)
        elif event == "stdin_closed":
            self.on_stdin_closed(message["id"], message["exec_id"])
        else:
            future = self._waiting.pop(message.get("seq", -1), None)
            if fds:
                message["fds"] = fds
            if future is not None:
                future.set(message)
