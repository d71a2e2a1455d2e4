"""The stdio of one process as the keeper holds it: pipes or a tty, a log, attached clients.

Model
    `Process` is a container's init (exec_id None) or an exec. It may be *expected* (clients attached
    before the start), then *adopts* its descriptors, is *drained* after its exit (all output read), and
    *released* (clients are let go).
    `Output` is one readable end: stdout, stderr, or a tty's master, which counts as stdout.
    `Input` is the writable end (stdin.py).

An output is read in one of four ways: with a log, through the journal (pipes) or plainly (ttys); without
a log, to several clients by copying; to a single one by splicing pages from pipe to socket; to nobody
by splicing to /dev/null. Each turn moves at most one chunk.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time

from daemon.runtime.attach import SPLICE, SPLICE_FLAGS, Client
from daemon.runtime.logfile import Log, open_log
from daemon.runtime.loglines import Partial
from daemon.runtime.loop import IN, report
from daemon.runtime.stdin import Input, enlarge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from daemon.runtime.journal import Journal
    from daemon.runtime.loop import Loop

    Key = tuple[str, str | None]

FIONREAD = 0x541B
BULK = 32 << 10
BACKLOG = 64 << 10
READ = 64 << 10
LOG_PATIENCE = 10.0
"""Seconds that a log's receiver gets after the end of its container; moby daemon/container loggerCloseTimeout."""


def available(fd: int) -> int:
    """How many bytes lie in a pipe."""
    count: int = struct.unpack("i", fcntl.ioctl(fd, FIONREAD, b"\0\0\0\0"))[0]
    return count


class Output:
    """One readable end of a process."""

    __slots__ = ("_encoder", "_enlarged", "_lines", "fd", "number", "open", "process", "slot", "tty")

    def __init__(self, process: Process, fd: int, number: int, *, tty: bool, slot: int | None) -> None:
        os.set_blocking(fd, False)
        self.process = process
        self.fd = fd
        self.number = number
        self.tty = tty
        self.open = True
        self.slot = slot
        self._enlarged = False
        if process.log is not None:
            self._lines, self._encoder = process.log.stream("stdout" if number == 1 else "stderr")

    # -- reading -----------------------------------------------------------------------------------------

    def watch(self, wanted: bool) -> None:
        if not self.open or wanted == self.process.loop.watching(self.fd):
            return
        if wanted:
            self.process.loop.add(self.fd, IN, self._readable)
        else:
            self.process.loop.remove(self.fd)

    def _readable(self, events: int) -> None:
        try:
            data = self._take()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: no process has the tty open any more
                report()
            data = b""
        if data == b"":
            self.end()
        elif data is not None:
            for client in self.process.viewers(self.number):
                client.send(self.number, data)
        self.process.settle()

    def _take(self) -> bytes | None:
        """The next chunk, b"" at the end; None when it has gone its way already."""
        if self.process.log is not None:
            return self._read_and_log()
        viewers = self.process.viewers(self.number)
        if self.tty or len(viewers) > 1:
            return os.read(self.fd, READ)
        size = available(self.fd)
        if not size:
            return os.read(self.fd, READ)
        if size >= BULK and not self._enlarged:
            self._enlarged = True
            enlarge(self.fd)
        if not viewers:
            os.splice(self.fd, self.process.sink, SPLICE, flags=SPLICE_FLAGS)
        elif viewers[0].buffered or viewers[0].held:
            return os.read(self.fd, READ)
        else:
            viewers[0].splice(self, min(size, SPLICE))
        return None

    def _read_and_log(self) -> bytes:
        journal, log, slot = self.process.journal, self.process.log, self.slot
        assert log is not None
        size = 0 if slot is None else min(available(self.fd), len(journal.chunk))
        if slot is None or not size:
            data = os.read(self.fd, READ)
            if data:
                self._log(data)
            return data
        journal.begin(slot, size, log.file.size, log.file.inode)
        size = os.readv(self.fd, [journal.chunk[:size]])
        data = bytes(journal.chunk[:size])
        self._log(data)
        journal.end()
        return data

    def _log(self, data: bytes) -> None:
        lines, log = self._lines, self.process.log
        assert log is not None
        before = lines.carry
        entries = lines.feed(data, time.time_ns())
        if entries:
            log.file.write(entries, self._encoder)
        if self.slot is not None and (before or lines.carry or lines.partial):
            self._save_carry()

    def unlogged(self) -> bytes:
        """The beginning of a line whose end has not come: read, shown to clients, in no log yet."""
        return self._lines.carry if self.process.log is not None and self.open else b""

    def _save_carry(self) -> None:
        lines, partial = self._lines, self._lines.partial
        assert self.slot is not None
        if partial is None:
            self.process.journal.save(self.slot, lines.carry, 0, 0, "")
        else:
            self.process.journal.save(self.slot, lines.carry, partial.ordinal, partial.time, partial.ident)

    def recover(self) -> None:
        """Takes up what a killed keeper left in the journal: the carried line, and the read under way."""
        log = self.process.log
        if log is None or self.slot is None:
            return
        journal, lines = self.process.journal, self._lines
        journal.claim(self.slot)
        carry, flight = journal.load(self.slot), journal.flight
        lines.carry = carry.data
        if carry.ordinal:
            lines.partial = Partial(carry.time)
            lines.partial.ordinal, lines.partial.ident = carry.ordinal, carry.ident
        if flight is None or flight.slot != self.slot or carry.number == flight.number:
            return
        if flight.inode == log.file.inode:
            log.file.truncate(flight.size)
        self._log(flight.data)

    # -- the end -------------------------------------------------------------------------------------------

    def exhausted(self) -> bool:
        """Nothing more to read now (a process in the background may still hold the other end)."""
        return self.tty or not available(self.fd)

    def end(self) -> None:
        if not self.open:
            return
        self.watch(False)
        self.open = False
        os.close(self.fd)
        log = self.process.log
        if log is not None:
            rest = self._lines.finish(time.time_ns())
            if rest:
                log.file.write(rest, self._encoder)
            if self.slot is not None:
                self.process.journal.free(self.slot)


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
            self.pidfd = fd
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
        """Some other process holds the output open; what there is has been read."""
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
