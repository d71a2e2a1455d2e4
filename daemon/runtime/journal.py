"""What makes logging survive a kill -9 of the keeper: bytes that left a pipe are somewhere else first.

Model
    The journal is a memfd that keeper and supervisor share; it lives as long as one of them. Page one and
    the CHUNK after it hold the *flight*: the one read that is under way. Then follow *slots*, one for each
    logged stream: the beginning of the line whose end has not come yet (loglines' carry), and room for a
    flight of its own.

    begin(slot, n, ...)    n bytes are about to be read. The first bytes of the chunk are set to a pattern:
                           whether it is still there tells whether the read happened (a pipe with one
                           reader gives n available bytes all or not at all). With n = 0 it is the end of
                           the stream, which makes an entry of what is carried.
    ... read into `chunk` ...
    stamp(slot, now)       the entries made of it are these, and would be the same bytes if made again
    place(slot, ...)       before each rotation: the first `done` bytes of the entries are in the log; what
                           comes then goes into the file that is `inode` now, behind its first `size` bytes,
                           or into the one that follows it
    ... append to the log ...
    save(slot, ...)        the new carry, with the flight's number
    end(slot)

    A flight is *set aside* when its entries have to wait for a compressor: it moves to its slot, and others take off.

    A new keeper finds the flights of its predecessor. Where the log still has the file of the `place` it cuts it
    back to `size`; where it has another, that one was begun after the place was noted, and is emptied; and it does
    the rest again. Whatever the moment of the kill, also that of the new keeper, each byte ends in the log once.

Pages are touched only when used; an idle container costs none.
"""

from __future__ import annotations

import mmap
import os
import struct

PAGE = 4096
CHUNK = 64 << 10
CARRY = 20 << 10
SLOT = CARRY + PAGE + CHUNK
_FLIGHT = struct.Struct("<IIQ16sQQQQ")
_STAMP, _PLACE = 32, 40
_PLACES = struct.Struct("<QQQ")
_CARRY = struct.Struct("<QIIQ64s")
_NONE = 0xFFFFFFFF
_EMPTY = b"\0\0\0\0"
"""A slot without a flight; in it the slot's number is written plus one, since a hole reads as zeros."""
_PATTERN = 16


class Flight:
    """A read that was under way when a keeper died. `inode` is 0 when nothing of it was written; `now` is 0
    when no entries were made of it."""

    __slots__ = ("data", "done", "inode", "now", "number", "size")

    def __init__(self, number: int, now: int, inode: int, size: int, done: int, data: bytes) -> None:
        self.number, self.now, self.inode, self.size, self.done, self.data = (
            number,
            now,
            inode,
            size,
            done,
            data,
        )


class Carry:
    """A line's beginning, and how much of it was logged already when it is longer than 16 KiB."""

    __slots__ = ("data", "ident", "number", "ordinal", "time")

    def __init__(self, number: int, data: bytes, ordinal: int, time: int, ident: str) -> None:
        self.number, self.data, self.ordinal, self.time, self.ident = number, data, ordinal, time, ident


class Journal:
    __slots__ = ("_current", "_free", "_map", "_next", "_number", "chunk", "fd")

    def __init__(self, fd: int | None) -> None:
        """A new journal, or the one a predecessor left; then each slot's `flight` is what was under way."""
        fresh = fd is None
        self.fd = os.memfd_create("pyd-journal", os.MFD_CLOEXEC) if fd is None else fd
        if fresh:
            os.ftruncate(self.fd, PAGE + CHUNK)
        self._map = mmap.mmap(self.fd, PAGE + CHUNK)
        self.chunk = memoryview(self._map)[PAGE:]
        self._number = 0 if fresh else _FLIGHT.unpack_from(self._map)[2]
        self._free: list[int] = []
        self._next = 0
        self._current = _NONE if fresh else _FLIGHT.unpack_from(self._map)[0]
        if self._current != _NONE and self._read_happened():
            self.set_aside(self._current)
        self._current = _NONE
        self._map[0:4] = _NONE.to_bytes(4, "little")

    def _read_happened(self) -> bool:
        _, length, _, pattern, *_ = _FLIGHT.unpack_from(self._map)
        return not length or bool(bytes(self.chunk[:length])[:_PATTERN] != pattern[:length])

    # -- slots -----------------------------------------------------------------------------------------

    def allocate(self) -> int:
        slot = self._free.pop() if self._free else self._next
        self.claim(slot)
        if os.pread(self.fd, 4, self._aside(slot)) not in (b"", _EMPTY):
            os.pwrite(self.fd, _EMPTY, self._aside(slot))
        self._write(slot, _CARRY.pack(0, 0, 0, 0, b""))
        return slot

    def claim(self, slot: int) -> None:
        """Marks a predecessor's slot as in use."""
        while self._next <= slot:
            self._free.append(self._next)
            self._next += 1
        if slot in self._free:
            self._free.remove(slot)

    def free(self, slot: int) -> None:
        self._free.append(slot)

    def _write(self, slot: int, data: bytes) -> None:
        os.pwrite(self.fd, data, PAGE + CHUNK + slot * SLOT)

    def load(self, slot: int) -> Carry:
        raw = os.pread(self.fd, CARRY, PAGE + CHUNK + slot * SLOT)
        if len(raw) < _CARRY.size:
            return Carry(0, b"", 0, 0, "")
        number, length, ordinal, time, ident = _CARRY.unpack_from(raw)
        return Carry(
            number, raw[_CARRY.size : _CARRY.size + length], ordinal, time, ident.rstrip(b"\0").decode()
        )

    # -- the flight --------------------------------------------------------------------------------------

    def begin(self, slot: int, length: int, size: int, inode: int) -> int:
        """The flight's number."""
        pattern = os.urandom(_PATTERN) if length >= _PATTERN else b"\xff" * length  # no short text is this
        self._number += 1
        self.chunk[: min(_PATTERN, length)] = pattern
        self._map[0:4] = _NONE.to_bytes(4, "little")
        _FLIGHT.pack_into(self._map, 0, _NONE, length, self._number, pattern, 0, inode, size, 0)
        self._map[0:4] = slot.to_bytes(4, "little")
        self._current = slot
        return self._number

    def stamp(self, slot: int, now: int) -> None:
        os.pwrite(self.fd, now.to_bytes(8, "little"), self._flight_of(slot) + _STAMP)

    def place(self, slot: int, inode: int, size: int, done: int) -> None:
        """In one system call, which no kill cuts in half."""
        os.pwrite(self.fd, _PLACES.pack(inode, size, done), self._flight_of(slot) + _PLACE)

    def save(self, slot: int, number: int, data: bytes, ordinal: int, time: int, ident: str) -> None:
        self._write(slot, _CARRY.pack(number, len(data), ordinal, time, ident.encode()) + data)

    def end(self, slot: int) -> None:
        if self._current == slot:
            self._map[0:4] = _NONE.to_bytes(4, "little")
            self._current = _NONE
        else:
            os.pwrite(self.fd, _EMPTY, self._aside(slot))

    def set_aside(self, slot: int) -> None:
        """The flight goes on in its slot."""
        where, length = self._aside(slot), _FLIGHT.unpack_from(self._map)[1]
        os.pwrite(self.fd, self.chunk[:length], where + PAGE)
        os.pwrite(self.fd, (slot + 1).to_bytes(4, "little") + self._map[4 : _FLIGHT.size], where)
        self._map[0:4] = _NONE.to_bytes(4, "little")
        self._current = _NONE

    def flight(self, slot: int) -> Flight | None:
        """What a predecessor left of this slot."""
        raw = os.pread(self.fd, PAGE + CHUNK, self._aside(slot))
        if len(raw) < _FLIGHT.size or raw[:4] == _EMPTY:
            return None
        _, length, number, _, now, inode, size, done = _FLIGHT.unpack_from(raw)
        return Flight(number, now, inode, size, done, raw[PAGE : PAGE + length])

    def _aside(self, slot: int) -> int:
        return PAGE + CHUNK + slot * SLOT + CARRY

    def _flight_of(self, slot: int) -> int:
        return 0 if self._current == slot else self._aside(slot)
