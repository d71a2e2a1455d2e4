"""fsutil's receiver: a client's directory comes to a generation of ours, and of its files only those that differ.

    contexts/KEY/7/            a whole generation: nobody changes what it holds
        tree/                  the directory
        index, sums ..         what it holds (daemon.build.session.generation)
    contexts/KEY/8.new/        one in the making; whoever finds one of an earlier life removes it

The client lists what it has; the list is compared, record by record, with the last generation's. As long as all is
equal nothing is done. With the first difference the last generation becomes the new one: by renaming when nobody
uses it, by a clone of hard links otherwise; from there on differences are applied to it. So a crash leaves either the
last generation or none.

The blocking half; daemon.build.session.sync has the other. Hostile lists: out of order, twice, absolute, with "..",
below something that is no directory of this list; data that nobody asked for: InvalidArgument.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from daemon.build.proto.fsutil_pb2 import Listed, Packet
from daemon.build.session import listing
from daemon.build.session.ahead import Ahead, copied_part, drop
from daemon.build.session.contexts import TREE
from daemon.build.session.generation import (
    DIGESTS,
    INDEX,
    SUMS,
    Differ,
    Records,
    Sums,
    hand_on,
    mapped,
    touched,
)
from daemon.build.session.listing import Reader, Writer, order
from daemon.build.session.place import Place, clone, looks
from storage import trees
from storage.disk import is_full, write_all
from storage.errors import InvalidArgument, NoSpace, PydError
from storage.failpoints import hit

MAX_ENTRIES = 10_000_000
MAX_PATH = 4095
SMALL = 1 << 16
"""A file up to here is written in one go when it is complete."""
MAX_BUFFERED = 8 << 20
MAX_OPEN = 256


@dataclass
class _Partial:
    """A file whose contents are coming."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    fd: int = -1
    hash: Any = None


class Receiver:
    """One synchronisation. Calls are made one after the other, from whichever thread."""

    def __init__(self, directory: Path, number: int, base: Path | None, *, in_place: bool, own: bool) -> None:
        """Makes generation `number` in `directory`. `base`: the generation to begin with.

        `in_place`: it may become the new one. `own`: it is of this directory, and stays when nothing differs.
        """
        self._new = directory / f"{number}.new"
        self._whole = directory / str(number)
        self._base, self._in_place, self._own = base, in_place, own
        self._old: Reader | None = Reader(base / INDEX) if base is not None else None
        self._old_listed: tuple[bytes, Listed, bytes] | None = None
        self._place: Place | None = None
        self._writer: Writer | None = None
        self._count = 0
        self._last = b""
        self._last_key: bytes | None = b""
        self._offsets = array("Q")
        self._asked: list[int] = []
        self._outstanding = 0
        self._partial: dict[int, _Partial] = {}
        self._buffered = self._opened = 0
        self._rewritten: set[bytes] = set()
        self._links: list[tuple[bytes, bytes]] = []
        self._listed_all = False
        self._part = copied_part(base) if base is not None else None
        self._ahead: Ahead | None = None
        self.received = 0
        """Bytes of messages, as BuildKit counts them for its progress."""
        self.fin = False
        """The client has said that it is done as well."""

    @property
    def complete(self) -> bool:
        """Nothing more will come: finish."""
        return self._listed_all and not self._outstanding

    def take(self, messages: Sequence[bytes]) -> list[int]:
        """Packets, in the order they came; numbers of files to be asked for."""
        self._asked = []
        try:
            for message in messages:
                self.received += len(message)
                self._packet(message)
        except DecodeError:
            raise InvalidArgument("the client sent a packet that is none") from None
        except OSError as error:
            raise explained(error) from error
        return self._asked

    def finish(self) -> dict[str, int]:
        """The generation's {"number", "entries", "size"}; {} when the base is as good and our own."""
        try:
            return self._finish()
        except OSError as error:
            raise explained(error) from error

    def abandon(self) -> None:
        """Removes what was made; idempotent, and nothing after finish."""
        self._close()
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(self._new.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                trees.remove(self._new.name, dir_fd=fd)
            finally:
                os.close(fd)

    # -- packets

    def _packet(self, message: bytes) -> None:
        if message[:2] == b"\x08\x02":  # DATA, the frequent one
            packet = Packet.FromString(message)
            self._data(packet.id, packet.data)
        elif message[:1] == b"\x12" and (found := _only_field(message)) is not None:
            self._stat(found)
        else:
            packet = Packet.FromString(message)
            match packet.type:
                case Packet.PACKET_STAT if packet.HasField("stat"):
                    self._stat(packet.stat.SerializeToString())
                case Packet.PACKET_STAT:
                    self._end_of_list()
                case Packet.PACKET_DATA:
                    self._data(packet.id, packet.data)
                case Packet.PACKET_FIN:
                    self.fin = True
                case Packet.PACKET_ERR:
                    text = packet.data.decode("utf-8", "replace")
                    raise InvalidArgument(f"error from sender: {text[:4096]}")
                case _:
                    raise InvalidArgument(f"the client sent a packet of type {packet.type}")

    def _stat(self, found: bytes) -> None:
        if self._listed_all:
            raise InvalidArgument("the client lists more files after the end of its list")
        old = self._old
        if old is not None and found == old.stat and not self._linked_anew(old):
            self._keep(found, old.filled)
            self._last, self._last_key = found, None
            return
        self._differs(found)

    def _linked_anew(self, old: Reader) -> bool:
        """Whether an unchanged record is a link to a file that has changed."""
        if not self._rewritten or any(old.filled):
            return False
        listed = Listed.FromString(old.stat)
        return not listed.mode & listing.GO_TYPES and listed.linkname in self._rewritten

    def _keep(self, found: bytes, filled: bytes) -> None:
        """The current record of the base stands for this one."""
        assert self._old is not None
        self._counted()
        if self._writer is not None:
            self._writer.add(found, filled)
            self._offsets.append(0)
        self._count += 1
        self._old.next()

    def _counted(self) -> None:
        if self._count >= MAX_ENTRIES:
            raise InvalidArgument(f"the client lists more than {MAX_ENTRIES} files")

    def _differs(self, found: bytes) -> None:
        listed = Listed.FromString(found)
        path = listed.path
        key = _checked(path)
        if self._last_key is None:
            self._last_key = order(Listed.FromString(self._last).path)
        if key <= self._last_key:
            raise InvalidArgument(f"changes out of order: {_shown(path)}")
        self._drop_until(key)
        was = self._current()
        if was is not None and was[0] == key:
            assert self._old is not None
            same = _same(was[1], listed)
            if same and not self._linked_anew(self._old):
                self._keep(found, self._old.filled)
                self._last_key = key
                return
            self._change()
            self._old.next()
        self._change()
        self._counted()
        self._differing(path)
        self._put(path, listed, found)
        self._count += 1
        self._last_key = key

    def _current(self) -> tuple[bytes, Listed] | None:
        """Key and contents of the base's current record."""
        old = self._old
        if old is None or old.over:
            return None
        if self._old_listed is None or self._old_listed[0] is not old.stat:
            listed = Listed.FromString(old.stat)
            self._old_listed = (old.stat, listed, order(listed.path))
        return self._old_listed[2], self._old_listed[1]

    def _drop_until(self, key: bytes | None) -> None:
        """What the base has before a record (None: till its end), the client has no more."""
        while (was := self._current()) is not None and (key is None or was[0] < key):
            self._change()
            assert self._place is not None and self._old is not None
            self._differing(was[1].path)
            self._place.remove(was[1].path)
            self._old.next()

    def _end_of_list(self) -> None:
        self._drop_until(None)
        self._listed_all = True

    # -- differences

    def _change(self) -> None:
        """Before the first difference: from here on there is a new generation."""
        if self._writer is not None:
            return
        index = self._base / INDEX if self._base is not None else None
        if self._base is None:
            self._new.mkdir(mode=0o700)
            (self._new / TREE).mkdir(mode=0o755)
        elif self._in_place:
            self._base.rename(self._new)
            index = self._new / INDEX
            drop(self._new)
        else:
            self._new.mkdir(mode=0o700)
            clone(self._base / TREE, self._new / TREE, self._base / INDEX)
            hand_on(self._base, self._new)
        hit("contexts.change")
        self._writer = Writer(self._new / f"{INDEX}.new")
        if index is not None and self._old is not None:
            self._writer.copy(index, self._old.at)
        self._offsets.frombytes(bytes(8 * self._count))
        self._place = Place(self._new / TREE)

    def _differing(self, path: bytes) -> None:
        """Before something becomes another: a copy of what it is in will be made again."""
        part = self._part
        if self._ahead is None and part is not None and (not part or path.startswith(part + b"/")):
            self._ahead = Ahead(self._new, part)

    def _put(self, path: bytes, listed: Listed, found: bytes) -> None:
        """Makes what needs no contents; asks for what does."""
        assert self._place is not None and self._writer is not None
        place, kind = self._place, listed.mode & listing.GO_TYPES
        at = self._writer.add(found)
        waiting = False
        if kind == listing.GO_DIRECTORY:
            place.directory(path, listed)
        elif kind == listing.GO_SYMLINK:
            place.symlink(path, listed.linkname)
            place.times(path, listed.mod_time)
        elif kind == listing.GO_FIFO:
            place.fifo(path, listed)
            place.times(path, listed.mod_time)
        elif kind:
            place.parent(path)
            place.remove(path)  # devices and sockets are not taken, as from the archives of the classic door
        elif listed.linkname:
            _checked(listed.linkname)
            place.parent(path)
            self._links.append((listed.linkname, path))
            self._mark(path)
        else:
            place.parent(path)  # refuses what is below no directory before anything is asked for
            if self._old is not None:
                place.remove(path)
            waiting = True
            self._outstanding += 1
            self._asked.append(self._count)
            self._mark(path)
        self._offsets.append(at + 1 if waiting else 0)

    def _mark(self, path: bytes) -> None:
        if self._old is not None:
            self._rewritten.add(path)

    # -- contents

    def _data(self, number: int, data: bytes) -> None:
        at = self._offsets[number] if number < len(self._offsets) else 0
        if not at:
            raise InvalidArgument(f"invalid file request {number}")
        partial = self._partial.get(number)
        if data:
            if partial is None:
                partial = self._partial[number] = _Partial()
            self._piece(at - 1, partial, data)
        else:
            self._complete(at - 1, partial or _Partial())
            self._partial.pop(number, None)
            self._offsets[number] = 0
            self._outstanding -= 1

    def _piece(self, at: int, partial: _Partial, data: bytes) -> None:
        partial.size += len(data)
        if partial.fd < 0:
            partial.parts.append(data)
            self._buffered += len(data)
            if partial.size <= SMALL and self._buffered <= MAX_BUFFERED:
                return
            if self._opened >= MAX_OPEN:
                raise InvalidArgument(f"the client sends more than {MAX_OPEN} files at once")
            assert self._writer is not None and self._place is not None
            partial.fd = self._place.create(self._writer.stat_at(at).path)
            partial.hash = hashlib.sha256()
            self._opened += 1
            data = self._joined(partial)
        write_all(partial.fd, data)
        partial.hash.update(data)

    def _joined(self, partial: _Partial) -> bytes:
        data = partial.parts[0] if len(partial.parts) == 1 else b"".join(partial.parts)
        partial.parts.clear()
        self._buffered -= len(data)
        return data

    def _complete(self, at: int, partial: _Partial) -> None:
        """The last byte has come: the file gets its looks, the record its inode and digest."""
        assert self._writer is not None and self._place is not None
        listed = self._writer.stat_at(at)
        fd = partial.fd
        if fd < 0:
            fd = self._place.create(listed.path)
        else:
            self._opened -= 1
        try:
            if partial.hash is None:
                data = self._joined(partial)
                if data:
                    write_all(fd, data)
                digest = hashlib.sha256(data).digest()
            else:
                digest = partial.hash.digest()
            looks(fd, listed)
            os.utime(fd, ns=(listed.mod_time, listed.mod_time))
            self._writer.fill(at, os.fstat(fd).st_ino, digest)
        finally:
            os.close(fd)
            partial.fd = -1

    # -- the end

    def _finish(self) -> dict[str, int]:
        if not self.complete:
            raise InvalidArgument("the client ended before all files had come")
        if self._writer is None and self._own:
            self._close()
            return {}
        self._change()
        assert self._place is not None and self._writer is not None
        for target, path in self._links:
            try:
                self._place.link(target, path)
            except FileNotFoundError:
                raise InvalidArgument(
                    f"{_shown(path)} is a link to {_shown(target)}, which is no file"
                ) from None
        self._writer.close()
        entries, size = self._summed(self._new / f"{INDEX}.new", self._place)
        hit("contexts.finish")
        (self._new / f"{INDEX}.new").rename(self._new / INDEX)
        self._close()
        self._new.rename(self._whole)
        return {"number": int(self._whole.name), "entries": entries, "size": size}

    def _summed(self, index: Path, place: Place) -> tuple[int, int]:
        """Sums are made, directories get their times back; (entries, bytes of files)."""
        new, old, before = Records.of(index), None, self._new if self._in_place else self._base
        if before is not None and (before / SUMS).exists():
            old = Records.of(before / INDEX)
            known = mapped(before / SUMS)
        for name in (SUMS, DIGESTS):
            with contextlib.suppress(FileNotFoundError):
                (self._new / name).unlink()
        sums = Sums(self._new / SUMS)
        differing: list[Differ] = []
        try:
            if old is None:
                sums.add(new, range(len(new)))
                stale = list(range(len(new)))
            else:
                differing = list(sums.follow(new, old, known))
                stale = touched(new, old, differing)
        finally:
            sums.close()
        for number in stale:
            found = new.listed(number)
            if found.mode & listing.GO_DIRECTORY:
                place.times(found.path, found.mod_time)
        if self._ahead is not None:
            self._ahead.finish(old if sums.plain else None, new, differing, stale)
        return len(new), sums.size

    def _close(self) -> None:
        if self._ahead is not None:
            self._ahead.stop()
        if self._old is not None:
            self._old.close()
        if self._place is not None:
            self._place.close()
        if self._writer is not None:
            self._writer.abandon()
        for partial in self._partial.values():
            if partial.fd >= 0:
                os.close(partial.fd)
                partial.fd = -1
        self._partial.clear()


def _only_field(message: bytes) -> bytes | None:
    """The body of a message of one field with a length, which fills it; None: look properly."""
    size = shift = 0
    at = 1
    while at < len(message):
        byte = message[at]
        at += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            return message[at:] if at + size == len(message) else None
        shift += 7
    return None


def _checked(path: bytes) -> bytes:
    """A clean relative path's place in the order."""
    parts = path.split(b"/")
    if not path or len(path) > MAX_PATH or b"\0" in path or any(part in (b"", b".", b"..") for part in parts):
        raise InvalidArgument(f"the client lists an invalid path: {_shown(path)}")
    return order(path)


def _shown(path: bytes) -> str:
    return repr(path[:200].decode("utf-8", "replace"))


def _same(old: Listed, new: Listed) -> bool:
    """fsutil's comparison by metadata; owners are root's in any case. Directories' times don't count."""
    alike = (
        old.mode == new.mode
        and old.linkname == new.linkname
        and old.devmajor == new.devmajor
        and old.devminor == new.devminor
        and dict(old.xattrs) == dict(new.xattrs)
    )
    if not alike or old.mode & listing.GO_DIRECTORY:
        return alike
    return old.size == new.size and old.mod_time == new.mod_time


def explained(error: OSError) -> PydError:
    """The client's fault or the disk's."""
    what = f"{error.strerror}" + (f": {error.filename!r}" if isinstance(error.filename, str) else "")
    if is_full(error):
        return NoSpace(f"no space left for the context: {what}")
    return InvalidArgument(f"the context can't be stored: {what}")
