"""COPY and ADD upon a tree, with BuildKit's rules (tonistiigi/fsutil/copy, solver/llbsolver/file).

- A directory's contents are copied, not itself; into one that exists they are merged.
- A file goes into a target that is a directory or ends in a slash, else it becomes the target.
- Directories on the way are made with mode 755, or the copy's where that is octal (its last three digits), and
  the copy's owner; below a directory that hands on its group (setgid) they take it, and the bit.
- The target directory keeps its looks, or gets those of a new one; directories beneath take the source's.
- Hard links among what is copied stay linked, modification times and attributes stay.

Writing goes by descriptors: a parent is opened inside the root by the kernel, the last component is never
followed, so a link in the tree may point wherever it likes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from daemon.build.dockerfile.ignore import Ignore
from daemon.build.files import linking, modes
from daemon.build.files.hashing import walk
from daemon.build.files.sources import Found
from storage.archive import Root
from storage.archive.create import read_attributes
from storage.disk import is_full
from storage.errors import Internal, InvalidArgument, NoSpace, PydError
from storage.syscalls import chmod_descriptor

_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE = 64 << 20


@dataclass
class Copier:
    """Copies sources of one tree into another. `owner` and `mode` None: as the source has them."""

    source: Root
    target: Root
    owner: tuple[int, int] | None = None
    mode: modes.Change | None = None
    excludes: Ignore | None = None
    link: bool = False
    """Files that are to look as in the source may be linked instead of copied."""
    named: bool = False
    """The source was written out: what was asked for by name is not excluded; what a wildcard found may be."""
    links: dict[tuple[int, int], str] = field(default_factory=dict)
    """Inodes copied that have more names: where their first name went."""
    includes: Ignore | None = None
    """Only what these patterns match (paths below the source)."""
    when: int | None = None
    """Modification time of all that is copied, in nanoseconds; None: the source's."""
    contents: bool = True
    """A directory's contents are copied; else the directory, into the target if that is there (cp -r)."""
    ahead: Callable[[], Path | None] | None = None
    """Takes links of all that is in the source, if it is a directory and somebody made them before."""
    mirrored: str | None = None
    """Where a directory was copied to of which nothing was left out and no file made to look otherwise."""

    def copy(self, found: Found, target: str) -> None:
        """InvalidArgument where a file stands in a directory's way or the reverse."""
        try:
            self._copy(found, target)
        except PydError:
            raise
        except OSError as error:
            raise explained(error, f"copy /{found.name} to {target}") from None

    def _copy(self, found: Found, target: str) -> None:
        parent, _, last = found.path.rpartition("/")
        source_parent = self.source.open(parent or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            status = os.stat(last or ".", dir_fd=source_parent, follow_symlinks=False)
            directory = stat.S_ISDIR(status.st_mode)
            if found.kept:
                self._parents(found, target, directory)
                base = target.rstrip("/") + "/" + found.kept
                target = base + ("/" if directory else "")
            elif (not directory and (target.endswith("/") or self._is_directory(target))) or (
                directory and not self.contents and self._is_directory(target)
            ):
                target = target.rstrip("/") + "/" + found.name.rpartition("/")[2]
            if directory:
                self._tree(source_parent, last or ".", target)
            else:
                self._single(source_parent, last, status, target)
        finally:
            os.close(source_parent)

    def _parents(self, found: Found, target: str, directory: bool) -> None:
        """--parents: the directories that are kept look as in the source, where they are not there yet."""
        above = found.name.removesuffix(found.kept).strip("/")
        parts = found.kept.split("/")
        for count in range(1, len(parts) + directory):
            kept = "/".join(parts[:count])
            path = f"{target.rstrip('/')}/{kept}"
            if not self._is_directory(path):
                fd = make_directories(self.target, path, self.owner, self.mode)
                try:
                    self._looks(fd, self.source.stat(f"/{above}/{kept}"), directory=True)
                finally:
                    os.close(fd)

    def _is_directory(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(self.target.stat(path).st_mode)
        except OSError:
            return False

    def _single(self, source: int, name: str, status: os.stat_result, target: str) -> None:
        where, _, last = target.rstrip("/").rpartition("/")
        if self.excludes is not None and not self.named and self.excludes.ignored(name):
            return
        if self.includes is not None and not self.includes.ignored(name):
            return
        fd = make_directories(self.target, where or "/", self.owner, self.mode)
        try:
            self.entry(source, name, status, fd, last, target)
        finally:
            os.close(fd)

    def _tree(self, source: int, name: str, target: str) -> None:
        base = make_directories(self.target, target.rstrip("/") or "/", self.owner, self.mode)
        plain = self.owner is None and self.mode is None and self.when is None
        if self.link and plain and self.excludes is None and self.includes is None:
            try:
                if not self._moved(base, target):
                    linking.tree(self, source, name, base, target)
            finally:
                os.close(base)
            self.mirrored = target
            return
        times: list[tuple[str, os.stat_result]] = []
        handles: dict[str, int] = {"": base}
        try:
            for path, directory, entry, status in walk(source, name, self.excludes):
                if not path or (self.includes is not None and not self.includes.ignored(path)):
                    continue
                parent, _, last = path.rpartition("/")
                fd = self._handle(handles, base, parent, (source, name))
                if stat.S_ISDIR(status.st_mode):
                    self.directory(fd, last, status, f"{target}/{path}")
                    times.append((path, status))
                else:
                    self.entry(directory, entry, status, fd, last, f"{target}/{path}")
            for path, status in reversed(times):
                with contextlib.suppress(OSError):
                    fd = self._handle(handles, base, path, (source, name))
                    os.utime(f"/proc/self/fd/{fd}", ns=self._times(status))
        finally:
            for fd in set(handles.values()):
                os.close(fd)

    def _moved(self, base: int, target: str) -> bool:
        """Whether links that were made before stand in the target's place now, and look as it did."""
        where, _, last = target.rstrip("/").rpartition("/")
        if self.ahead is None or not last or os.listdir(base) or (taken := self.ahead()) is None:
            return False
        try:
            status = os.fstat(base)
            fd = os.open(taken, _DIRECTORY)
            parent = self.target.open(where or "/", os.O_PATH | os.O_DIRECTORY)
            try:
                os.fchown(fd, status.st_uid, status.st_gid)
                os.fchmod(fd, stat.S_IMODE(status.st_mode))
                for key, value in read_attributes(base).items():
                    os.setxattr(fd, key, value)
                os.utime(fd)
                os.rename(taken, last, dst_dir_fd=parent)
                return True
            finally:
                os.close(parent)
                os.close(fd)
        except OSError:
            shutil.rmtree(taken, ignore_errors=True)
            return False

    def _handle(self, handles: dict[str, int], base: int, path: str, top: tuple[int, str]) -> int:
        """A directory of the target by its path; few are kept open, as walks go depth first.

        One that an exclusion took, but not what is in it, is made to look as that below `top`.
        """
        fd = handles.get(path)
        if fd is not None:
            return fd
        if len(handles) > 64:
            for key in [key for key in handles if key]:
                os.close(handles.pop(key))
        parent = base
        opened = -1
        # by single names, none of them followed: no link that the tree holds is ever walked through
        walked = top[1]
        for part in path.split("/"):
            walked = f"{walked}/{part}"
            try:
                following = self._enter(parent, part, top[0], walked)
            finally:
                if opened >= 0:
                    os.close(opened)
            parent = opened = following
        handles[path] = parent
        return parent

    def _enter(self, parent: int, name: str, source: int, original: str) -> int:
        try:
            return os.open(name, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            self.directory(parent, name, os.stat(original, dir_fd=source, follow_symlinks=False), original)
            return os.open(name, _DIRECTORY, dir_fd=parent)

    def directory(self, parent: int, name: str, status: os.stat_result, shown: str) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                raise InvalidArgument(f"cannot copy to non-directory: {shown}") from None
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            self._looks(fd, status, directory=True)
        finally:
            os.close(fd)

    def entry(
        self, source: int, name: str, status: os.stat_result, parent: int, last: str, shown: str
    ) -> None:
        """One file, link or device; what stands there is replaced, but no directory."""
        if self._by_link(source, name, status, parent, last):
            return
        self._clear(parent, last, shown)
        kind = status.st_mode
        if stat.S_ISREG(kind):
            inode = (status.st_dev, status.st_ino)
            if status.st_nlink > 1 and self._linked(inode, parent, last):
                return
            self._file(source, name, status, parent, last)
            if status.st_nlink > 1:
                self.links[inode] = shown
        elif stat.S_ISLNK(kind):
            os.symlink(os.readlink(name, dir_fd=source), last, dir_fd=parent)
            uid, gid = self.owner or (status.st_uid, status.st_gid)
            os.chown(last, uid, gid, dir_fd=parent, follow_symlinks=False)
            os.utime(last, ns=self._times(status), dir_fd=parent, follow_symlinks=False)
        elif stat.S_ISSOCK(kind) or (stat.S_ISCHR(kind) and not status.st_rdev):
            return  # the device 0:0 is overlay's word for "deleted", and it would be understood so
        else:
            os.mknod(last, stat.S_IFMT(kind) | 0o600, status.st_rdev, dir_fd=parent)
            fd = os.open(last, _HANDLE, dir_fd=parent)
            try:
                self._looks(fd, status, directory=False)
            finally:
                os.close(fd)

    def _by_link(self, source: int, name: str, status: os.stat_result, parent: int, last: str) -> bool:
        """Whether it was enough to link the source's file, which may be done and nearly always is.

        Names that it has in the source are names of one file in the target as well.
        """
        if not (self.link and stat.S_ISREG(status.st_mode) and self._as_it_is(status)):
            return False
        try:
            os.link(name, last, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except OSError:  # something stands there; another file system; too many links
            return False
        return True

    def _linked(self, inode: tuple[int, int], parent: int, last: str) -> bool:
        first = self.links.get(inode)
        if first is None:
            return False
        with contextlib.suppress(OSError):
            where, _, name = first.rpartition("/")
            fd = self.target.open(where or "/", os.O_PATH | os.O_DIRECTORY)
            try:
                os.link(name, last, src_dir_fd=fd, dst_dir_fd=parent, follow_symlinks=False)
                return True
            finally:
                os.close(fd)
        return False

    def _clear(self, parent: int, name: str, shown: str) -> None:
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise InvalidArgument(f"cannot overwrite to directory {shown} with file")
        os.unlink(name, dir_fd=parent)

    def _file(self, source: int, name: str, status: os.stat_result, parent: int, last: str) -> None:
        if self.link and self._as_it_is(status):
            with contextlib.suppress(OSError):  # another file system, or too many links
                os.link(name, last, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
                return
        reading = os.open(name, _FILE, dir_fd=source)
        try:
            writing = os.open(last, _CREATE, 0o600, dir_fd=parent)
            try:
                _contents(reading, writing)
                uid, gid = self.owner or (status.st_uid, status.st_gid)
                os.fchown(writing, uid, gid)
                os.fchmod(writing, self._mode(status, directory=False))
                for key, value in read_attributes(reading).items():
                    with contextlib.suppress(OSError):
                        os.setxattr(writing, key, value)
                os.utime(writing, ns=self._times(status))
            finally:
                os.close(writing)
        finally:
            os.close(reading)

    def _as_it_is(self, status: os.stat_result) -> bool:
        owner = (status.st_uid, status.st_gid)
        same_mode = self._mode(status, directory=False) == stat.S_IMODE(status.st_mode)
        return (self.owner is None or self.owner == owner) and same_mode and self.when is None

    def _times(self, status: os.stat_result) -> tuple[int, int]:
        when = status.st_mtime_ns if self.when is None else self.when
        return when, when

    def _mode(self, status: os.stat_result, *, directory: bool) -> int:
        mode = stat.S_IMODE(status.st_mode)
        return mode if self.mode is None else self.mode(mode, directory)

    def _looks(self, fd: int, status: os.stat_result, *, directory: bool) -> None:
        uid, gid = self.owner or (status.st_uid, status.st_gid)
        os.chown(f"/proc/self/fd/{fd}", uid, gid)
        chmod_descriptor(fd, self._mode(status, directory=directory))


def _contents(reading: int, writing: int) -> None:
    """In the kernel where it can."""
    try:
        while os.copy_file_range(reading, writing, _PIECE):
            pass
        return
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    while os.sendfile(writing, reading, None, _PIECE):
        pass


def make_directories(
    root: Root, path: str, owner: tuple[int, int] | None, mode: modes.Change | None, *, bits: int = 0o755
) -> int:
    """mkdir -p inside the root; returns the last one's descriptor. New ones get the owner, and an octal mode.

    A parent with setgid gives its group, where there is no owner, and the bit (mkdir(2)).
    """
    wanted = mode.mode & 0o777 if isinstance(mode, modes.Fixed) else bits
    here = root.realpath(path)
    fd = root.open(".", os.O_RDONLY | os.O_DIRECTORY)
    for part in here.split("/"):
        if not part:
            continue
        try:
            try:
                os.mkdir(part, 0o755, dir_fd=fd)
                made = True
            except FileExistsError:
                made = False
            try:
                following = os.open(part, _DIRECTORY, dir_fd=fd)
            except NotADirectoryError:
                raise InvalidArgument(f"cannot copy to non-directory: {path}") from None
            if made:
                inherited = os.fstat(following).st_mode & stat.S_ISGID
                if owner:
                    os.chown(following, *owner)
                os.fchmod(following, wanted | inherited)
        finally:
            os.close(fd)
        fd = following
    return fd


def explained(error: OSError, what: str) -> PydError:
    if is_full(error):
        return NoSpace(f"{what}: no space left on device")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EEXIST):
        return InvalidArgument(f"{what}: {os.strerror(error.errno)}")
    return Internal(f"{what}: {error.strerror}")
