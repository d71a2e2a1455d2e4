"""Messages between daemon, supervisor and keeper: JSON objects over SOCK_SEQPACKET, descriptors beside them.

Model
    A *message* is one JSON object, at most a few descriptors travel with it (SCM_RIGHTS).
    A *request* carries `op` and `seq`; its *reply* the same `seq` and either the result's fields or
    `error`: {"kind", "message", ...}. An *event* carries `event` and no `seq`.
    A *fragment* is one packet: a byte `+` (more follow) or `.` (last), then a piece of the message. The
    kernel refuses packets larger than the send buffer, so large messages (a thousand states) are cut.
    Descriptors travel with the first fragment and arrive close-on-exec.

`Connection` never blocks: what the peer does not take at once waits in a queue and goes out by
`flush`, called when the socket is writable. Standard library only, and little of it: the keeper and
the supervisor import this, and each imported module costs them resident memory.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Message = dict[str, Any]

FRAGMENT = 60 << 10
MAX_DESCRIPTORS = 16
BUFFER = 4 << 20
_INT = struct.Struct("i")
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class Disconnected(Exception):
    """The peer closed the connection or died."""


def fragments(message: Message) -> list[bytes]:
    """The packets that carry `message`."""
    body = _encode(message).encode("utf-8", "surrogateescape")
    if len(body) <= FRAGMENT:
        return [b"." + body]
    pieces = [body[start : start + FRAGMENT] for start in range(0, len(body), FRAGMENT)]
    return [b"+" + piece for piece in pieces[:-1]] + [b"." + pieces[-1]]


class Connection:
    """One end of a SOCK_SEQPACKET connection."""

    __slots__ = ("_body", "_fds", "_queue", "data", "sock")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        self.sock = sock
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._body: list[bytes] = []
        self._fds: list[int] = []
        self.data: Any = None

    def fileno(self) -> int:
        return self.sock.fileno()

    @property
    def pending(self) -> bool:
        """Whether packets wait for the peer; then watch for writability and call `flush`."""
        return bool(self._queue)

    def send(self, message: Message, fds: Iterable[int] = ()) -> None:
        """Sends or queues; `fds` stay the caller's (queued ones are duplicated). Raises Disconnected."""
        descriptors = list(fds)
        for packet in fragments(message):
            if self._queue or not self._transmit(packet, descriptors):
                self._queue.append((packet, [os.dup(fd) for fd in descriptors]))
            descriptors = []

    def flush(self) -> None:
        """Sends what is queued as far as the peer takes it. Raises Disconnected."""
        while self._queue:
            packet, fds = self._queue[0]
            if not self._transmit(packet, fds):
                return
            self._queue.popleft()
            for fd in fds:
                os.close(fd)

    def _transmit(self, packet: bytes, fds: list[int]) -> bool:
        try:
            if fds:
                socket.send_fds(self.sock, [packet], fds, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            else:
                self.sock.send(packet, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as error:
            raise Disconnected(str(error)) from error
        return True

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next whole message with its descriptors (the caller's to close), None when none is there
        yet. Raises Disconnected at the end, or when the peer talks nonsense."""
        while True:
            try:
                packet, fds, flags = receive_packet(self.sock, FRAGMENT + 1, MAX_DESCRIPTORS)
            except BlockingIOError:
                return None
            except OSError as error:
                raise Disconnected(str(error)) from error
            self._fds += fds
            if not packet or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise Disconnected("end of stream" if not packet else "truncated packet")
            self._body.append(packet[1:])
            if packet[:1] == b"+":
                continue
            body, self._body = b"".join(self._body), []
            descriptors, self._fds = self._fds, []
            try:
                message = json.loads(body.decode("utf-8", "surrogateescape"))
            except ValueError as error:
                close_all(descriptors)
                raise Disconnected(f"malformed message: {error}") from error
            return message, descriptors

    def close(self) -> None:
        for _, fds in self._queue:
            close_all(fds)
        self._queue.clear()
        close_all(self._fds)
        self._fds = []
        self.sock.close()


def receive_packet(sock: socket.socket, size: int, most: int) -> tuple[bytes, list[int], int]:
    """One packet, its descriptors (close-on-exec), the flags. Not socket.recv_fds: that one drops its `flags`
    , and so would leak the descriptors to programs."""
    room = socket.CMSG_LEN(most * _INT.size)
    packet, ancillary, flags, _ = sock.recvmsg(size, room, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    fds = [
        fd
        for level, kind, data in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (fd,) in _INT.iter_unpack(data[: len(data) - len(data) % _INT.size])
    ]
    return packet, fds, flags


def close_all(fds: Iterable[int]) -> None:
    """Closes descriptors, each of which may be closed already."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            continue


def peer_allowed(sock: socket.socket) -> bool:
    """Whether the peer is root or of our own user (SO_PEERCRED: struct ucred {pid, uid, gid})."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    uid = int.from_bytes(credentials[4:8], "little")
    return uid in (0, os.getuid())


def peer_pid(sock: socket.socket) -> int:
    """Of a connecting end: the process that called listen()."""
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")


def listen(path: str) -> socket.socket:
    """A listening SOCK_SEQPACKET socket at `path`, for our own user only; replaces a stale one."""
    if os.path.lexists(path):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mask = os.umask(0o177)
    try:
        sock.bind(short_path(path))
    finally:
        os.umask(mask)
    sock.listen(128)
    sock.setblocking(False)
    return sock


def connect(path: str) -> socket.socket:
    """A connected socket. Raises OSError when nobody listens at `path`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(short_path(path))
    except OSError:
        sock.close()
        raise
    return sock


_directories: dict[str, int] = {}


def short_path(path: str) -> str:
    """`path`, or a detour through an open directory where it exceeds sun_path's 107 bytes (unix(7))."""
    if len(os.fsencode(path)) <= 107:
        return path
    folder, name = os.path.split(path)
    if folder not in _directories:
        _directories[folder] = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{_directories[folder]}/{name}"
