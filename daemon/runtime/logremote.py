"""Logs that go to another process: the system journal and syslog.

Model
    An *encoder* makes one message of every line (or piece of a line, see loglines); a *sink* sends messages,
    in order, without ever waiting. What the receiver does not take yet is the backlog: then the sink is
    *blocked*, and the keeper reads no more of this one container's output, or, with `mode=non-blocking`,
    at most `limit` bytes are kept and newer messages dropped (moby daemon/logger/ring.go).
    `Forwarding` stands where a LogFile does: lines go to the sink, and to a file of the `local` format from
    which `docker logs` reads (moby's dual logging), unless that is switched off.

A receiver that is gone costs messages, as with Docker, not the container: a stream is connected anew with the
next message. Names are resolved by the daemon; here are addresses only.

Formats: systemd's native journal protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), RFC 3164, RFC 5424, and what
moby's syslog driver writes by default, which is RFC 3164 without a host name.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import sys
import time

from daemon.runtime.loop import ERR, HUP, OUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from daemon.runtime.logfile import LogFile, Progress
    from daemon.runtime.loglines import Encoder, Partial
    from daemon.runtime.loop import Loop

INFO, ERROR = 6, 3
BACKLOG = 1 << 20
EPOCH_DIGITS = 12
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_GONE = (errno.ECONNREFUSED, errno.ENOENT, errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT)


def severity(stream: str) -> int:
    return ERROR if stream == "stderr" else INFO


# -- messages ------------------------------------------------------------------------------------------


class SyslogMessages:
    """`settings`: {format, facility (number), tag, hostname, framing}; framing "length" is RFC 5425's."""

    def __init__(self, stream: str, settings: dict[str, str]) -> None:
        self._priority = int(settings["facility"]) << 3 | severity(stream)
        self._format = settings["format"]
        self._tag = settings["tag"]
        self._host = settings["hostname"]
        self._counted = settings.get("framing") == "length"

    def message(self, line: bytes, now: int, partial: Partial | None, last: bool) -> bytes | None:
        if not line:
            return None
        message = self._header(now).encode("utf-8", "replace") + line + b"\n"
        return b"%d %b" % (len(message), message) if self._counted else message

    def _header(self, now: int) -> str:
        seconds, fraction = divmod(now, 1_000_000_000)
        if self._format.startswith("rfc5424"):
            digits = f".{fraction // 1000:06d}" if self._format == "rfc5424micro" else ""
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds)) + digits + _zone(seconds)
            return f"<{self._priority}>1 {stamp} {self._host} {self._tag} {os.getpid()} {self._tag} - "
        local = time.localtime(seconds)
        stamp = f"{_MONTHS[local.tm_mon - 1]} {local.tm_mday:2d} {time.strftime('%H:%M:%S', local)}"
        host = f" {self._host}" if self._format == "rfc3164" else ""
        return f"<{self._priority}>{stamp}{host} {self._tag}[{os.getpid()}]: "


def _zone(seconds: int) -> str:
    offset = time.localtime(seconds).tm_gmtoff // 60
    return (
        "Z" if not offset else f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}"
    )


class JournalMessages:
    """`fields` are those that every message has; names are checked by the daemon."""

    def __init__(self, stream: str, fields: dict[str, str], counter: list[int]) -> None:
        own = b"".join(_journal_field(k, v.encode("utf-8", "replace")) for k, v in sorted(fields.items()))
        self._fixed = own + _journal_field("PRIORITY", b"%d" % severity(stream))
        self._counter = counter

    def message(self, line: bytes, now: int, partial: Partial | None, last: bool) -> bytes | None:
        self._counter[0] += 1
        parts = [_journal_field("MESSAGE", line), self._fixed]
        parts.append(_journal_field("CONTAINER_LOG_ORDINAL", b"%d" % self._counter[0]))
        seconds, fraction = divmod(now, 1_000_000_000)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}".rstrip("0")
        parts.append(_journal_field("SYSLOG_TIMESTAMP", (stamp.rstrip(".") + "Z").encode()))
        if partial is not None:
            parts.append(_journal_field("CONTAINER_PARTIAL_ID", partial.ident.encode()))
            parts.append(_journal_field("CONTAINER_PARTIAL_ORDINAL", b"%d" % partial.ordinal))
            parts.append(_journal_field("CONTAINER_PARTIAL_LAST", b"true" if last else b"false"))
            if not last:
                parts.append(_journal_field("CONTAINER_PARTIAL_MESSAGE", b"true"))
        return b"".join(parts)


def _journal_field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


class ForwardingEncoder:
    """An encoder that sends what it encodes, and encodes for the file beside it when there is one."""

    def __init__(
        self, messages: SyslogMessages | JournalMessages, sink: Sink, beside: Encoder | None
    ) -> None:
        self._messages = messages
        self._sink = sink
        self._beside = beside

    def run(self, lines: bytes, now: int) -> bytes:
        for line in lines[:-1].split(b"\n"):
            self._send(self._messages.message(line, now, None, True))
        return self._beside.run(lines, now) if self._beside is not None else b""

    def piece(self, data: bytes, partial: Partial, *, last: bool) -> bytes:
        line = data[:-1] if last else data
        self._send(self._messages.message(line, partial.time, partial, last))
        return self._beside.piece(data, partial, last=last) if self._beside is not None else b""

    def _send(self, message: bytes | None) -> None:
        if message:
            self._sink.send(message)

    def boundary(self, batch: bytes, position: int) -> int:
        assert self._beside is not None
        return self._beside.boundary(batch, position)


# -- sinks ---------------------------------------------------------------------------------------------


class Sink:
    """Messages to `address` (socket.connect's) over a socket of `family` and `kind`.

    `limit` is None where a full backlog holds the container up, else how many bytes are kept before messages
    are dropped."""

    def __init__(self, loop: Loop, family: int, kind: int, address: Any, limit: int | None) -> None:
        self._loop = loop
        self._family, self._kind, self._address = family, kind, address
        self._limit = limit
        self._queue: list[bytes] = []
        self._queued = 0
        self._sock: socket.socket | None = None
        self._connecting = False
        self._closing = False
        self._abandoned = False
        self._awaits = OUT
        self.dropped = 0
        self.epoch = 0
        self.messages = 0
        self.on_ready: Callable[[], None] = lambda: None

    @property
    def blocked(self) -> bool:
        return self._limit is None and bool(self._queue)

    def send(self, message: bytes) -> None:
        self.messages += 1
        if self._abandoned:
            self._drop(1)
            return
        if self._limit is not None and self._queue and self._queued + len(message) > self._limit:
            self._drop(1)
            return
        self._queue.append(message)
        self._queued += len(message)
        if len(self._queue) == 1:
            self._flush()

    def _drop(self, count: int) -> None:
        if not self.dropped:
            print(f"pyd-keeper: log messages to {self._address} are lost", file=sys.stderr, flush=True)
        self.dropped += count

    def _flush(self) -> None:
        """Sends what the receiver takes; the rest when it takes more."""
        try:
            self._open()
            while self._queue and not self._connecting:
                self._send_first()
        except BlockingIOError:
            self._wait()
        except OSError as error:
            self._failed(error)
        else:
            if self._connecting:
                self._wait()

    def _open(self) -> None:
        if self._sock is not None:
            return
        self._sock = socket.socket(self._family, self._kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self._sock.connect(self._address)
        except BlockingIOError:
            self._connecting = True

    def _send_first(self) -> None:
        assert self._sock is not None
        message = self._queue[0]
        try:
            sent = self._transmit(message)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS) or self._kind != socket.SOCK_DGRAM:
                raise
            self._send_large(message)
            sent = len(message)
        self._queued -= sent
        if sent < len(message):
            self._queue[0] = message[sent:]
        else:
            del self._queue[0]

    def _transmit(self, message: bytes) -> int:
        """How much the receiver took. Raises BlockingIOError when it has to be waited for."""
        assert self._sock is not None
        return self._sock.send(message, socket.MSG_NOSIGNAL)

    def _send_large(self, message: bytes) -> None:
        """Too large for a datagram: the journal takes a sealed memory file instead; syslog cannot."""
        if self._family != socket.AF_UNIX:
            self._drop(1)
            return
        assert self._sock is not None
        memory = os.memfd_create("pyd-journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(memory, message)
            _seal(memory)
            rights = array.array("i", [memory])
            self._sock.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL)
        finally:
            os.close(memory)

    def _wait(self) -> None:
        assert self._sock is not None
        fd = self._sock.fileno()
        if not self._loop.watching(fd):
            self._loop.add(fd, self._awaits, self._writable)
            self._awaits = OUT

    def _writable(self, events: int) -> None:
        assert self._sock is not None
        self._loop.remove(self._sock.fileno())
        if self._connecting or events & (ERR | HUP):
            code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._connecting = False
            if code:
                self._failed(OSError(code, os.strerror(code)))
                return
        self._flush()
        if not self._queue:
            self._emptied()

    def _failed(self, error: OSError) -> None:
        """The receiver is gone: what waits is lost, the next message tries anew."""
        self._disconnect()
        if error.errno not in _GONE:
            print(f"pyd-keeper: log to {self._address}: {error.strerror}", file=sys.stderr, flush=True)
        self._drop(len(self._queue))
        self._queue.clear()
        self._queued = 0
        self._emptied()

    def _emptied(self) -> None:
        if self._closing:
            self._disconnect()
        self.on_ready()

    def _disconnect(self) -> None:
        if self._sock is not None:
            self._loop.remove(self._sock.fileno())
            self._sock.close()
        self._sock, self._connecting = None, False

    def abandon(self) -> None:
        """The container is gone and the receiver does not read: what waits, and what comes, is lost."""
        self._abandoned = True
        self._failed(OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))

    def close(self) -> None:
        """Goes once what waits is sent."""
        self._closing = True
        if not self._queue:
            self._disconnect()


def _seal(memory: int) -> None:
    import fcntl

    everything = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, everything)


# -- in a LogFile's place ---------------------------------------------------------------------------------


class Forwarding:
    """What the keeper asks of a log file, for a log that goes elsewhere. `beside` may be missing: `size` then is the
    number of messages and `inode` their epoch's, by which a reader of the journal knows where it stands."""

    def __init__(self, sink: Sink, beside: LogFile | None) -> None:
        self._sink = sink
        self._beside = beside

    @property
    def size(self) -> int:
        return self._beside.size if self._beside is not None else self._sink.messages

    @property
    def inode(self) -> int:
        return self._beside.inode if self._beside is not None else self._sink.epoch

    @property
    def waiting(self) -> bool:
        return self._beside is not None and self._beside.waiting

    @property
    def blocked(self) -> bool:
        return self._sink.blocked or (self._beside is not None and self._beside.blocked)

    @property
    def on_ready(self) -> Callable[[], None]:
        return self._sink.on_ready

    @on_ready.setter
    def on_ready(self, callback: Callable[[], None]) -> None:
        self._sink.on_ready = callback
        if self._beside is not None:
            self._beside.on_ready = callback

    def pin(self, wanted: bool) -> None:
        if self._beside is not None:
            self._beside.pin(wanted)

    def give_up(self) -> None:
        if self._sink.blocked:
            self._sink.abandon()

    def write(self, batch: bytes, encoder: Encoder, progress: Progress | None = None, done: int = 0) -> bool:
        if self._beside is None or not batch:
            return True
        return self._beside.write(batch, encoder, progress, done)

    def truncate(self, size: int) -> None:
        if self._beside is not None:
            self._beside.truncate(size)

    def close(self) -> None:
        self._sink.close()
        if self._beside is not None:
            self._beside.close()


# -- from a log's specification ---------------------------------------------------------------------------

ADDRESS = "to:"
FIELD = "field:"


def with_prefix(options: dict[str, str], prefix: str) -> dict[str, str]:
    size = len(prefix)
    return {name[size:]: value for name, value in options.items() if name.startswith(prefix)}


def open_sink(options: dict[str, str], loop: Loop, limit: int | None) -> Sink:
    """`to:kind` is unixgram, unix, udp, tcp or tcp+tls; `to:address` a path, or `to:host` and `to:port`."""
    to = with_prefix(options, ADDRESS)
    kind = socket.SOCK_DGRAM if to["kind"] in ("unixgram", "udp") else socket.SOCK_STREAM
    if to["kind"] in ("unixgram", "unix"):
        return Sink(loop, socket.AF_UNIX, kind, to["address"], limit)
    family = socket.AF_INET6 if ":" in to["host"] else socket.AF_INET
    address = (to["host"], int(to["port"]))
    if to["kind"] == "tcp+tls":
        from daemon.runtime.logtls import TlsSink

        return TlsSink(loop, family, address, limit, name=to["name"], files=to)
    return Sink(loop, family, kind, address, limit)


def encoders(driver: str, options: dict[str, str], sink: Sink) -> Callable[..., ForwardingEncoder]:
    """Makes the encoder of a stream: (name, the encoder of the file beside or None)."""
    fields = with_prefix(options, FIELD)
    if (
        driver == "journald"
    ):  # messages are counted from here on, also by a keeper that comes after a killed one
        fields["CONTAINER_LOG_EPOCH"] = os.urandom(32).hex()
        sink.epoch = int(fields["CONTAINER_LOG_EPOCH"][:EPOCH_DIGITS], 16)
    counter = [0]

    def encoder(stream: str, beside: Encoder | None) -> ForwardingEncoder:
        if driver == "journald":
            return ForwardingEncoder(JournalMessages(stream, fields, counter), sink, beside)
        return ForwardingEncoder(SyslogMessages(stream, fields), sink, beside)

    return encoder
