"""The HTTP surface: whatever comes over the socket, the daemon answers in HTTP or hangs up, and goes on."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import strategies as st

from tests.fuzz.running import all_night, once
from tests.system.host import Host

METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "get", "", "X" * 300])
NAMES = st.sampled_from(["c1", "none", "", "..", "%2e%2e", "a/b", "\x00", "%00", "é", "f" * 500])
PATHS = st.builds(
    lambda version, path, name: version + path.replace("ID", quote(name, safe="%/.")),
    st.sampled_from(["", "/v1.24", "/v1.51", "/v9.9", "/v1.", "//"]),
    st.sampled_from(
        [
            "/containers/json",
            "/containers/create",
            "/containers/ID/json",
            "/containers/ID/start",
            "/containers/ID/logs",
            "/containers/ID/attach",
            "/containers/ID/archive",
            "/containers/ID/update",
            "/containers/ID/resize",
            "/containers/ID/exec",
            "/containers/ID/rename",
            "/exec/ID/start",
            "/exec/ID/json",
            "/images/json",
            "/images/ID/json",
            "/networks/ID",
            "/networks/create",
            "/volumes/create",
            "/volumes/ID",
            "/events",
            "/info",
            "/_ping",
            "/ID",
        ]
    ),
    NAMES,
)
PARAMETERS = st.sampled_from(
    [
        *("all", "limit", "filters", "size", "since", "until", "tail", "follow", "stdout", "h", "w", "t"),
        *("signal", "condition", "path", "name", "stream", "detachKeys", "force", "v", "platform"),
    ]
)
QUERIES = st.lists(st.tuples(PARAMETERS, st.one_of(st.text(max_size=20), st.integers().map(str))), max_size=4)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Expect", "Host"),
                *("Content-Type", "X-Registry-Auth", "X", ""),
            ]
        ),
        st.one_of(
            st.sampled_from(["0", "-1", "99999999999", "chunked", "close", "tcp", "100-continue", "a\x00b"]),
            st.text(max_size=20),
        ),
    ),
    max_size=4,
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        *("Image", "Cmd", "Env", "HostConfig", "Healthcheck", "Labels", "ExposedPorts", "StopTimeout"),
        *("Volumes", "NetworkingConfig", "Entrypoint", "Tty", "User", "WorkingDir", "Name", "Driver"),
    ]
)
BODIES = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(FIELDS, JSON, max_size=4).map(lambda value: json.dumps(value).encode()),
    st.just(b'{"a":' * 3000),
)


def send(path: Path, data: bytes, patience: float = 0.3) -> bytes:
    """All that the server says until it hangs up, is silent for `patience` seconds, or has said enough."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.settimeout(patience)
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while len(answer) < 65536 and (more := client.recv(65536)):
                answer += more
        except (TimeoutError, ConnectionError, BrokenPipeError):
            pass
    return answer


class Surface:
    def __init__(self, host: Host) -> None:
        self.host = host

    def raw(self, data: bytes) -> None:
        self._sound(data, send(self.host.socket, data))

    def request(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        headers: list[tuple[str, str]],
        body: bytes,
        measured: bool,
    ) -> None:
        target = path + ("?" + "&".join(f"{k}={quote(v, safe='')}" for k, v in query) if query else "")
        lines = [f"{method} {target} HTTP/1.1", "Host: pyd", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers]
        if measured:
            lines.append(f"Content-Length: {len(body)}")
        data = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass") + body
        self._sound(data, send(self.host.socket, data))

    def _sound(self, sent: bytes, answer: bytes) -> None:
        if answer:
            match = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
            assert match, (sent, answer[:200])
            status = int(match[1])
            assert status < 500 or status in (501, 503), (sent, answer[:500])
        assert self.host.process and self.host.process.poll() is None
        ping = send(self.host.socket, b"GET /_ping HTTP/1.1\r\nHost: pyd\r\n\r\n", patience=10.0)
        assert b"200 OK" in ping


@pytest.fixture
def surface(host: Host) -> Surface:
    host.docker("create", "--name", "c1", "busybox", "true")
    return Surface(host)


REQUEST: dict[str, Any] = {
    "method": METHODS,
    "path": PATHS,
    "query": QUERIES,
    "headers": HEADERS,
    "body": BODIES,
    "measured": st.booleans(),
}


def test_requests(surface: Surface) -> None:
    once(surface.request, 60, **REQUEST)


def test_bytes(surface: Surface) -> None:
    once(surface.raw, 20, data=st.binary(min_size=1, max_size=200))


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_requests_all_night(surface: Surface) -> None:
    all_night(surface.request, **REQUEST)
