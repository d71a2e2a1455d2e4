"""What the worker does with whole archives: load, save, import, commit. One worker for each of them.

An archive comes in through a pipe. `spool` puts its members into numbered files, so that no name of a
hostile archive ever reaches the file system; members are found by name afterwards, links followed within
the archive only.
"""

from __future__ import annotations

import asyncio
import base64
import os
import posixpath
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.images.transfer.compression import Decompressed
from daemon.images.transfer.ingest import PIECE, WorkerStore, ingest
from daemon.scaffold import is_users
from storage.archive import CreateOptions, Entry, EntryType, TarReader, TarWriter, write_layer
from storage.disk import no_space
from storage.errors import DataCorrupted, NotFound
from storage.streams import Readable

Report = Callable[[dict[str, Any]], None]
LARGEST_DOCUMENT = 8 << 20
MOST_LINKS = 8
INTERVAL = 0.1
_COMMITTED = CreateOptions(select=is_users)


class Archives:
    def __init__(self, store: WorkerStore, data: int):
        self._store, self._data = store, data
        self._files: dict[str, Path] = {}
        self._links: dict[str, str] = {}

    # --- in ----------------------------------------------------------------------------------------

    async def spool(self, report: Report, directory: str) -> list[str]:
        """Reads the archive to its end; returns the names of its files."""
        return await asyncio.to_thread(self._spool, Path(directory))

    def _spool(self, directory: Path) -> list[str]:
        with open(self._data, "rb", buffering=0, closefd=False) as stream:
            reader = TarReader(Decompressed(stream))
            for number, entry in enumerate(reader):
                name = _clean(entry.name)
                if entry.type is EntryType.REGULAR:
                    self._files[name] = directory / str(number)
                    with no_space(self._files[name]), self._files[name].open("wb") as file:
                        reader.copy_to(file.fileno())
                elif entry.type is EntryType.SYMLINK:
                    self._links[name] = _clean(posixpath.join(posixpath.dirname(name), entry.linkname))
                elif entry.type is EntryType.HARDLINK:
                    self._links[name] = _clean(entry.linkname)
            reader.drain()
        return sorted([*self._files, *self._links])

    def _file(self, name: str) -> Path:
        name = _clean(name)
        for _ in range(MOST_LINKS):
            if name not in self._links:
                break
            name = self._links[name]
        if name not in self._files:
            raise NotFound(f"open {name}: no such file or directory")
        return self._files[name]

    async def member(self, report: Report, name: str) -> str:
        """A small member, base64."""
        file = self._file(name)
        data = await asyncio.to_thread(_read, file)
        return base64.b64encode(data).decode()

    async def store_member(self, report: Report, name: str, digest: str) -> None:
        """A member as a blob, as it is. DataCorrupted when it is another."""
        file = self._file(name)

        def work() -> None:
            with file.open("rb", buffering=0) as source, self._store.writer(digest) as blob:
                while piece := source.read(PIECE):
                    blob.write(piece)
                blob.commit()

        await asyncio.to_thread(work)

    async def ingest_member(self, report: Report, name: str, directory: str) -> dict[str, Any]:
        """A member as a layer."""
        file = self._file(name)

        def work() -> dict[str, Any]:
            size = file.stat().st_size
            with file.open("rb", buffering=0) as source:
                layer = ingest(source, Path(directory), self._store, paced(report, size))
            return layer.fields()

        return await asyncio.to_thread(work)

    async def ingest_stream(self, report: Report, directory: str) -> dict[str, Any]:
        """What comes through the pipe as a layer."""

        def work() -> dict[str, Any]:
            with open(self._data, "rb", buffering=0, closefd=False) as source:
                return ingest(source, Path(directory), self._store, paced(report, 0)).fields()

        return await asyncio.to_thread(work)

    async def ingest_upper(self, report: Report, upper: str, directory: str) -> dict[str, Any]:
        """A container's changes as a layer: its upper directory into an archive and back."""

        def work() -> dict[str, Any]:
            with Produced(lambda out: write_layer(out, Path(upper), options=_COMMITTED)) as source:
                return ingest(source, Path(directory), self._store).fields()

        return await asyncio.to_thread(work)

    # --- out ---------------------------------------------------------------------------------------

    async def save(self, report: Report, members: list[dict[str, Any]]) -> None:
        """Writes an archive.

        Each member is a directory, a document (`body`), a layer unpacked (`blob`, `size`) or a blob (`raw`).
        """
        await asyncio.to_thread(self._save, members)

    def _save(self, members: list[dict[str, Any]]) -> None:
        with open(self._data, "wb", buffering=PIECE) as out:  # closing it is the archive's end
            writer = TarWriter(out)
            for member in members:
                name, mtime = member["name"], member["mtime"]
                if "raw" in member:
                    self._save_blob(writer, name, mtime, member["raw"])
                elif "blob" in member:
                    self._save_layer(writer, name, mtime, member["blob"], member["size"])
                elif "body" in member:
                    mode = member.get("mode", 0o644)
                    writer.file(name, base64.b64decode(member["body"]), mode=mode, mtime=mtime)
                else:
                    writer.directory(name, mtime=mtime)
            writer.close()

    def _save_blob(self, writer: TarWriter, name: str, mtime: int, digest: str) -> None:
        writer.header(Entry(name, mode=0o444, mtime=mtime, size=self._store.size(digest)))
        with self._store.open(digest) as source:
            while piece := source.read(PIECE):
                writer.write(piece)

    def _save_layer(self, writer: TarWriter, name: str, mtime: int, blob: str, size: int) -> None:
        writer.header(Entry(name, mode=0o644, mtime=mtime, size=size))
        left = size
        with self._store.open(blob) as source:
            plain = Decompressed(source)
            while left and (piece := plain.read(min(PIECE, left))):
                writer.write(piece)
                left -= len(piece)
        if left:
            raise DataCorrupted(f"blob {blob} is shorter than the layer it holds")

    async def save_trees(self, report: Report, trees: list[dict[str, Any]], epoch: int | None) -> None:
        """Writes trees below their prefixes as one archive (treefiles.write)."""
        await asyncio.to_thread(self._save_trees, trees, epoch)

    def _save_trees(self, trees: list[dict[str, Any]], epoch: int | None) -> None:
        from daemon.images.transfer.treefiles import write

        with open(self._data, "wb", buffering=PIECE) as out:
            write(out, trees, epoch)


class Produced:
    """The bytes that a writing function makes, readable: the function runs in a thread behind a pipe."""

    def __init__(self, produce: Callable[[Any], None]):
        reading, writing = os.pipe()
        self._source = open(reading, "rb", buffering=0)  # noqa: SIM115
        self._error: BaseException | None = None

        def run() -> None:
            try:
                with open(writing, "wb", buffering=PIECE) as out:
                    produce(out)
            except BrokenPipeError:
                pass
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="layer-archive")
        self._thread.start()

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size) or b""
        if not data:
            self._thread.join()
            if self._error is not None:
                raise self._error
        return data

    def __enter__(self) -> Readable:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()
        self._thread.join()


def paced(report: Report, total: int) -> Callable[[int], None]:
    """A byte counter that reports at most every 100 ms, and at the end."""
    last = 0.0

    def count(current: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= INTERVAL or current == total:
            last = now
            report({"current": current, "total": total})

    return count


def _read(file: Path) -> bytes:
    with file.open("rb") as source:
        data = source.read(LARGEST_DOCUMENT + 1)
    if len(data) > LARGEST_DOCUMENT:
        raise DataCorrupted(f"a document of the archive exceeds {LARGEST_DOCUMENT} bytes")
    return data


def _clean(name: str) -> str:
    """A member's name as a path from the archive's top; whatever would leave it stays at the top."""
    return posixpath.normpath("/" + name).lstrip("/")
