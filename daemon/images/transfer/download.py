"""A layer out of a registry: network → SHA-256 → blob file, and beside it → unpack process.

A connection that breaks is taken up again where it broke (Range), up to five times with growing pauses as
dockerd does; the unpack process simply goes on reading. The digest is compared before the layer counts as
downloaded. When the unpack process fails, the download still runs to its end: a wrong digest explains the
failure better than the damage that it does to an archive.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.images.manifests import DOCKER_LAYER, OCI_LAYER
from daemon.images.registry.client import Repository
from daemon.images.registry.errors import RegistryError
from daemon.images.transfer.compression import LONGEST_MAGIC, sniff
from daemon.images.transfer.ingest import (
    MEDIA_TYPES,
    Layer,
    unpack_command,
    unpack_environment,
    unpack_result,
)
from storage.content import BlobWriter, ContentStore
from storage.errors import DataCorrupted

ATTEMPTS = 5
PAUSE = 5.0
"""Seconds of the first pause; the nth is n times as long."""
PIPE_SIZE = 1 << 20
INTERVAL = 0.1
"""Seconds between two progress reports of a layer."""

Report = Callable[[dict[str, Any]], None]


class AsyncUnpacking:
    """The unpack process, fed from an event loop."""

    def __init__(self, process: asyncio.subprocess.Process):
        self._process = process
        self._failed = False

    @classmethod
    async def start(cls, directory: Path) -> AsyncUnpacking:
        process = await asyncio.create_subprocess_exec(
            *unpack_command(directory),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=unpack_environment(),
        )
        assert process.stdin is not None
        pipe = process.stdin.transport.get_extra_info("pipe")
        with contextlib.suppress(OSError):  # above the user's pipe limit it stays at its default
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        return cls(process)

    async def write(self, data: bytes) -> None:
        if self._failed:
            return
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            self._failed = True

    async def finish(self) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.close()
        output = await self._process.stdout.read()
        return unpack_result(output, await self._process.wait())

    async def stop(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()


class Download:
    """One layer. `report` hears {"current": n}, {"retry": seconds}, {"state": "verifying" | "downloaded"}."""

    def __init__(
        self,
        repository: Repository,
        digest: str,
        size: int,
        directory: Path,
        store: ContentStore,
        report: Report,
        *,
        pause: float = PAUSE,
    ):
        self._repository, self._digest, self._size = repository, digest, size
        self._directory, self._store, self._report, self._pause = directory, store, report, pause
        self._writer: BlobWriter | None = None
        self._unpacking: AsyncUnpacking | None = None
        self._head = b""
        self._reported = 0.0
        self._resumed = False

    async def run(self) -> Layer:
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    return await self._attempt()
                except RegistryError as error:
                    if not error.retry or attempt == ATTEMPTS:
                        raise
                await self._wait(attempt)
            raise AssertionError("unreachable")
        finally:
            await self._reset()

    async def _wait(self, attempt: int) -> None:
        left = attempt * 5
        while left:
            self._report({"retry": left})
            await asyncio.sleep(self._pause / 5)
            left -= 1

    async def _begin(self) -> None:
        """Starts from nothing, whatever came before."""
        if self._unpacking is not None:
            await self._reset()
            await asyncio.to_thread(_empty, self._directory)
        self._writer = self._store.writer(self._digest, self._size or None)
        self._unpacking = await AsyncUnpacking.start(self._directory)
        self._head, self._resumed = b"", False

    async def _reset(self) -> None:
        if self._writer is not None:
            self._writer.abort()
        if self._unpacking is not None:
            await self._unpacking.stop()
        self._writer = None

    async def _attempt(self) -> Layer:
        if self._writer is None:
            await self._begin()
        assert self._writer is not None
        offset = self._writer.tell()
        self._resumed = offset > 0
        if not (self._size and offset == self._size):
            await self._receive(offset)
        return await self._complete()

    async def _receive(self, offset: int) -> None:
        async with self._repository.blob(self._digest, offset) as (start, chunks):
            if start != offset:
                if start:
                    raise RegistryError("transport", "the registry answered with another range", retry=True)
                await self._begin()
            async for chunk in chunks:
                self._take(chunk)
                assert self._unpacking is not None
                await self._unpacking.write(chunk)
        if self._writer is not None and self._size and self._writer.tell() < self._size:
            raise RegistryError("transport", "unexpected EOF", retry=True)

    def _take(self, chunk: bytes) -> None:
        assert self._writer is not None
        if len(self._head) < LONGEST_MAGIC:
            self._head += chunk[:LONGEST_MAGIC]
        try:
            self._writer.write(chunk)
        except DataCorrupted:
            raise self._mismatch() from None
        now = asyncio.get_running_loop().time()
        if now - self._reported >= INTERVAL:
            self._reported = now
            self._report({"current": self._writer.tell()})

    def _mismatch(self) -> RegistryError:
        """Only a layer that came in pieces may have been put together wrongly: that is worth a retry."""
        text = f"filesystem layer verification failed for digest {self._digest}"
        return RegistryError("corrupt", text, retry=self._resumed)

    async def _complete(self) -> Layer:
        assert self._writer is not None and self._unpacking is not None
        self._report({"state": "verifying"})
        size = self._writer.tell()
        finishing = asyncio.ensure_future(self._unpacking.finish())
        try:
            await asyncio.to_thread(self._writer.commit)
        except DataCorrupted:
            finishing.cancel()
            await asyncio.gather(finishing, return_exceptions=True)
            error = self._mismatch()
            await self._reset()
            raise error from None
        self._report({"state": "downloaded"})
        result = await finishing
        compression = sniff(self._head)
        media_type = MEDIA_TYPES.get(compression, OCI_LAYER if compression == "none" else DOCKER_LAYER)
        return Layer(result["diff_id"], result["tar_size"], result["size"], self._digest, size, media_type)


def _empty(directory: Path) -> None:
    for left in directory.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()
