"""Limits on what a directory tree may take, by project quotas (xfs_quota(8), "directory tree quotas").

A *project* is a number that files carry; the file system counts blocks by project and can limit them. A
directory with the flag "inherit" gives its number to what is made in it, so that a tree has one. XFS answers
ENOSPC at the limit, and statfs(2) below shows it as the size of the file system.

    quota = ProjectQuota.open(root, holders)     None where the file system counts no projects
    quota.limit(directory, 1 << 30)              a number of its own for the (empty) directory
    quota.limited(directory)                     the number, to be given back ...
    quota.release(number)                        ... once the tree is deleted

Nothing is recorded but in the directories: which numbers are taken is read from them when opened, and limits of
numbers that no directory has, as a crash between deleting and releasing leaves them, are lifted then. Numbers
come from a range that depends on the root, so that daemons on one file system keep apart; where an administrator
gave the root a number (`xfs_quota -c 'project -s'`), from those above it, as moby does (quota/projectquota.go).
quotactl_fd(2) needs Linux 5.14.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from storage import syscalls
from storage.errors import Internal

_FS_IOC_FSGETXATTR = 0x801C581F
_FS_IOC_FSSETXATTR = 0x401C5820
_FSXATTR = struct.Struct("=IIIII8s")
_XFLAG_PROJINHERIT = 0x200

_PROJECT = 2
_Q_XSETQLIM, _Q_XGETQSTAT, _Q_XGETNEXTQUOTA = (
    ((ord("X") << 8) + number) << 8 | _PROJECT for number in (4, 5, 9)
)
_DISK_QUOTA = struct.Struct("=bbHIQQQQQQiiHHbbbbQQQiHh8s")
_QSTAT_SIZE = 80
_VERSION, _XFS_PROJ_QUOTA = 1, 2
_SOFT, _HARD = 1 << 2, 1 << 3
_COUNTED, _ENFORCED = 1 << 4, 1 << 5
_BLOCK = 512

_RANGE = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ProjectQuota:
    """All methods block and may be called from any thread."""

    def __init__(self, root: Path, first: int, taken: set[int]) -> None:
        self._root, self._first, self._taken = root, first, taken
        self._next = first
        self._lock = threading.Lock()

    @staticmethod
    def open(root: Path, holders: Iterable[str]) -> ProjectQuota | None:
        """`holders`: the directories below that may have a number. None without quotas that are enforced."""
        with _opened(root) as fd:
            if not _enforced(fd):
                return None
            own, _ = _project(fd)
        taken = {project for path in holders if (project := _project_at(path))} - {own}
        first = own + 1 if own else (1024 + zlib.crc32(os.fsencode(root.resolve())) % 1024) * _RANGE
        quota = ProjectQuota(root, first, taken)
        quota._lift_forgotten()
        return quota

    def limit(self, directory: str, size: int) -> None:
        """At most `size` bytes for what will be in an empty directory. Raises Internal."""
        with self._lock:
            project = self._next
            while project in self._taken:
                project += 1
            self._taken.add(project)
            self._next = project + 1 if project + 1 < self._first + _RANGE else self._first
        try:
            self._set(project, size)
            _join(directory, project)
        except OSError as error:
            self.release(project)
            raise Internal(f"failed to set quota limit for projid {project}: {error.strerror}") from error

    def limited(self, directory: str) -> int:
        """The number of a directory; 0 when it has none that was given here."""
        project = _project_at(directory)
        return project if project in self._taken else 0

    def release(self, project: int) -> None:
        """The number may be given again: nothing has it any more. 0 is nothing."""
        if not project:
            return
        self._set(project, 0)
        with self._lock:
            self._taken.discard(project)

    def _set(self, project: int, size: int) -> None:
        with _opened(self._root) as fd:
            set_limit(fd, project, size)

    def _lift_forgotten(self) -> None:
        with _opened(self._root) as fd:
            for project, _ in limits(fd, self._first, self._first + _RANGE):
                if project not in self._taken:
                    set_limit(fd, project, 0)


@contextmanager
def _opened(directory: str | Path) -> Iterator[int]:
    fd = os.open(directory, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _enforced(fd: int) -> bool:
    state = bytearray(_QSTAT_SIZE)
    try:
        syscalls.quotactl(fd, _Q_XGETQSTAT, 0, state)
    except OSError:  # no quotas, none of this kind, or a kernel without the call
        return False
    flags = int.from_bytes(state[2:4], "little")
    return bool(flags & _COUNTED and flags & _ENFORCED)


def _project(fd: int) -> tuple[int, bytes]:
    attributes = fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))
    return _FSXATTR.unpack(attributes)[3], attributes


def _project_at(path: str) -> int:
    try:
        with _opened(path) as fd:
            return _project(fd)[0]
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _join(directory: str | Path, project: int) -> None:
    with _opened(directory) as fd:
        flags, extent, extents, _, cow, rest = _FSXATTR.unpack(_project(fd)[1])
        _change(fd, (flags | _XFLAG_PROJINHERIT, extent, extents, project, cow, rest))


def accept_all(directory: str | Path) -> None:
    """Let a directory take trees of any number: rename(2) into one that inherits its own gives EXDEV."""
    with _opened(directory) as fd:
        flags, *others = _FSXATTR.unpack(_project(fd)[1])
        if flags & _XFLAG_PROJINHERIT:
            _change(fd, (flags & ~_XFLAG_PROJINHERIT, *others))


def _change(fd: int, fields: tuple[int | bytes, ...]) -> None:
    fcntl.ioctl(fd, _FS_IOC_FSSETXATTR, _FSXATTR.pack(*fields))


def set_limit(fd: int, project: int, size: int) -> None:
    """Limit a number on the file system of an open file to `size` bytes, 0 for none."""
    fields = [0] * 24 + [b""]
    fields[:6] = [_VERSION, _XFS_PROJ_QUOTA, _SOFT | _HARD, project, size // _BLOCK, size // _BLOCK]
    syscalls.quotactl(fd, _Q_XSETQLIM, project, bytearray(_DISK_QUOTA.pack(*fields)))


def limits(fd: int, first: int = 1, end: int = 1 << 32) -> Iterator[tuple[int, int]]:
    """Numbers from `first` to before `end` that have a limit, and the limit in bytes."""
    while first < end:
        found = bytearray(_DISK_QUOTA.size)
        try:
            syscalls.quotactl(fd, _Q_XGETNEXTQUOTA, first, found)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH, errno.EINVAL, errno.ENOSYS):
                return
            raise
        fields = _DISK_QUOTA.unpack(found)
        project, blocks = fields[3], fields[4]
        if blocks and first <= project < end:
            yield project, blocks * _BLOCK
        first = project + 1
