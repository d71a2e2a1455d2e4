"""Uploads into containers: hostile and broken archives never leave the container's root, and never break us."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.fuzz.running import all_night, once
from tests.fuzz.test_http import send
from tests.system.host import Host

OUTSIDE = "outside-marker"
NAMES = st.sampled_from(
    [
        *(
            "a",
            "a/b",
            "d/../../x",
            "../" * 8 + "TARGET",
            "/TARGET",
            "link",
            "link/x",
            "",
            ".",
            "..",
            "a\x00b",
        ),
        *("\udcff", "n" * 300, "/".join("d" * 60), "dev/null", "proc/self/x", "etc/passwd", "./link/../y"),
    ]
)
TYPES = st.sampled_from(
    [
        *(
            tarfile.REGTYPE,
            tarfile.DIRTYPE,
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.FIFOTYPE,
        ),
        *(tarfile.BLKTYPE, tarfile.CONTTYPE, b"Z"),
    ]
)
ENTRIES = st.lists(
    st.tuples(NAMES, TYPES, st.sampled_from(["/", "..", "TARGET", "a", "link", "", "/proc/1/root"])),
    min_size=1,
    max_size=5,
)
MUTATIONS = st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), max_size=4)
SHAPES = st.sampled_from(["plain", "gzip", "cut", "cut gzip", "twice"])


def archive(entries: list[tuple[str, bytes, str]], target: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, link in entries:
            info = tarfile.TarInfo(name.replace("TARGET", target.lstrip("/")))
            info.type, info.mode = kind, 0o6777
            info.linkname = link.replace("TARGET", target)
            info.devmajor, info.devminor = 1, 3
            content = b"evil" if kind in (tarfile.REGTYPE, tarfile.CONTTYPE) else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Upload:
    def __init__(self, host: Host, directory: Path) -> None:
        self._host = host
        self._victim = directory / OUTSIDE
        self._victim.write_text("untouched")
        self._directory = directory

    def check(
        self, entries: list[tuple[str, bytes, str]], mutations: list[tuple[int, int]], shape: str, path: str
    ) -> None:
        data = bytearray(archive(entries, str(self._victim)))
        for position, value in mutations:
            if position < len(data):
                data[position] = value
        body = bytes(data)
        if "cut" in shape:
            body = body[: len(body) // 2 + 7]
        if "gzip" in shape:
            body = gzip.compress(body)[: None if shape == "gzip" else -9]
        if shape == "twice":
            body += body
        head = f"PUT /containers/c1/archive?path={path} HTTP/1.1\r\nHost: pyd\r\nConnection: close\r\n"
        answer = send(self._host.socket, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self._judge(answer, body)

    def _judge(self, answer: bytes, body: bytes) -> None:
        status = answer[9:12]
        foreseen = status[:1] in b"24" or b"unexpected EOF" in answer or b"archive" in answer
        assert foreseen or not answer, (answer[:400], body[:600])
        assert self._victim.read_text() == "untouched"
        assert os.listdir(self._directory) == [OUTSIDE]
        assert self._host.process and self._host.process.poll() is None
        ping = send(self._host.socket, b"HEAD /_ping HTTP/1.1\r\nHost: pyd\r\n\r\n", patience=10.0)
        assert b" 200 " in ping


UPLOAD: dict[str, Any] = {
    "entries": ENTRIES,
    "mutations": MUTATIONS,
    "shape": SHAPES,
    "path": st.sampled_from(["/", "/tmp", "/link", "/none", "/etc/passwd", "/../..", "/proc/self/root"]),
}


@pytest.fixture(params=["created", "running"])
def upload(request: pytest.FixtureRequest, host: Host, tmp_path: Path) -> Iterator[Upload]:
    verb = ["create"] if request.param == "created" else ["run", "-d"]
    host.docker(*verb, "--name", "c1", "busybox", "sleep", "1000")
    yield Upload(host, tmp_path)


def test_uploads(upload: Upload) -> None:
    once(upload.check, 40, **UPLOAD)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_uploads_all_night(upload: Upload) -> None:
    all_night(upload.check, **UPLOAD)
