"""Requests to a daemon that may die under them: an answer, or the news that there was none."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any


class Unanswered(Exception):
    """The daemon went away: nobody knows what became of the request. `begun` is what came of the answer's body."""

    def __init__(self, message: str, begun: bytes = b"") -> None:
        self.begun = begun
        super().__init__(message)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("pyd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def call(path: str, method: str, target: str, body: Any = None, *, timeout: float = 30) -> tuple[int, Any]:
    """(status, decoded body). Raises Unanswered."""
    connection = _Connection(path, timeout)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    try:
        connection.request(method, target, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        data = response.read()
    except (OSError, http.client.HTTPException) as error:
        begun = error.partial if isinstance(error, http.client.IncompleteRead) else b""
        raise Unanswered(f"{method} {target}: {error}", begun) from None
    finally:
        connection.close()
    try:
        return response.status, json.loads(data) if data.strip() else None
    except ValueError:
        return response.status, data
