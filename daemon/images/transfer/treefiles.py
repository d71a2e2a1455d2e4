"""Whole trees, each {"lower": [directories, topmost first]} (an empty list: nothing): as archives, as digests."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from storage.archive import CreateOptions, Entry, EntryType, TarWriter
from storage.archive.create import Packer
from storage.snapshots import OverlayMount, mounted
from storage.streams import Writable

Tree = dict[str, Any]


@contextmanager
def opened(tree: Tree) -> Iterator[int | None]:
    """The descriptor of its root; None when there is nothing."""
    if not tree["lower"]:
        yield None
        return
    with mounted(OverlayMount(tuple(Path(path) for path in tree["lower"]), None, None)) as fd:
        yield fd


class _Dated(TarWriter):
    """Gives all entries one time, if there is one."""

    def __init__(self, out: Writable, epoch: int | None) -> None:
        super().__init__(out)
        self._epoch = epoch

    def header(self, entry: Entry) -> None:
        super().header(entry if self._epoch is None else replace(entry, mtime=self._epoch))


def write(out: Writable, trees: Sequence[Tree], epoch: int | None) -> None:
    """One archive of all, each below its `prefix` (empty: at the top) in a directory of that name."""
    writer = _Dated(out, epoch)
    for tree in trees:
        prefix = str(tree.get("prefix") or "")
        if prefix:
            writer.header(Entry(prefix, EntryType.DIRECTORY, mode=0o755))
        with opened(tree) as root:
            if root is not None:
                Packer(writer, CreateOptions()).add_children(root, ".", prefix)
    writer.close()


def digests(tree: Tree) -> list[list[str]]:
    """[path, SHA-256] of each regular file, sorted."""
    found: list[list[str]] = []
    with opened(tree) as root:
        if root is None:
            return []
        for base, _, names, at in os.fwalk(".", dir_fd=root):
            for name in names:
                if stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                    found.append([os.path.normpath(os.path.join(base, name)), _digest(name, at)])
    return sorted(found)


def _digest(name: str, directory: int) -> str:
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
