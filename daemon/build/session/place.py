"""A kept directory while it is being changed, by names that somebody else chose.

Every parent is opened by the kernel beneath the top and through no symlink (openat2), what is in it is named by its
last component, which is never followed. Nothing is written in place: files of older generations and of layers are
the same inodes by other names, so a changed file is a new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from daemon.build.proto.fsutil_pb2 import Listed
from daemon.build.session import listing
from storage import trees
from storage.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_KEPT = 32
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_REFUSED = frozenset({errno.EPERM, errno.ENOTSUP})


class Place:
    """A directory; paths are relative to it, as bytes."""

    def __init__(self, top: Path) -> None:
        self.top = os.open(top, _DIRECTORY)
        self._parents: OrderedDict[bytes, int] = OrderedDict()

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """The descriptor (still ours) of the directory that a path is in, and its last component."""
        above, slash, name = path.rpartition(b"/")
        if not slash:
            return self.top, path
        fd = self._parents.get(above)
        if fd is None:
            fd = openat2(self.top, os.fsdecode(above), os.O_PATH | os.O_DIRECTORY, 0, _RESOLVE)
            self._parents[above] = fd
            if len(self._parents) > _KEPT:
                os.close(self._parents.popitem(last=False)[1])
        else:
            self._parents.move_to_end(above)
        return fd, name

    def create(self, path: bytes) -> int:
        """A new file's descriptor, in the place of whatever was there."""
        parent, name = self.parent(path)
        try:
            return os.open(name, _CREATE, 0o600, dir_fd=parent)
        except FileExistsError:
            self.remove(path)
            parent, name = self.parent(path)
            return os.open(name, _CREATE, 0o600, dir_fd=parent)

    def directory(self, path: bytes, found: Listed) -> None:
        """Made, or given its new looks when it is there."""
        parent, name = self.parent(path)
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self.remove(path)
                parent, name = self.parent(path)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            looks(fd, found)
        finally:
            os.close(fd)

    def symlink(self, path: bytes, target: bytes) -> None:
        self.remove(path)
        parent, name = self.parent(path)
        os.symlink(target, name, dir_fd=parent)

    def fifo(self, path: bytes, found: Listed) -> None:
        self.remove(path)
        parent, name = self.parent(path)
        os.mkfifo(name, 0o600, dir_fd=parent)
        os.chmod(name, listing.permissions(found.mode), dir_fd=parent)

    def link(self, target: bytes, path: bytes) -> None:
        """A hard link to a regular file; FileNotFoundError when it is none."""
        self.remove(path)
        source, base = self.parent(target)
        if not stat.S_ISREG(os.stat(base, dir_fd=source, follow_symlinks=False).st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(target))
        source = os.dup(source)  # opening the other parent may close it
        try:
            parent, name = self.parent(path)
            os.link(base, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def times(self, path: bytes, modified: int) -> None:
        parent, name = self.parent(path)
        os.utime(name, ns=(modified, modified), dir_fd=parent, follow_symlinks=False)

    def remove(self, path: bytes) -> None:
        """Whatever it is, with all beneath; nothing when it is not there."""
        try:
            parent, name = self.parent(path)
            try:
                os.unlink(name, dir_fd=parent)
                return
            except IsADirectoryError:
                pass
            self._forget(path)
            trees.remove(os.fsdecode(name), dir_fd=parent)
        except OSError as error:
            if error.errno not in _GONE:
                raise

    def _forget(self, path: bytes) -> None:
        """Descriptors of what is beneath a directory that goes."""
        beneath = path + b"/"
        for each in [each for each in self._parents if each == path or each.startswith(beneath)]:
            os.close(self._parents.pop(each))

    def close(self) -> None:
        for fd in self._parents.values():
            os.close(fd)
        self._parents.clear()
        if self.top >= 0:
            os.close(self.top)
            self.top = -1


def looks(fd: int, found: Listed) -> None:
    """Mode and attributes; the owner is root, as BuildKit has it for contexts."""
    if found.xattrs:
        attributes(fd, found.xattrs)
    os.fchmod(fd, listing.permissions(found.mode))


def attributes(fd: int, wanted: Mapping[str, bytes]) -> None:
    """Those that are kept."""
    for name, value in wanted.items():
        if listing.is_kept(name):
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise


def clone(source: Path, target: Path, records: Path) -> None:
    """The tree `source`, which a listing describes, by hard links in the new directory `target`."""
    target.mkdir(mode=0o755)
    old, new = Place(source), Place(target)
    directories = []
    try:
        for found, _, _ in listing.records(records):
            if found.mode & listing.GO_DIRECTORY:
                new.directory(found.path, found)
                directories.append((found.path, found.mod_time))
                continue
            with contextlib.suppress(FileNotFoundError):  # sockets and devices are listed only
                _link(old, new, found.path)
        for path, modified in directories:
            new.times(path, modified)
    finally:
        old.close()
        new.close()


def _link(old: Place, new: Place, path: bytes) -> None:
    source, name = old.parent(path)
    parent, _ = new.parent(path)
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        _copy(source, parent, name)


def _copy(source: int, parent: int, name: bytes) -> None:
    """A file that has as many names as the file system allows."""
    with (
        open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source), "rb") as reading,
        open(os.open(name, _CREATE, 0o600, dir_fd=parent), "wb") as writing,
    ):
        status = os.fstat(reading.fileno())
        while os.copy_file_range(reading.fileno(), writing.fileno(), 1 << 30):
            pass
        for each in os.listxattr(reading.fileno()):
            os.setxattr(writing.fileno(), each, os.getxattr(reading.fileno(), each))
        os.fchmod(writing.fileno(), stat.S_IMODE(status.st_mode))
        os.utime(writing.fileno(), ns=(status.st_mtime_ns, status.st_mtime_ns))
