"""Raw requests to a daemon's Unix socket, and answers made comparable between two daemons."""

from __future__ import annotations

import http.client
import json
import re
import socket
from dataclasses import dataclass
from typing import Any

TIMEOUT = 30.0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("parity", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


@dataclass(frozen=True)
class Answer:
    status: int
    kind: str
    """Media type, without parameters."""
    body: bytes
    headers: dict[str, str]


def ask(
    path: str, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None
) -> Answer:
    """One request over `path`; `body` is JSON unless it is bytes."""
    connection = _Connection(path)
    sent = dict(headers or {})
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    if data is not None and not isinstance(body, bytes):
        sent.setdefault("Content-Type", "application/json")
    try:
        connection.request(method, target, data, sent)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        kind = found.get("content-type", "").partition(";")[0]
        return Answer(response.status, kind, response.read(), found)
    finally:
        connection.close()


_REPLACED = (
    (re.compile(r"sha256:[0-9a-f]{64}"), "<digest>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<id>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<short>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"), "<time>"),
    (re.compile(r"\b172\.\d+\.\d+\.\d+\b"), "<address>"),
    (re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b"), "<mac>"),
    (re.compile(r"/(?:var/lib/docker|tmp/[^/\s]+/data)/\S*"), "<path>"),
    (re.compile(r"/(?:var/)?(?:run/docker|tmp/[^/\s]+/run)\S*"), "<path>"),
    (re.compile(r"(?:Up|Exited \(\d+\)) .*(?:seconds?|minutes?)( ago)?"), "<since>"),
)
NEVER = "0001-01-01T00:00:00Z"


def same(value: Any) -> Any:
    """A JSON value without what differs from run to run: IDs, times, addresses, paths."""
    if isinstance(value, dict):
        return {same(key): same(each) for key, each in value.items()}
    if isinstance(value, list):
        return [same(each) for each in value]
    if not isinstance(value, str) or value == NEVER:
        return value
    for pattern, name in _REPLACED:
        value = pattern.sub(name, value)
    return value


def shape(value: Any) -> Any:
    """The names and types of a JSON value alone; of a list, its first element."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, bool):
        return "bool"
    return {int: "number", float: "number", str: "string"}.get(type(value), "null")


def frames(data: bytes) -> list[list[Any]]:
    """Docker's multiplexed stream as [stream, text], neighbours of one stream joined."""
    found: list[list[Any]] = []
    while len(data) >= 8:
        size = int.from_bytes(data[4:8], "big")
        text = data[8 : 8 + size].decode()
        if found and found[-1][0] == data[0]:
            found[-1][1] += text
        else:
            found.append([data[0], text])
        data = data[8 + size :]
    return [[stream, same(text)] for stream, text in found]
