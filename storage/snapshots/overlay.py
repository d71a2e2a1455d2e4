"""Snapshots for overlayfs: a snapshot is one directory, a tree is a mount of several.

Nothing is copied and nothing is mounted here: prepare() makes three directories, overlay() names them. Who
runs a container mounts it in the container's own mount namespace.
"""

from __future__ import annotations

import os
from pathlib import Path

from storage.archive import CreateOptions, TarWriter, write_layer
from storage.archive.options import opaque_attribute
from storage.snapshots import changes
from storage.snapshots.base import DirectorySnapshotter
from storage.snapshots.index import Record
from storage.snapshots.interface import Change, Kind, OverlayMount
from storage.streams import Writable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class OverlaySnapshotter(DirectorySnapshotter):
    """Implements Snapshotter. See interface.py for the model, index.py for the files."""

    def overlay(self, key: str) -> OverlayMount:
        record, *parents = self._index.chain(key)
        lower = [Path(self._files(parent)) for parent in parents]
        match record.snapshot.kind:
            case Kind.COMMITTED:
                return OverlayMount((Path(self._files(record)), *lower), None, None)
            case Kind.VIEW:
                return OverlayMount(tuple(lower), None, None)
            case Kind.ACTIVE:
                work = Path(f"{self._index.directory(record)}/work") if lower else None
                return OverlayMount(tuple(lower), Path(self._files(record)), work)

    def changes(self, key: str) -> list[Change]:
        record = self._index.get(key)
        if record.snapshot.kind is Kind.VIEW:
            return []
        lower = self._layers(record.snapshot.parent)
        fd = os.open(self._files(record), _DIRECTORY)
        try:
            return changes.overlay_changes(fd, lower, opaque_attribute(userxattr=self._userxattr))
        finally:
            os.close(fd)

    def diff(self, key: str, out: Writable, *, options: CreateOptions | None = None) -> None:
        if self.stat(key).kind is Kind.VIEW:
            TarWriter(out).close()
            return
        write_layer(out, self.layer_dir(key), userxattr=self._userxattr, options=options)

    def _make_tree(self, directory: str, parent: str | None) -> None:
        files = f"{directory}/fs"
        os.mkdir(files)
        if parent is None:
            os.chmod(files, 0o755)
            return
        os.mkdir(f"{directory}/work", 0o700)
        # Overlay takes the root's looks from the topmost directory, so "/" must look like the image's.
        above = os.stat(self._files(self._index.get(parent)))
        if (above.st_uid, above.st_gid) != (0, 0):
            os.chown(files, above.st_uid, above.st_gid)
        os.chmod(files, above.st_mode & 0o7777)

    def _after_commit(self, record: Record) -> None:
        work = f"{self._index.directory(record)}/work"
        if os.path.isdir(work):
            self._index.discard(work)
