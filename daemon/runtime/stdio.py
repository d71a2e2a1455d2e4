"""The stdio of one process as the keeper holds it: pipes or a tty, a log, attached clients.

Model
    `Process` is a container's init (exec_id None) or an exec. It may be *expected* (clients attached
    before the start), then *adopts* its descriptors, is *drained* after its exit (all output read), and
    *released* (clients are let go).
    `Output` is a readable end (output.py), `Input` the writable one (stdin.py).
"""

from __future__ import annotations

import os

from daemon.runtime.attach import Client
from daemon.runtime.logfile import Log, open_log
from daemon.runtime.loop import IN
from daemon.runtime.output import Output
from daemon.runtime.stdin import Input

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from daemon.runtime.journal import Journal
    from daemon.runtime.loop import Loop

    Key = tuple[str, str | None]

COMPRESSOR_PATIENCE = 2.0
LOG_PATIENCE = 10.0
"""Seconds that a log's receiver gets after the end of its container; moby daemon/container loggerCloseTimeout."""


class Process:
    """See the module's text. `description`: {id, exec_id, tty, closes_stdin, log, names, slots}; `names` says
    what the descriptors beside it are: stdin, stdout, stderr, tty, pidfd."""

    __slots__ = (
        "_blockers",
        "_drained",
        "_on_detach",
        "_on_idle",
        "_on_stdin_closed",
        "clients",
        "closes_stdin",
        "description",
        "exited",
        "input_lost",
        "journal",
        "key",
        "log",
        "loop",
        "outputs",
        "pidfd",
        "released",
        "sink",
        "stdin",
    )

    def __init__(
        self,
        key: Key,
        loop: Loop,
        journal: Journal,
        sink: int,
        on_detach: Callable[[Process], None],
        on_stdin_closed: Callable[[Process], None],
        on_idle: Callable[[Process], None],
    ) -> None:
        self.key = key
        self.loop = loop
        self.journal = journal
        self.sink = sink
        self._on_detach = on_detach
        self._on_stdin_closed = on_stdin_closed
        self._on_idle = on_idle
        self._blockers: set[object] = set()
        self._drained: Callable[[], None] | None = None
        self.clients: list[Client] = []
        self.closes_stdin = False
        self.description: dict[str, Any] | None = None
        self.exited = False
        self.input_lost = False
        """A client that was to feed the input went before the process came: it will find its input at its end."""
        self.released = False
        self.log: Log | None = None
        self.outputs: list[Output] = []
        self.pidfd = -1
        self.stdin: Input | None = None

    # -- life ------------------------------------------------------------------------------------------------

    def adopt(self, description: dict[str, Any], fds: list[int], *, recover: bool) -> None:
        """Takes over the descriptors. Raises LogError, then nothing was taken."""
        self.log = open_log(description["log"], self._watch_once, self.loop)
        if self.log is not None:
            self.log.file.on_ready = self._log_ready
            self._pin_log()
        self.description = description
        self.closes_stdin = description["closes_stdin"]
        slots = description.setdefault("slots", {})
        for name, fd in zip(description["names"], fds, strict=True):
            self._adopt_one(name, fd, slots)
        for output in self.outputs:
            if recover:
                output.recover()
        self.settle()
        for client in list(self.clients):
            client.begin()
        if self.input_lost and self.closes_stdin and not any(client.reads for client in self.clients):
            self.end_input()

    def _adopt_one(self, name: str, fd: int, slots: dict[str, int]) -> None:
        if name == "pidfd":
            self.note_pidfd(fd)
        elif name == "stdin":
            self.stdin = Input(self.loop, fd, tty=False, on_closed=lambda: self._on_stdin_closed(self))
        elif name == "tty":
            self.outputs.append(Output(self, fd, 1, tty=True, slot=None))
            self.stdin = Input(self.loop, os.dup(fd), tty=True, on_closed=lambda: None)
        else:
            if self.log is not None and name not in slots:
                slots[name] = self.journal.allocate()
            number = 1 if name == "stdout" else 2
            self.outputs.append(Output(self, fd, number, tty=False, slot=slots.get(name)))

    def _watch_once(self, fd: int, callback: Callable[[], None]) -> None:
        def ready(events: int) -> None:
            self.loop.remove(fd)
            os.close(fd)
            callback()

        self.loop.add(fd, IN, ready)

    def descriptors(self) -> tuple[list[str], list[int]]:
        """What a supervisor needs to hold duplicates: names and descriptors still open."""
        held = [
            ("tty" if o.tty else ("", "stdout", "stderr")[o.number], o.fd) for o in self.outputs if o.open
        ]
        if self.stdin is not None and not self.stdin.tty and not self.stdin.closed:
            held.append(("stdin", self.stdin.fd))
        if self.pidfd >= 0:
            held.append(("pidfd", self.pidfd))
        return [name for name, _ in held], [fd for _, fd in held]

    def drain(self, done: Callable[[], None]) -> None:
        """The process has exited: calls back once all its output is read, logged and on its way."""
        self.exited = True
        self._drained = done
        self.settle()

    def give_up_draining(self) -> None:
        """Some other process holds the output open: what there is, is read, also by a keeper that a slow disk has
        held up. Or our own compressor is late on a busy machine: then the log grows too long rather than to miss
        its end when the exit is told."""
        for output in self.outputs:
            output.catch_up()
        if self.log is not None and self.log.file.waiting:
            self.loop.later(COMPRESSOR_PATIENCE, self._report_drained)
            self.log.file.pin(True)
        else:
            self._report_drained()

    def _report_drained(self) -> None:
        done, self._drained = self._drained, None
        if done is not None:
            done()

    def release(self) -> None:
        """The exit is known to the daemon: close the input, let clients go when they have got everything."""
        self.released = True
        if self.stdin is not None:
            self.stdin.close()
        self._close_pidfd()
        self.settle()
        if self.log is not None:
            self.loop.later(LOG_PATIENCE, self._give_up_log)

    def _give_up_log(self) -> None:
        """Whoever takes the log does not read: the end of the container waits no longer (as in Docker)."""
        if self.log is not None:
            self.log.file.give_up()

    def discard(self, *, hand_back: bool = False) -> None:
        """Closes everything now (the process never started, or its container is deleted).

        With `hand_back` the clients' connections go on in the hands of who has copies of them.
        """
        for client in list(self.clients):
            if hand_back:
                client.hand_back()
            else:
                client.close()
        for output in self.outputs:
            output.end()
        if self.stdin is not None:
            self.stdin.close()
        self._close_pidfd()
        self._close_log()

    def note_pidfd(self, fd: int) -> None:
        """Of the process that the streams belong to: another one where the first died before it ran anything."""
        self._close_pidfd()
        self.pidfd = fd

    def _close_pidfd(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def _close_log(self) -> None:
        if self.log is not None:
            self.log.file.close()
            self.log = None

    # -- flow ------------------------------------------------------------------------------------------------

    def viewers(self, number: int) -> list[Client]:
        return [client for client in self.clients if number in client.streams]

    def block(self, who: object) -> None:
        """Somebody cannot take more output; nothing is read until `unblock`."""
        self._blockers.add(who)
        self.settle()

    def unblock(self, who: object) -> None:
        if who in self._blockers:
            self._blockers.discard(who)
            self.settle()

    def _log_ready(self) -> None:
        self.settle()

    def settle(self) -> None:
        """Watches what should be watched; finishes what is finished. Called after every change."""
        if self.description is None:
            return
        splicing = any(client.owed for client in self.clients)
        blocked = bool(self._blockers) and (splicing or not self.exited or self.log is None)
        if self.log is not None and self.log.file.blocked:
            blocked = True
        for output in self.outputs:
            if output.open and self.released and not blocked and output.exhausted():
                output.end()
            output.watch(not blocked)
        if any(output.open for output in self.outputs):
            return
        if self.exited:
            self._report_drained()
        if self.released:
            self._close_log()
            for client in list(self.clients):
                client.close()

    # -- clients ---------------------------------------------------------------------------------------------

    def attach(self, fd: int, request: dict[str, Any]) -> Client:
        client = Client(self, fd, request, lambda: self._on_detach(self))
        self.clients.append(client)
        if self.released:
            client.close()
        elif self.description is not None:
            client.begin()
        return client

    def hold(self, client: Client, path: str) -> dict[str, int]:
        """Where the log at `path` stands, so that its replay ends exactly where `client`'s own stream begins:
        {inode, size} of the file that is written. What is in no log yet waits for the client already."""
        self._pin_log()
        for output in self.outputs:
            rest = output.unlogged()
            if rest and output.number in client.streams:
                client.send(output.number, rest)
        if self.log is not None:
            return {"inode": self.log.file.inode, "size": self.log.file.size}
        try:
            status = os.stat(path)
        except OSError:
            return {"inode": 0, "size": 0}
        return {"inode": status.st_ino, "size": status.st_size}

    def let_loose(self, client: Client, *, drop: bool) -> None:
        """Ends a hold; with `drop` the client is gone."""
        if drop:
            client.drop()
        else:
            client.resume_held()
        self._pin_log()

    def _pin_log(self) -> None:
        """Nothing rotates away what is being replayed."""
        if self.log is not None:
            self.log.file.pin(any(client.held for client in self.clients))

    def end_input(self) -> None:
        if self.stdin is not None and not self.stdin.tty:
            self.stdin.end()

    def forget_client(self, client: Client) -> None:
        if client in self.clients:
            self.clients.remove(client)
        if self.stdin is not None:
            self.stdin.forget(client)
        self._pin_log()
        self.unblock(client)
        awaited = self.input_lost and self.key[1] is not None  # an exec comes surely, or is forgotten
        if self.description is None and not self.clients and not awaited:
            self._on_idle(self)
