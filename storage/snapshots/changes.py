"""What `docker diff` says about a tree on top of layers.

The rules are those of Docker's archive.Changes, found out by asking it:

- A file differs when mode, owner, device, size, mtime or capabilities do (we add users' attributes, which
  are part of a layer). Opening one for writing copies it up and is no change.
- A directory differs when mode or owner does, or anything in it does; its mtime doesn't count.
- A directory that was deleted is one deletion; what was in it isn't listed.
- The root itself is never listed.

Two sources of the upper tree: overlay's upper directory holds what differs, with whiteouts and opaque
marks for what is gone (`overlay_changes`); a plain copy holds everything, and what is missing is gone
(`copy_changes`). Both are a container's and maybe being changed: read by descriptor, no link followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from storage.archive.create import read_attributes
from storage.archive.options import is_opaque, is_whiteout
from storage.snapshots import layers
from storage.snapshots.interface import Change, ChangeKind
from storage.snapshots.layers import Found

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def overlay_changes(upper: int, lower: list[str], attribute: str) -> list[Change]:
    """Changes that an upper directory makes to `lower` (topmost first). Costs by the upper's size alone."""
    return _Comparison(attribute, full=False).run(upper, lower)


def copy_changes(tree: int, lower: list[str], attribute: str) -> list[Change]:
    """Changes between a whole tree and `lower`. Costs by the size of both."""
    return _Comparison(attribute, full=True).run(tree, lower)


@dataclass(slots=True)
class _Directory:
    """One directory being compared. `hides` when names missing in it are deletions."""

    fd: int
    path: str
    lower: list[str]
    hides: bool
    names: Iterator[str]
    present: set[str] = field(default_factory=set)


class _Comparison:
    def __init__(self, attribute: str, *, full: bool) -> None:
        self._attribute = attribute
        self._full = full
        self._found: dict[str, ChangeKind] = {}

    def run(self, top: int, lower: list[str]) -> list[Change]:
        stack = [self._enter(os.dup(top), "", lower, hides=self._full)]
        try:
            while stack:
                directory = stack[-1]
                name = next(directory.names, None)
                if name is None:
                    stack.pop()
                    self._leave(directory)
                    os.close(directory.fd)
                elif (child := self._compare(directory, name)) is not None:
                    stack.append(child)
        finally:
            for directory in stack:
                os.close(directory.fd)
        return [Change(path, kind) for path, kind in sorted(self._found.items())]

    def _enter(self, fd: int, path: str, lower: list[str], *, hides: bool) -> _Directory:
        names = sorted(os.listdir(fd))
        return _Directory(fd, path, lower, hides, iter(names), set(names) if hides else set())

    def _compare(self, directory: _Directory, name: str) -> _Directory | None:
        """Notes one entry's change; a directory comes back to be gone into."""
        try:
            found = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        path = f"{directory.path}/{name}"
        below = layers.lookup(directory.lower, name, self._attribute)
        if is_whiteout(found) and not self._full:
            if below is not None:
                self._note(path, ChangeKind.DELETED)
            return None
        if below is None:
            self._note(path, ChangeKind.ADDED)
        elif differs(found, below.stat) or self._attributes_differ(directory.fd, name, found, below):
            self._note(path, ChangeKind.MODIFIED)
        if not stat.S_ISDIR(found.st_mode):
            return None
        return self._go_into(directory, name, path, below)

    def _go_into(self, parent: _Directory, name: str, path: str, below: Found | None) -> _Directory | None:
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent.fd)
        except (FileNotFoundError, NotADirectoryError):
            return None
        hides = self._full or is_opaque(fd, self._attribute)
        try:
            return self._enter(fd, path, below.directories if below else [], hides=hides or parent.hides)
        except BaseException:
            os.close(fd)
            raise

    @staticmethod
    def _attributes_differ(parent: int, name: str, found: os.stat_result, below: Found) -> bool:
        """setcap(8) changes neither size nor mtime."""
        if stat.S_ISLNK(found.st_mode):
            return False
        return read_attributes(f"/proc/self/fd/{parent}/{name}") != read_attributes(below.path)

    def _leave(self, directory: _Directory) -> None:
        """What the layers have in a directory that hides them, and it has not, is deleted."""
        if not directory.hides:
            return
        for name in layers.names(directory.lower):
            if name not in directory.present and layers.lookup(directory.lower, name, self._attribute):
                self._note(f"{directory.path}/{name}", ChangeKind.DELETED)

    def _note(self, path: str, kind: ChangeKind) -> None:
        """A change changes every directory above it."""
        self._found[path] = kind
        parent = path.rpartition("/")[0]
        while parent and parent not in self._found:
            self._found[parent] = ChangeKind.MODIFIED
            parent = parent.rpartition("/")[0]


def differs(upper: os.stat_result, lower: os.stat_result) -> bool:
    """Docker's statDifferent; a time without fraction equals any within its second, as tars cut it off."""
    if (upper.st_mode, upper.st_uid, upper.st_gid) != (lower.st_mode, lower.st_uid, lower.st_gid):
        return True
    if stat.S_ISDIR(upper.st_mode):
        return False
    if upper.st_rdev != lower.st_rdev or upper.st_size != lower.st_size:
        return True
    return not _same_time(upper.st_mtime_ns, lower.st_mtime_ns)


def _same_time(one: int, other: int) -> bool:
    if one == other:
        return True
    second = 1_000_000_000
    return one // second == other // second and (one % second == 0 or other % second == 0)
