"""One readable end of a process: stdout, stderr, or a tty's master, which counts as stdout.

It is read in one of four ways: with a log, through the journal (pipes) or plainly (ttys); without a log, to several
clients by copying; to a single one by splicing pages from pipe to socket; to nobody by splicing to /dev/null. Each
turn moves at most one chunk.

What goes through the journal is a *flight* (journal.py): taken from the pipe, made into entries, landed in the log.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time

from daemon.runtime import failpoint
from daemon.runtime.attach import SPLICE, SPLICE_FLAGS
from daemon.runtime.loglines import Partial
from daemon.runtime.loop import IN, report
from daemon.runtime.stdin import enlarge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.logfile import Log
    from daemon.runtime.stdio import Process

FIONREAD = 0x541B
BULK = 32 << 10
READ = 64 << 10
LARGEST_PIPE = 1 << 20
"""What enlarge() makes of one, and the kernel's default for a user's (pipe(7))."""


def available(fd: int) -> int:
    """How many bytes lie in a pipe."""
    count: int = struct.unpack("i", fcntl.ioctl(fd, FIONREAD, b"\0\0\0\0"))[0]
    return count


class Output:
    """One readable end of a process."""

    __slots__ = (
        "_aside",
        "_carried",
        "_encoder",
        "_enlarged",
        "_flight",
        "_lines",
        "fd",
        "number",
        "open",
        "process",
        "slot",
        "tty",
    )

    def __init__(self, process: Process, fd: int, number: int, *, tty: bool, slot: int | None) -> None:
        os.set_blocking(fd, False)
        self.process = process
        self.fd = fd
        self.number = number
        self.tty = tty
        self.open = True
        self.slot = slot
        self._enlarged = False
        self._carried = False
        self._aside = False
        self._flight = 0
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

    def catch_up(self) -> None:
        """Reads what lies there now, as far as anything is to be read; a pipe holds no more than that many chunks."""
        for _ in range(LARGEST_PIPE // READ):
            if not self.open or not self.process.loop.watching(self.fd) or not available(self.fd):
                return
            self._readable(IN)

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
        self._flight = journal.begin(slot, size, log.file.size, log.file.inode)
        failpoint.hit("keeper.begun")
        size = os.readv(self.fd, [journal.chunk[:size]])
        data = bytes(journal.chunk[:size])
        failpoint.hit("keeper.read")
        self._land(data)
        return data

    def _land(self, data: bytes) -> None:
        """Logs what the flight under way has brought."""
        assert self.slot is not None
        now = time.time_ns()
        self.process.journal.stamp(self.slot, now)
        if self._log_entries(data, now, 0):
            self.finished()
        else:
            self.process.journal.set_aside(self.slot)
            self._aside = True

    def _log(self, data: bytes) -> None:
        """Without a journal."""
        log = self.process.log
        assert log is not None
        entries = self._lines.feed(data, time.time_ns())
        if entries:
            log.file.write(entries, self._encoder)

    def _log_entries(self, data: bytes, now: int, done: int) -> bool:
        """The entries of `data` (without any: of the stream's end) but for the first `done` bytes of them; False
        when some wait."""
        log = self.process.log
        assert log is not None
        self._carried = bool(self._lines.carry or self._lines.partial)
        entries = self._lines.feed(data, now) if data else self._lines.finish(now)
        return len(entries) <= done or log.file.write(entries[done:], self._encoder, self, done)

    def at(self, inode: int, size: int, done: int) -> None:
        """See logfile.Progress."""
        assert self.slot is not None
        self.process.journal.place(self.slot, inode, size, done)

    def finished(self) -> None:
        """The flight has landed: its entries are in the log, what is carried now is the rest."""
        assert self.slot is not None
        failpoint.hit("keeper.written")
        if self._carried or self._lines.carry or self._lines.partial:
            self._save_carry()
            failpoint.hit("keeper.saved")
        self.process.journal.end(self.slot)
        failpoint.hit("keeper.ended")
        self._aside = False
        if not self.open:
            self.process.journal.free(self.slot)

    def unlogged(self) -> bytes:
        """The beginning of a line whose end has not come: read, shown to clients, in no log yet."""
        return self._lines.carry if self.process.log is not None and self.open else b""

    def _save_carry(self) -> None:
        lines, partial = self._lines, self._lines.partial
        assert self.slot is not None
        save = self.process.journal.save
        if partial is None:
            save(self.slot, self._flight, lines.carry, 0, 0, "")
        else:
            save(self.slot, self._flight, lines.carry, partial.ordinal, partial.time, partial.ident)

    def recover(self) -> None:
        """Takes up what a killed keeper left in the journal: the carried line, and the read under way."""
        log = self.process.log
        if log is None or self.slot is None:
            return
        journal, lines = self.process.journal, self._lines
        journal.claim(self.slot)
        carry, flight = journal.load(self.slot), journal.flight(self.slot)
        lines.carry = carry.data
        if carry.ordinal:
            lines.partial = Partial(carry.time)
            lines.partial.ordinal, lines.partial.ident = carry.ordinal, carry.ident
        if flight is None:
            return
        self._flight = flight.number
        if carry.number == flight.number:
            journal.end(self.slot)
            return
        if flight.inode:
            log.file.truncate(flight.size if flight.inode == log.file.inode else 0)
        if not log.file.waiting:
            self.at(log.file.inode, log.file.size, flight.done)
        now = flight.now or time.time_ns()
        journal.stamp(self.slot, now)
        failpoint.hit("keeper.recovering")
        if self._log_entries(flight.data, now, flight.done):
            self.finished()
        else:
            self._aside = True

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
        if self.process.log is not None:
            self._end_log(self.process.log)

    def _end_log(self, log: Log) -> None:
        """A last line without its end is logged as it is. The slot goes when all is in the log."""
        journal, slot = self.process.journal, self.slot
        if slot is None or self._aside:
            rest = self._lines.finish(time.time_ns())
            if rest:
                log.file.write(rest, self._encoder)
        elif self._lines.carry:
            self._flight = journal.begin(slot, 0, log.file.size, log.file.inode)
            self._land(b"")
        else:
            journal.free(slot)
