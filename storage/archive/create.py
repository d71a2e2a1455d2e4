"""A tree, or a part of one, into a tar.

The tree may be a living container's, whose processes may be hostile: directories are walked by descriptor,
nothing on the way is opened through a symlink, and a name that becomes something else between being looked
at and being opened is left out. A file that shrinks is filled up with zeros, one that grows is cut: its
header has gone out already.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from storage.archive.format import Entry, EntryType
from storage.archive.options import CreateOptions
from storage.archive.root import Root
from storage.archive.writer import TarWriter
from storage.errors import Internal, NotFound
from storage.streams import Writable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME
_CHUNK = 256 << 10

_KEPT_ATTRIBUTES = ("user.",)
_CAPABILITY = "security.capability"
_OVERLAY = "user.overlay."

_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO})
"""A living tree changed under us."""

_TYPES = {
    stat.S_IFREG: EntryType.REGULAR,
    stat.S_IFDIR: EntryType.DIRECTORY,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFCHR: EntryType.CHARACTER,
    stat.S_IFBLK: EntryType.BLOCK,
    stat.S_IFIFO: EntryType.FIFO,
}
"""Sockets have no place in a tar; they are left out, as Docker does."""


def create(
    out: Writable,
    root: int | Path,
    path: str = "/",
    *,
    name: str = "",
    options: CreateOptions | None = None,
) -> None:
    """Writes the file or tree at `path`, resolved inside `root`, as a tar whose bytes depend on it alone.

    `name` is the top entry's name: for `docker cp` the path's last component or the name asked for
    (Docker's "rebase"). With an empty name the top directory itself is left out and its children
    stand at the archive's root: `docker export`. A final symlink is archived, not followed, unless `path`
    ends in "/" or "/.". NotFound when there is nothing at `path`.
    """
    writer = TarWriter(out, nanoseconds=options.nanoseconds if options else False)
    packer = Packer(writer, options or CreateOptions())
    with Root(root) as base:
        parent_fd, last = _open_top(base, path)
        try:
            if name:
                packer.add(parent_fd, last, name)
            else:
                packer.add_children(parent_fd, last)
        finally:
            os.close(parent_fd)
    writer.close()


def _open_top(root: Root, path: str) -> tuple[int, str]:
    """The descriptor of a directory and the name in it that `path` means."""
    follow = path.endswith(("/", "/.")) or path in ("", ".")
    parent, _, last = path.rstrip("/").rpartition("/")
    try:
        if follow or last in ("", ".", ".."):
            return root.open(path, os.O_PATH | os.O_DIRECTORY), "."
        fd = root.open(parent or "/", os.O_PATH | os.O_DIRECTORY)
        try:
            os.stat(last, dir_fd=fd, follow_symlinks=False)
        except BaseException:
            os.close(fd)
            raise
        return fd, last
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFound(f"Could not find the file {path}") from None
        raise Internal(f"read {path}: {os.strerror(error.errno or 0)}") from error


class Packer:
    """Walks trees and writes their entries, sorted, hard links among them kept."""

    def __init__(self, writer: TarWriter, options: CreateOptions) -> None:
        self._writer = writer
        self._options = options
        self._links: dict[tuple[int, int], str] = {}
        self.size = 0
        """Bytes of the files that were written."""

    def add(self, parent: int, base: str, name: str) -> None:
        """One file or tree by the name `name`; nothing of it when it has vanished."""
        with _vanishing():
            found = os.stat(base, dir_fd=parent, follow_symlinks=False)
            self._add(parent, base, name, found)
            if stat.S_ISDIR(found.st_mode):
                self._walk(parent, base, name)

    def add_children(self, parent: int, base: str, prefix: str = "") -> None:
        """All in a directory, but not the directory itself; below `prefix` in the archive."""
        with _vanishing():
            self._walk(parent, base, prefix)

    def _walk(self, parent: int, base: str, prefix: str) -> None:
        """Depth first without recursion: containers make trees deeper than Python's stack."""
        stack = [self._listing(os.open(base, _DIRECTORY, dir_fd=parent), prefix, "")]
        try:
            while stack:
                fd, prefix, relative, names = stack[-1]
                child = next(names, None)
                if child is None:
                    stack.pop()
                    os.close(fd)
                    continue
                path = f"{relative}/{child}" if relative else child
                if self._options.select is not None and not self._options.select(path):
                    continue
                with _vanishing():
                    found = os.stat(child, dir_fd=fd, follow_symlinks=False)
                    name = f"{prefix}/{child}" if prefix else child
                    self._add(fd, child, name, found)
                    if stat.S_ISDIR(found.st_mode) and self._enters(name):
                        stack.append(self._listing(os.open(child, _DIRECTORY, dir_fd=fd), name, path))
        finally:
            for fd, *_ in stack:
                os.close(fd)

    def _listing(self, fd: int, prefix: str, relative: str) -> tuple[int, str, str, Iterator[str]]:
        try:
            return fd, prefix, relative, iter(sorted(os.listdir(fd)))
        except BaseException:
            os.close(fd)
            raise

    def _enters(self, name: str) -> bool:
        """Whether a directory just written is walked as well."""
        return True

    def _add(self, parent: int, base: str, name: str, found: os.stat_result) -> None:
        """One entry, without what is beneath it."""
        kind = _TYPES.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return
        entry = self._entry(name, kind, found)
        if found.st_nlink > 1 and kind is not EntryType.DIRECTORY:
            first = self._links.setdefault((found.st_dev, found.st_ino), name)
            if first != name:
                entry.type, entry.linkname = EntryType.HARDLINK, first
                self._writer.header(entry)
                return
        if kind is EntryType.REGULAR:
            self._add_file(parent, base, entry, found)
            return
        if kind is EntryType.SYMLINK:
            entry.linkname = os.readlink(base, dir_fd=parent)
        elif kind is EntryType.DIRECTORY:
            entry.xattrs = read_attributes(f"/proc/self/fd/{parent}/{base}")
        self._writer.header(entry)

    def _add_file(self, parent: int, base: str, entry: Entry, looked: os.stat_result) -> None:
        fd = _open_file(parent, base)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return
            if (found.st_dev, found.st_ino) != (looked.st_dev, looked.st_ino):
                self._links.pop((looked.st_dev, looked.st_ino), None)
                entry = self._entry(entry.name, EntryType.REGULAR, found)
            entry.size = found.st_size
            entry.xattrs = read_attributes(fd)
            self._writer.header(entry)
            self._copy(fd, entry.size)
            self.size += entry.size
        finally:
            os.close(fd)

    def _copy(self, fd: int, size: int) -> None:
        while size:
            data = os.read(fd, min(size, _CHUNK))
            if not data:
                data = bytes(min(size, _CHUNK))  # it shrank
            self._writer.write(data)
            size -= len(data)

    def _entry(self, name: str, kind: EntryType, found: os.stat_result) -> Entry:
        uid, gid = found.st_uid, found.st_gid
        if self._options.owner is not None:
            uid, gid = self._options.owner(uid, gid)
        return Entry(
            name=name,
            type=kind,
            mode=stat.S_IMODE(found.st_mode),
            uid=uid,
            gid=gid,
            mtime=found.st_mtime_ns,
            device=found.st_rdev,
        )


def read_attributes(target: int | str) -> dict[str, bytes]:
    """What travels with a file: file capabilities and the users' own attributes, but not overlay's."""
    try:
        names = os.listxattr(target, follow_symlinks=isinstance(target, int))
    except OSError as error:
        if error.errno in _VANISHED or error.errno == errno.ENOTSUP:
            return {}
        raise
    found = {}
    for name in names:
        wanted = name == _CAPABILITY or (name.startswith(_KEPT_ATTRIBUTES) and not name.startswith(_OVERLAY))
        if wanted:
            with contextlib.suppress(OSError):  # removed meanwhile
                found[name] = os.getxattr(target, name, follow_symlinks=isinstance(target, int))
    return found


def _open_file(parent: int, base: str) -> int:
    """Without touching its access time, where we may (it is ours, or we are root)."""
    try:
        return os.open(base, _FILE, dir_fd=parent)
    except PermissionError:
        return os.open(base, _FILE & ~os.O_NOATIME, dir_fd=parent)


@contextlib.contextmanager
def _vanishing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _VANISHED:
            raise
