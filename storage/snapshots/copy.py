"""Snapshots without overlayfs: every tree is a copy. Slow and large, but it works on any file system.

    ROOT/<n>/fs      a committed snapshot's own files, in overlay's form, as the overlay snapshotter has them
    ROOT/<n>/tree    an active snapshot's or a view's whole tree, made by applying its layers in order

Committing compares the tree with its parents and writes the difference to `fs`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from storage import trees
from storage.archive import CreateOptions, ExtractOptions, TarWriter, Whiteouts, extract, write_layer
from storage.archive.create import Packer
from storage.archive.format import Entry
from storage.archive.options import WHITEOUT_PREFIX, opaque_attribute
from storage.errors import InvalidArgument
from storage.snapshots import changes
from storage.snapshots.base import DirectorySnapshotter
from storage.snapshots.index import Record
from storage.snapshots.interface import Change, ChangeKind, Kind, OverlayMount
from storage.streams import Writable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class CopySnapshotter(DirectorySnapshotter):
    """Implements Snapshotter on plain directories."""

    def overlay(self, key: str) -> OverlayMount:
        record = self._index.get(key)
        match record.snapshot.kind:
            case Kind.ACTIVE:
                return OverlayMount((), Path(self._files(record)), None)
            case Kind.VIEW:
                return OverlayMount((Path(self._files(record)),), None, None)
            case Kind.COMMITTED:
                raise InvalidArgument(f"snapshot {key} is committed: its tree is only to be had as a view")

    def layer_dir(self, key: str) -> Path:
        record = self._index.get(key)
        if record.snapshot.kind is not Kind.COMMITTED and record.snapshot.parent is not None:
            raise InvalidArgument(f"snapshot {key} is a whole tree and no layer")
        return super().layer_dir(key)

    def changes(self, key: str) -> list[Change]:
        record = self._index.get(key)
        if record.snapshot.kind is Kind.VIEW:
            return []
        return self._compare(record, record.snapshot.parent)

    def diff(self, key: str, out: Writable, *, options: CreateOptions | None = None) -> None:
        record = self._index.get(key)
        if record.snapshot.kind is Kind.VIEW:
            TarWriter(out).close()
        elif self._is_tree(record):
            self._write_difference(record, record.snapshot.parent, out, options or CreateOptions())
        else:
            write_layer(out, Path(self._files(record)), userxattr=self._userxattr, options=options)

    def _compare(self, record: Record, parent: str | None) -> list[Change]:
        compare = changes.copy_changes if self._is_tree(record) else changes.overlay_changes
        fd = os.open(self._files(record), _DIRECTORY)
        try:
            return compare(fd, self._layers(parent), opaque_attribute(userxattr=self._userxattr))
        finally:
            os.close(fd)

    def _write_difference(
        self, record: Record, parent: str | None, out: Writable, options: CreateOptions
    ) -> None:
        """Changed entries in the tree's order, then whiteouts: a layer's order has no meaning."""
        found = self._compare(record, parent)
        kept = {change.path[1:] for change in found if change.kind is not ChangeKind.DELETED}
        writer = TarWriter(out, nanoseconds=options.nanoseconds)
        packer = Packer(writer, CreateOptions(options.owner, kept.__contains__, options.nanoseconds))
        fd = os.open(self._files(record), _DIRECTORY)
        try:
            packer.add_children(fd, ".")
        finally:
            os.close(fd)
        for change in found:
            if change.kind is ChangeKind.DELETED:
                directory, _, base = change.path[1:].rpartition("/")
                hidden = f"{WHITEOUT_PREFIX}{base}"
                writer.header(Entry(f"{directory}/{hidden}" if directory else hidden, mode=0o600))
        writer.close()

    def _make_tree(self, directory: str, parent: str | None) -> None:
        os.mkdir(f"{directory}/fs")
        os.chmod(f"{directory}/fs", 0o755)
        if parent is not None:
            self._make_view(directory, parent)

    def _make_view(self, directory: str, parent: str) -> None:
        tree = Path(directory, "tree")
        tree.mkdir()
        layers = self._layers(parent)
        for layer in reversed(layers):
            self._apply(
                lambda out, layer=layer: write_layer(  # type: ignore[misc]
                    out, Path(layer), userxattr=self._userxattr, options=CreateOptions(nanoseconds=True)
                ),
                tree,
                Whiteouts.APPLY,
            )
        above = os.stat(layers[0])
        os.chown(tree, above.st_uid, above.st_gid)
        tree.chmod(above.st_mode & 0o7777)

    def _before_commit(self, record: Record, parent: str | None) -> None:
        if not self._is_tree(record):
            return
        files = Path(self._index.directory(record), "fs")
        fd = os.open(files.parent, _DIRECTORY)
        try:
            trees.remove("fs", dir_fd=fd)  # what an interrupted commit left
        finally:
            os.close(fd)
        files.mkdir()
        options = CreateOptions(nanoseconds=True)
        self._apply(
            lambda out: self._write_difference(record, parent, out, options), files, Whiteouts.OVERLAY
        )
        above = os.stat(self._files(record))
        os.chown(files, above.st_uid, above.st_gid)
        files.chmod(above.st_mode & 0o7777)

    def _after_commit(self, record: Record) -> None:
        if self._is_tree(record):
            self._index.discard(self._files(record))

    def _apply(self, write: Callable[[Writable], None], target: Path, whiteouts: Whiteouts) -> None:
        """Pipes an archive from one thread into its extraction here."""
        receiving, sending = os.pipe()
        failed: list[BaseException] = []

        def send() -> None:
            try:
                with open(sending, "wb") as out:
                    write(out)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=send, name="copy-snapshot")
        thread.start()
        try:
            with open(receiving, "rb", buffering=0) as stream:
                extract(stream, target, ExtractOptions(whiteouts, userxattr=self._userxattr))
        finally:
            thread.join()
            if failed and not isinstance(failed[0], BrokenPipeError):
                raise failed[0]

    def _is_tree(self, record: Record) -> bool:
        """Whether the snapshot is kept as a whole tree: it isn't committed and has a parent."""
        return record.snapshot.kind is not Kind.COMMITTED and record.snapshot.parent is not None

    def _files(self, record: Record) -> str:
        return f"{self._index.directory(record)}/{'tree' if self._is_tree(record) else 'fs'}"
