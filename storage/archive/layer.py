"""An overlay's upper directory as an image layer, and nothing in it that overlay put there for itself.

    character device 0/0                                an empty file .wh.NAME
    directory with (trusted|user).overlay.opaque=y      its entry, then an empty file NAME/.wh..wh..opq

(OCI image specification, layer.md, "Whiteouts"; Linux's overlayfs.rst, "whiteouts and opaque directories".)
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from storage.archive.create import Packer
from storage.archive.format import Entry
from storage.archive.options import (
    WHITEOUT_OPAQUE,
    WHITEOUT_PREFIX,
    CreateOptions,
    is_opaque,
    is_whiteout,
    opaque_attribute,
)
from storage.archive.writer import TarWriter
from storage.streams import Writable


@dataclass(frozen=True)
class Graft:
    """A directory of which somebody else writes what is beneath it."""

    name: str
    """Empty: the whole layer."""
    write: Callable[[TarWriter], int]
    """Returns the bytes of the files that it wrote."""


def write_layer(
    out: Writable, layer: int | Path, *, userxattr: bool = False, options: CreateOptions | None = None
) -> None:
    """Writes what `layer` holds as a layer tar with OCI whiteouts."""
    pack_layer(out, layer, userxattr=userxattr, options=options)


def pack_layer(
    out: Writable,
    layer: int | Path,
    *,
    userxattr: bool = False,
    options: CreateOptions | None = None,
    graft: Graft | None = None,
) -> int:
    """As write_layer(); returns the bytes of its files (of those with several names once)."""
    options = options or CreateOptions()
    writer = TarWriter(out, nanoseconds=options.nanoseconds)
    packer = _LayerPacker(writer, options, opaque_attribute(userxattr=userxattr), graft)
    fd = os.dup(layer) if isinstance(layer, int) else os.open(layer, os.O_PATH | os.O_CLOEXEC)
    try:
        if graft is not None and not graft.name:
            packer.size = graft.write(writer)
        else:
            packer.add_children(fd, ".")
    finally:
        os.close(fd)
    writer.close()
    return packer.size


class _LayerPacker(Packer):
    def __init__(
        self, writer: TarWriter, options: CreateOptions, attribute: str, graft: Graft | None
    ) -> None:
        super().__init__(writer, options)
        self._attribute = attribute
        self._graft = graft

    def _add(self, parent: int, base: str, name: str, found: os.stat_result) -> None:
        if is_whiteout(found):
            directory, slash, last = name.rpartition("/")
            self._writer.header(self._whiteout(f"{directory}{slash}{WHITEOUT_PREFIX}{last}", found))
            return
        super()._add(parent, base, name, found)
        if stat.S_ISDIR(found.st_mode) and is_opaque(f"/proc/self/fd/{parent}/{base}", self._attribute):
            self._writer.header(self._whiteout(f"{name}/{WHITEOUT_OPAQUE}", found))

    def _enters(self, name: str) -> bool:
        if self._graft is None or name != self._graft.name:
            return True
        self.size += self._graft.write(self._writer)
        return False

    @staticmethod
    def _whiteout(name: str, found: os.stat_result) -> Entry:
        return Entry(name, mode=0o600, mtime=found.st_mtime_ns)
