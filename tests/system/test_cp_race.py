"""`docker cp` while a container swaps directories for links to the host: it never leaves the container's root."""

from __future__ import annotations

import io
import tarfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.chaos.requests import Unanswered, call
from tests.system.host import Host

SECONDS = 4.0
SWAPPER = """
mkdir -p /real /work; echo inside > /real/file; mkdir /work/a
while true; do
  rm -rf /work/a; ln -s %(outside)s /work/a
  rm -rf /work/a; mkdir /work/a; echo inside > /work/a/file
done
"""


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("a/file")
        info.size = 6
        tar.addfile(info, io.BytesIO(b"copied"))
    return buffer.getvalue()


def test_a_busy_swapper_never_leads_outside(host: Host, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("secret of the host")
    script = SWAPPER % {"outside": outside}
    host.docker("run", "-d", "--name", "c1", "busybox", "sh", "-c", script)
    deadline = time.monotonic() + SECONDS
    read: set[bytes] = set()
    statuses: Counter[int] = Counter()

    def reader() -> None:
        while time.monotonic() < deadline:
            for path in ("/work/a/file", "/work/a", "/work"):
                try:
                    status, data = call(str(host.socket), "GET", f"/containers/c1/archive?path={path}")
                except Unanswered as error:  # what was to be sent next is gone: the answer ends there
                    read.add(error.begun)
                    continue
                statuses[status] += 1
                if isinstance(data, bytes):
                    read.add(data)

    def writer() -> None:
        data = archive()
        while time.monotonic() < deadline:
            host.run(
                [
                    *("curl", "-s", "-X", "PUT", "--unix-socket", str(host.socket), "--data-binary", "@-"),
                    "http://pyd/containers/c1/archive?path=/work",
                ],
                input=data,
            )

    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(work) for work in (reader, writer)]:
            done.result()
    assert read and statuses[200] > 10 and statuses[404], statuses
    assert not any(b"secret of the host" in data for data in read)
    assert (outside / "file").read_text() == "secret of the host"
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert not statuses.keys() & {500, 502}
