"""Descriptors that go along with requests: from the daemon to a worker, on a socket beside that of the requests.

A request is written after its descriptor was sent: whoever reads it finds the descriptor there (unix(7), SCM_RIGHTS).
"""

from __future__ import annotations

import socket
import struct

from storage.errors import Unavailable

_NUMBER = struct.Struct(">Q")


def pair() -> tuple[socket.socket, socket.socket]:
    """Our end and the worker's."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def send(channel: socket.socket, number: int, descriptor: int) -> None:
    """For the request of a number. Unavailable when the worker is gone, or hundreds wait there."""
    try:
        socket.send_fds(channel, [_NUMBER.pack(number)], [descriptor])
    except OSError as error:
        raise Unavailable(f"the worker takes no descriptor: {error.strerror}") from error


class Received:
    """The worker's end."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._waiting: dict[int, int] = {}

    def take(self, number: int) -> int:
        """The descriptor of a request, close-on-exec; the caller's from now on."""
        while number not in self._waiting:
            data, found, _, _ = socket.recv_fds(self._channel, _NUMBER.size, 1, socket.MSG_CMSG_CLOEXEC)
            if not found:
                raise Unavailable("no descriptor came along")
            self._waiting[_NUMBER.unpack(data)[0]] = found[0]
        return self._waiting.pop(number)
