"""`docker cp` while a container swaps directories for links to the host: it never leaves the container's root."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from pathlib import Path

from tests.chaos.requests import call
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
    statuses: set[int] = set()

    def reader() -> None:
        while time.monotonic() < deadline:
            for path in ("/work/a/file", "/work/a", "/work"):
                status, data = call(str(host.socket), "GET", f"/containers/c1/archive?path={path}")
                statuses.add(status)
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

    threads = [threading.Thread(target=work) for work in (reader, writer)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read and 200 in statuses
    assert not any(b"secret of the host" in data for data in read)
    assert (outside / "file").read_text() == "secret of the host"
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert not statuses & {500, 502}
