"""What makes logging survive a kill -9 of the keeper: bytes that left a pipe are somewhere else first.

Model
    The journal is a memfd that keeper and supervisor share; it lives as long as one of them. Page one and
    the CHUNK after it hold the *flight*: the one read that is under way. Then follow *slots*, one for each
    logged stream, with the beginning of the line whose end has not come yet (loglines' carry).

    begin(slot, n, size)   n bytes are about to be read; the log file has `size` bytes. The first bytes of
                           the chunk are set to a pattern: whether it is still there tells whether the
                           read happened (a pipe with one reader gives n available bytes all or not at all).
    ... read into `chunk`, append to the log ...
    save(slot, ...)        the new carry, with the flight's number
    end()

    A new keeper finds the flight of its predecessor: it cuts the log back to `size`, and does the rest
    again. Whatever the moment of the kill, each byte ends in the log once.

Pages are touched only when used; an idle container costs none.
"""

from __future__ import annotations

import mmap
import os
import struct

PAGE = 4096
CHUNK = 64 << 10
SLOT = 20 << 10
_FLIGHT = struct.Struct("<IIQQQ16s")
_CARRY = struct.Struct("<QIIQ64s")
_NONE = 0xFFFFFFFF


class Flight:
    """A read that was under way when a keeper died."""

    __slots__ = ("data", "inode", "number", "size", "slot")

    def __init__(self, slot: int, number: int, size: int, inode: int, data: bytes) -> None:
        self.slot, self.number, self.size, self.inode, self.data = slot, number, size, inode, data


class Carry:
    """A line's beginning, and how much of it was logged already when it is longer than 16 KiB."""

    __slots__ = ("data", "ident", "number", "ordinal", "time")

    def __init__(self, number: int, data: bytes, ordinal: int, time: int, ident: str) -> None:
        self.number, self.data, self.ordinal, self.time, self.ident = number, data, ordinal, time, ident


class Journal:
    __slots__ = ("_free", "_map", "_next", "_number", "chunk", "fd", "flight")

    def __init__(self, fd: int | None) -> None:
        """A new journal, or the one a predecessor left; then `flight` is what it was doing."""
        fresh = fd is None
        self.fd = os.memfd_create("pyd-journal", os.MFD_CLOEXEC) if fd is None else fd
        if fresh:
            os.ftruncate(self.fd, PAGE + CHUNK)
        self._map = mmap.mmap(self.fd, PAGE + CHUNK)
        self.chunk = memoryview(self._map)[PAGE:]
        self.flight = None if fresh else self._read_flight()
        self._number = 0 if fresh else _FLIGHT.unpack_from(self._map)[2]
        self._free: list[int] = []
        self._next = 0
        self._map[0:4] = _NONE.to_bytes(4, "little")

    def _read_flight(self) -> Flight | None:
        slot, length, number, size, inode, pattern = _FLIGHT.unpack_from(self._map)
        data = bytes(self.chunk[:length])
        if slot == _NONE or data[:16] == pattern[:length]:
            return None
        return Flight(slot, number, size, inode, data)

    # -- slots -----------------------------------------------------------------------------------------

    def allocate(self) -> int:
        slot = self._free.pop() if self._free else self._next
        self.claim(slot)
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
        raw = os.pread(self.fd, SLOT, PAGE + CHUNK + slot * SLOT)
        if len(raw) < _CARRY.size:
            return Carry(0, b"", 0, 0, "")
        number, length, ordinal, time, ident = _CARRY.unpack_from(raw)
        return Carry(
            number, raw[_CARRY.size : _CARRY.size + length], ordinal, time, ident.rstrip(b"\0").decode()
        )

    # -- the flight --------------------------------------------------------------------------------------

    def begin(self, slot: int, length: int, size: int, inode: int) -> None:
        pattern = os.urandom(16)
        self._number += 1
        self.chunk[: min(16, length)] = pattern[: min(16, length)]
        self._map[0:4] = _NONE.to_bytes(4, "little")
        _FLIGHT.pack_into(self._map, 0, _NONE, length, self._number, size, inode, pattern)
        self._map[0:4] = slot.to_bytes(4, "little")

    def save(self, slot: int, data: bytes, ordinal: int, time: int, ident: str) -> None:
        self._write(slot, _CARRY.pack(self._number, len(data), ordinal, time, ident.encode()) + data)

    def end(self) -> None:
        self._map[0:4] = _NONE.to_bytes(4, "little")
