"""A small rtnetlink client: one socket, requests in batches, dumps as plain records.

pyroute2 is the usual choice; importing any part of it pulls in all of it (12.4 MB resident and 70 ms,
measured with 0.9.6), which a daemon that has 90 MB in all for itself does not have to spare. What a
bridge engine needs of rtnetlink fits here: links, addresses, routes, neighbours.

A socket belongs for ever to the network namespace in which it was opened, so a socket kept from the
moment a namespace was made configures that namespace later without entering it (see namespaces.py).

Formats: include/uapi/linux/{netlink,rtnetlink,if_link,if_addr,veth}.h; man 7 netlink, 7 rtnetlink.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

NETLINK_ROUTE = 0
SOL_NETLINK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 11, 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSGERR_ATTR_MSG = 1

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NLA_TYPE_MASK = 0x3FFF


class NetlinkError(OSError):
    """The kernel refused a request; `strerror` says which and, where the kernel tells, why."""

    def __init__(self, number: int, what: str, hint: str = "") -> None:
        reason = hint or os.strerror(number)
        super().__init__(number, f"{what}: {reason}")


@dataclass(frozen=True, slots=True)
class Message:
    """One request: `what` is for error texts only; `tolerate` are errnos that mean "already so"."""

    what: str
    type: int
    body: bytes
    flags: int = 0
    tolerate: frozenset[int] = frozenset()


def attribute(kind: int, payload: bytes) -> bytes:
    """One TLV, padded to four bytes."""
    size = 4 + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + b"\0" * (-size % 4)


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes) -> dict[int, bytes]:
    """The TLVs of a message's tail by type; of repeated types the last wins."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < 4:
            break
        found[kind & _NLA_TYPE_MASK] = data[at + 4 : at + size]
        at += size + (-size % 4)
    return found


class NetlinkSocket:
    """A blocking netlink socket in the namespace of the thread that makes it. Not thread-safe."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def request(self, *messages: Message) -> None:
        """Send all in one packet (the kernel runs them in order); raise the first failure after the last."""
        if not messages:
            return
        first = self._sequence + 1
        self._sequence += len(messages)
        self._socket.send(
            b"".join(
                _pack(message, NLM_F_REQUEST | NLM_F_ACK | message.flags, first + offset)
                for offset, message in enumerate(messages)
            )
        )
        failure: NetlinkError | None = None
        left = len(messages)
        while left:
            for kind, flags, sequence, body in _split(self._socket.recv(65536)):
                if kind != NLMSG_ERROR or not first <= sequence <= self._sequence:
                    continue
                left -= 1
                message = messages[sequence - first]
                code = -int(struct.unpack_from("=i", body)[0])
                if code and code not in message.tolerate and failure is None:
                    failure = NetlinkError(code, message.what, _hint(body, flags))
        if failure:
            raise failure

    def dump(self, message: Message) -> Iterator[bytes]:
        """Bodies of all answers to a dump request."""
        self._sequence += 1
        self._socket.send(_pack(message, NLM_F_REQUEST | NLM_F_DUMP, self._sequence))
        answers: list[bytes] = []
        while True:
            for kind, _flags, sequence, body in _split(self._socket.recv(1 << 18)):
                if sequence != self._sequence:
                    continue
                if kind == NLMSG_ERROR:
                    raise NetlinkError(-struct.unpack_from("=i", body)[0], message.what)
                if kind == NLMSG_DONE:
                    return iter(answers)
                answers.append(body)

    def ask(self, message: Message) -> bytes | None:
        """The one answer to a get request; None when the kernel knows no such object."""
        self._sequence += 1
        self._socket.send(_pack(message, NLM_F_REQUEST, self._sequence))
        while True:
            for kind, _flags, sequence, body in _split(self._socket.recv(65536)):
                if sequence != self._sequence:
                    continue
                if kind != NLMSG_ERROR:
                    return body
                code = -int(struct.unpack_from("=i", body)[0])
                if code in (errno.ENODEV, errno.ENOENT, errno.ESRCH):
                    return None
                raise NetlinkError(code, message.what)


def _pack(message: Message, flags: int, sequence: int) -> bytes:
    size = _HEADER.size + len(message.body)
    return _HEADER.pack(size, message.type, flags, sequence, 0) + message.body + b"\0" * (-size % 4)


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags, sequence, _port = _HEADER.unpack_from(data, at)
        if size < _HEADER.size:
            break
        yield kind, flags, sequence, data[at + _HEADER.size : at + size]
        at += size + (-size % 4)


def _hint(body: bytes, flags: int) -> str:
    """The kernel's own words (extended ack), if it sent any."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    echoed = _HEADER.size if flags & NLM_F_CAPPED else struct.unpack_from("=I", body, 4)[0]
    found = attributes(body[4 + echoed + (-echoed % 4) :])
    return found.get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
