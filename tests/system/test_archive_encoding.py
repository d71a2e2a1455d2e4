"""GET archive packed as Accept-Encoding asks. PYD_PARITY_SOCKET=/path/of/docker.sock runs it against dockerd."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator

import pytest

from tests.system.host import Host
from tests.system.parity.client import ask


@pytest.fixture
def box(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """(socket, a container with /data/file)"""
    address = os.environ.get("PYD_PARITY_SOCKET") or str(request.getfixturevalue("host").socket)
    body = {"Image": "busybox", "Cmd": ["sh", "-c", "mkdir /data; seq 100000 > /data/file"]}
    identifier = json.loads(ask(address, "POST", "/containers/create", body).body)["Id"]
    ask(address, "POST", f"/containers/{identifier}/start")
    ask(address, "POST", f"/containers/{identifier}/wait")
    yield address, identifier
    ask(address, "DELETE", f"/containers/{identifier}?force=1")


CODINGS = (
    ("", None),
    ("identity", None),
    ("br", None),
    ("GZIP", None),
    ("gzip", "gzip"),
    ("deflate", "deflate"),
    ("deflate, gzip", "gzip"),
    ("gzip;q=0.3, deflate;q=0.8", "deflate"),
    ("gzip;q=0.5, deflate;q=.5", "gzip"),
    ("gzip;q=0, deflate", "deflate"),
    ("*", "gzip"),
    ("*;q=0.1, deflate;q=0.2", "deflate"),
    ("gzip;q=5", None),
    ("br;q=1.0 , gzip;q=0.4,", "gzip"),
    ("gzip;level=1, deflate", None),
    ("gzip deflate", "gzip"),
    ("deflate;q=x, gzip", None),
)
WINDOW = {"gzip": 31, "deflate": -15}


def test_the_coding_asked_for(box: tuple[str, str]) -> None:
    address, container = box
    target = f"/containers/{container}/archive?path=/data"
    given: list[tuple[str, str | None]] = []
    for accepts, _ in CODINGS:
        answer = ask(address, "GET", target, headers={"Accept-Encoding": accepts})
        assert (answer.status, answer.kind) == (200, "application/x-tar")
        assert "x-docker-container-path-stat" in answer.headers
        coding = answer.headers.get("content-encoding")
        given.append((accepts, coding))
        data = zlib.decompress(answer.body, WINDOW[coding]) if coding else answer.body
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            member = archive.extractfile("data/file")
            assert member is not None
            assert member.read() == b"".join(b"%d\n" % n for n in range(1, 100_001))
    assert given == list(CODINGS)


def test_head_is_never_packed_and_refusals_are_plain(box: tuple[str, str]) -> None:
    address, container = box
    headers = {"Accept-Encoding": "gzip"}
    for method, path, status in (("HEAD", "/data", 200), ("GET", "/none", 404)):
        answer = ask(address, method, f"/containers/{container}/archive?path={path}", headers=headers)
        assert (answer.status, answer.headers.get("content-encoding")) == (status, None)


def test_both_clients_copy_as_ever(host: Host) -> None:
    host.docker("run", "--name", "c1", "busybox", "sh", "-c", "seq 1000 > /file")
    for client in (host.docker, host.pyd):
        assert len(client("cp", "c1:/file", "-")) > 3893
