"""A connection taken over from HTTP: attach, exec start.

The request asks to upgrade to `tcp`; the daemon answers 101 (or 200, if old) and from then on the connection is
the container's stdin one way and its output the other: raw for a tty, else in frames of
`[stream, 0, 0, 0, length as u32 big-endian]` (Docker Engine API, "ContainerAttach").
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from client.errors import ApiError, ClientError

if TYPE_CHECKING:
    from client.endpoint import Endpoint
    from client.tls import TlsStream

    Socket = socket.socket | TlsStream

_BUFFER = 1 << 20


class RawStream:
    """The taken-over socket. `framed` says whether output comes in frames."""

    def __init__(self, sock: Socket, early: bytes, content_type: str) -> None:
        self._sock = sock
        self._early = early
        self.framed = content_type != "application/vnd.docker.raw-stream"
        self.announced = bool(content_type)

    def chunks(self) -> Iterator[memoryview]:
        """What comes, as views of one buffer: each is valid until the next is asked for."""
        if self._early:
            yield memoryview(self._early)
        buffer = bytearray(_BUFFER)
        view = memoryview(buffer)
        with contextlib.suppress(ConnectionResetError):
            while count := self._sock.recv_into(buffer):
                yield view[:count]

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def finish_input(self) -> None:
        """No more stdin: half-close, so that output still arrives."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def _read_head(sock: Socket) -> tuple[int, dict[str, str], bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        data = sock.recv(1 << 16)
        if not data:
            raise ClientError("the daemon closed the connection before it answered")
        received += data
    head, _, early = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(status_line.split()[1]), headers, early


def _read_error_body(sock: Socket, headers: Mapping[str, str], early: bytes) -> bytes:
    """The body of a refusal, by its length or to the end; chunk headers are cut off where there are any."""
    length = int(headers["content-length"]) if "content-length" in headers else None
    chunked = headers.get("transfer-encoding", "").lower() == "chunked"
    body = early
    while (length is None or len(body) < length) and not (chunked and body.endswith(b"0\r\n\r\n")):
        data = sock.recv(1 << 16)
        if not data:
            break
        body += data
    return body[body.find(b"{") : body.rfind(b"}") + 1] if chunked else body


def open_stream(endpoint: Endpoint, target: str, document: Any, headers: Mapping[str, str]) -> RawStream:
    """Send the upgrading POST and hand out the connection; ApiError when the daemon refuses."""
    body = b"" if document is None else json.dumps(document).encode()
    prefix = endpoint.path if endpoint.scheme == "tcp" else ""
    lines = [f"POST {prefix}{target} HTTP/1.1", f"Host: {endpoint.host}", "Connection: Upgrade", "Upgrade: tcp",
             f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]  # fmt: skip
    if body:
        lines.append("Content-Type: application/json")
    sock = endpoint.duplex(10.0)
    sock.settimeout(None)
    sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    status, answer, early = _read_head(sock)
    if status >= 400:
        error = ApiError.of(status, _read_error_body(sock, answer, early))
        sock.close()
        raise error
    return RawStream(sock, early, answer.get("content-type", ""))
