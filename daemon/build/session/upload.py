"""What a client offers under http://buildkit-session/ID: a context or a Dockerfile from its stdin (moby.upload.v1)."""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path

from daemon.build.proto.filesync_pb2 import BytesMessage
from daemon.build.session.threads import in_thread
from daemon.rpc.calls import call
from daemon.rpc.http2 import Connection
from storage.disk import no_space, write_all

METHOD = "/moby.upload.v1.Upload/Pull"
HOST = "buildkit-session"
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


async def fetch(connection: Connection, url: str, path: Path) -> None:
    """Into a new file. Each can be fetched once."""
    parts = urllib.parse.urlsplit(url)
    headers = [("urlpath", parts.path or "/"), ("urlhost", parts.netloc or HOST)]
    fd = os.open(path, _CREATE, 0o600)
    try:
        async with await call(connection, METHOD, headers) as under_way:
            await under_way.end()
            while batch := await under_way.batch():
                await in_thread(_store, fd, batch, path)
    finally:
        os.close(fd)


def _store(fd: int, batch: list[bytes], path: Path) -> None:
    with no_space(path):
        for message in batch:
            write_all(fd, BytesMessage.FromString(message).data)
