"""What a build exports to its client: a tree by fsutil's protocol, or one stream (moby.filesync.v1.FileSend).

The client's end writes as the user who called it and owns what it writes; several trees sent to one exporter are
merged there.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator, Mapping

from google.protobuf.message import DecodeError

from daemon.build.files.hashing import walk
from daemon.build.proto.filesync_pb2 import BytesMessage
from daemon.build.proto.fsutil_pb2 import Listed, Packet
from daemon.build.session.listing import GO_DIRECTORY, GO_TYPES, go_mode
from daemon.build.session.threads import in_thread
from daemon.rpc.calls import Call, call
from daemon.rpc.http2 import Connection
from storage.archive import Root
from storage.archive.create import read_attributes
from storage.errors import InvalidArgument

METHOD = "/moby.filesync.v1.FileSend/DiffCopy"
PIECE = 1 << 20
"""Bytes of contents in a message; the client takes up to 4 MB."""
_BATCH = 2 << 20
_LISTED_AT_ONCE = 512
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def exporter(id: int | str) -> list[tuple[str, str]]:
    return [("buildkit-attachable-exporter-id", str(id))]


# -- a tree


class Sender:
    """The blocking half: lists a tree and reads files of it."""

    def __init__(self, root: Root | None, prefix: str, time: int | None) -> None:
        """`prefix`: directories, made on the way, that the tree goes into. `time`: of all entries, in nanoseconds."""
        self._root, self._prefix, self._time = root, prefix.strip("/"), time
        self._files: dict[int, str] = {}
        self._links: dict[tuple[int, int], str] = {}
        self._entries = self._list()
        self._count = 0
        self._reading: Iterator[bytes] = iter(())

    def listed(self) -> list[bytes]:
        """The next STAT packets; empty at the end."""
        packets = []
        for entry in self._entries:
            if not entry.mode & GO_TYPES and not entry.linkname:
                self._files[self._count] = os.fsdecode(entry.path)
            self._count += 1
            packets.append(Packet(type=Packet.PACKET_STAT, stat=entry).SerializeToString())
            if len(packets) >= _LISTED_AT_ONCE:
                break
        return packets

    def _list(self) -> Iterator[Listed]:
        parts = [part for part in self._prefix.split("/") if part]
        for count in range(1, len(parts) + 1):
            yield Listed(
                path=os.fsencode("/".join(parts[:count])), mode=GO_DIRECTORY | 0o755, mod_time=self._time or 0
            )
        if self._root is None:
            return
        top = self._root.open(".", os.O_PATH | os.O_DIRECTORY)
        try:
            for path, directory, name, status in walk(top, ".", None):
                if path and not stat.S_ISSOCK(status.st_mode):
                    yield self._entry(path, directory, name, status)
        finally:
            os.close(top)

    def _entry(self, path: str, directory: int, name: str, status: os.stat_result) -> Listed:
        shown = f"{self._prefix}/{path}" if self._prefix else path
        entry = Listed(
            path=os.fsencode(shown),
            mode=go_mode(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            mod_time=status.st_mtime_ns if self._time is None else self._time,
        )
        if stat.S_ISLNK(status.st_mode):
            entry.linkname = os.fsencode(os.readlink(name, dir_fd=directory))
        elif stat.S_ISREG(status.st_mode):
            entry.size = status.st_size
            inode = (status.st_dev, status.st_ino)
            if status.st_nlink > 1 and (first := self._links.setdefault(inode, shown)) != shown:
                entry.linkname = os.fsencode(first)
        elif stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode):
            entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            entry.xattrs.update(read_attributes(f"/proc/self/fd/{directory}/{name}"))
        return entry

    def ask(self, numbers: list[int]) -> None:
        """The client wants these files; InvalidArgument for one that was not offered, or was sent."""
        wanted = []
        for number in numbers:
            path = self._files.pop(number, None)
            if path is None:
                raise InvalidArgument(f"invalid file id {number}")
            wanted.append((number, path))
        self._reading = _chain(self._reading, self._packets(wanted))

    def contents(self) -> tuple[list[bytes], int]:
        """DATA packets of what was asked for, and their bytes; empty when all is read."""
        packets, size = [], 0
        for packet in self._reading:
            packets.append(packet)
            size += len(packet)
            if size >= _BATCH:
                break
        return packets, size

    def _packets(self, wanted: list[tuple[int, str]]) -> Iterator[bytes]:
        assert self._root is not None
        for number, path in wanted:
            below = path[len(self._prefix) + 1 :] if self._prefix else path
            fd = self._root.open(below, _FILE)
            try:
                while data := os.read(fd, PIECE):
                    yield Packet(type=Packet.PACKET_DATA, id=number, data=data).SerializeToString()
            finally:
                os.close(fd)
            yield Packet(type=Packet.PACKET_DATA, id=number).SerializeToString()


def _chain(first: Iterator[bytes], second: Iterator[bytes]) -> Iterator[bytes]:
    yield from first
    yield from second


async def tree(connection: Connection, id: int | str, sender: Sender, report: Callable[[int], None]) -> int:
    """Runs a sender; returns, when the client has all that it wanted, how many bytes that was."""
    async with await call(connection, METHOD, exporter(id)) as under_way:
        listing = asyncio.create_task(_list(under_way, sender))
        sent = 0
        try:
            while batch := await under_way.batch():
                asked, done = _understood(batch)
                if asked:
                    sender.ask(asked)
                    while True:
                        packets, size = await in_thread(sender.contents)
                        if not packets:
                            break
                        await under_way.send(packets)
                        sent += size
                        report(sent)
                if done:
                    await listing
                    await under_way.send([Packet(type=Packet.PACKET_FIN).SerializeToString()], end=True)
        finally:
            listing.cancel()
            await asyncio.gather(listing, return_exceptions=True)
    return sent


async def _list(under_way: Call, sender: Sender) -> None:
    while packets := await in_thread(sender.listed):
        await under_way.send(packets)
    await under_way.send([Packet(type=Packet.PACKET_STAT).SerializeToString()])


def _understood(batch: list[bytes]) -> tuple[list[int], bool]:
    """Files that a client asks for, and whether it has all."""
    asked, done = [], False
    for message in batch:
        try:
            packet = Packet.FromString(message)
        except DecodeError:
            raise InvalidArgument("the client sent a packet that is none") from None
        match packet.type:
            case Packet.PACKET_REQ:
                asked.append(packet.id)
            case Packet.PACKET_FIN:
                done = True
            case Packet.PACKET_ERR:
                raise InvalidArgument(f"error from receiver: {packet.data.decode('utf-8', 'replace')[:4096]}")
            case _:
                raise InvalidArgument(f"the client sent a packet of type {packet.type}")
    return asked, done


# -- a stream


async def stream(connection: Connection, id: int | str, source: int, metadata: Mapping[str, str]) -> int:
    """What a descriptor gives, to its end; returns the number of bytes. Conflict when the target exists."""
    headers = [*exporter(id), *((f"exporter-md-{key}".lower(), value) for key, value in metadata.items())]
    size = 0
    async with await call(connection, METHOD, headers) as under_way:
        while data := await in_thread(_read, source):
            size += len(data)
            await under_way.send([BytesMessage(data=data).SerializeToString()])
        await under_way.end()
        while await under_way.batch():
            pass
    return size


def _read(source: int) -> bytes:
    """A whole piece, as pipes give little at once."""
    data = os.read(source, PIECE)
    while data and len(data) < PIECE and (more := os.read(source, PIECE - len(data))):
        data += more
    return data
