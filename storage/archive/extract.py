"""Tar into a directory, whoever wrote the tar.

What keeps an archive inside its root:

- Names and hard link targets are cleaned lexically first, as Docker does; one that still begins with `..`
  is refused. Absolute ones start at the root. Symlinks may say what they like (Docker takes them too):
  they are text, and whoever follows one does so inside the root.
- Parents are then opened with openat2(RESOLVE_IN_ROOT), so a symlink put there by an earlier entry, by
  a lower layer or by somebody racing with us resolves inside the root like any other.
- Every call on the last component is relative to the parent's descriptor and follows no link: O_EXCL and
  O_NOFOLLOW for files, link without following, chmod through a descriptor.

What makes it fast: about six system calls for a file. Files are created with O_EXCL and only a clash
looks at what is there; the parents' descriptors are kept (_Parents), since archives list a directory's files
one after the other. Times of directories are set last, when nothing changes them any more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from storage import trees
from storage.archive.format import Entry, EntryType
from storage.archive.options import (
    WHITEOUT_META_PREFIX,
    WHITEOUT_OPAQUE,
    WHITEOUT_PREFIX,
    Extracted,
    ExtractOptions,
    Whiteouts,
    is_whiteout,
    opaque_attribute,
)
from storage.archive.parents import Parents
from storage.archive.reader import TarReader
from storage.archive.root import Root
from storage.disk import is_full
from storage.errors import DataCorrupted, Internal, InvalidArgument, NoSpace, NotFound, PydError
from storage.streams import Readable
from storage.syscalls import chmod_descriptor

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_OVERLAY_ATTRIBUTES = ("trusted.overlay.", "user.overlay.")
"""Overlay's own language: an archive may not speak it (redirect and metacopy would show other files)."""

_PATH_MAX = 4096

_ARCHIVES_FAULT = frozenset(
    {
        errno.E2BIG,
        errno.EFBIG,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ERANGE,
        errno.EXDEV,
    }
)
_ATTRIBUTE_REFUSED = frozenset({errno.EPERM, errno.ENOTSUP})
"""The file system or the kernel has no place for an attribute: Docker ignores it as well."""


def extract(
    stream: Readable, root: int | Path, options: ExtractOptions | None = None, *, into: str = "/"
) -> Extracted:
    """Unpacks an uncompressed tar beneath `into`, a directory inside `root`, and reads `stream` to its end.

    `root` is a directory (path or descriptor, for example of /proc/PID/root); no entry's name, link or
    target reaches outside it. Raises DataCorrupted naming the offending entry (malformed, truncated,
    leaving the root, beyond a limit), NoSpace, InvalidArgument (`no_overwrite_dir_non_dir`). What was
    unpacked before the error stays: callers unpack into something they throw away, or say so. NotFound when
    `into` is no directory.
    """
    with Root(root) as base:
        try:
            os.close(base.open(into, os.O_PATH | os.O_DIRECTORY))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{into} is no directory in the container") from None
        extraction = _Extraction(stream, base, options or ExtractOptions(), into)
        try:
            return extraction.run()
        finally:
            extraction.close()


def clean(name: str) -> str:
    """A name as Docker reads it: lexically cleaned, relative; "" is the top, a leading ".." leaves it."""
    if name and "//" not in name and "/." not in name and name[0] not in "./" and name[-1] != "/":
        return name
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if parts and parts[-1] != "..":
                parts.pop()
            elif not name.startswith("/"):
                parts.append(part)
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def leaves(cleaned: str) -> bool:
    return cleaned == ".." or cleaned.startswith("../")


class _Extraction:
    """One archive's way to disk."""

    def __init__(self, stream: Readable, root: Root, options: ExtractOptions, into: str) -> None:
        self._options = options
        self._reader = TarReader(stream, max_header=options.limits.header)
        self._parents = Parents(root, into, self._new_directory)
        self._layer = options.whiteouts is not Whiteouts.LITERAL
        self._directory_times: dict[str, int] = {}
        self._made: dict[str, EntryType] = {}
        """What this archive made, parents included: APPLY's whiteouts spare it."""
        self._entries = 0
        self._size = 0

    def run(self) -> Extracted:
        while (entry := self._reader.next()) is not None:
            self._count(entry)
            try:
                self._place(entry)
            except OSError as error:
                raise self._failure(error, entry) from error
        self._reader.drain()
        self._set_directory_times()
        return Extracted(self._entries, self._size)

    def close(self) -> None:
        self._parents.close()

    def _failure(self, error: OSError, entry: Entry) -> PydError:
        """Whose fault it was that an entry could not be written."""
        why = os.strerror(error.errno or 0)
        if is_full(error):
            return NoSpace(f"write {entry.name!r}: {why}")
        if error.errno in _ARCHIVES_FAULT:
            return self._reader.corrupted(f"cannot be unpacked: {why}")
        return Internal(f"unpack {entry.name!r}: {why}")

    def _count(self, entry: Entry) -> None:
        limits = self._options.limits
        self._entries += 1
        self._size += entry.size
        if self._entries > limits.entries:
            raise self._reader.corrupted(f"is one more than the {limits.entries} allowed")
        if limits.size is not None and self._size > limits.size:
            raise self._reader.corrupted(f"takes the archive above the {limits.size} bytes allowed")

    def _place(self, entry: Entry) -> None:
        name = clean(entry.name)
        if leaves(name):
            raise self._reader.corrupted("is outside of the root")
        if not name:
            self._place_top(entry)
            return
        if len(name) >= _PATH_MAX:
            raise DataCorrupted(f"archive entry {name[:100]!r}... has a name of {len(name)} characters")
        parent, _, base = name.rpartition("/")
        if self._layer and name.startswith(WHITEOUT_META_PREFIX) and name != WHITEOUT_OPAQUE:
            return  # aufs's own, at the top of layers that it made
        if self._layer and base.startswith(WHITEOUT_PREFIX):
            self._white_out(parent, base)
            return
        if self._options.whiteouts is Whiteouts.APPLY:
            self._remember(name, entry.type)
        parent_fd = self._parents.open(parent)
        match entry.type:
            case EntryType.REGULAR:
                self._file(entry, parent_fd, base)
            case EntryType.DIRECTORY:
                self._directory(entry, parent_fd, name, base)
            case EntryType.SYMLINK:
                self._symlink(entry, parent_fd, base)
            case EntryType.HARDLINK:
                self._hardlink(entry, parent_fd, name, base)
            case _:
                self._special(entry, parent_fd, base)

    def _remember(self, name: str, kind: EntryType) -> None:
        self._made[name] = kind
        while (name := name.rpartition("/")[0]) and name not in self._made:
            self._made[name] = EntryType.DIRECTORY

    def _place_top(self, entry: Entry) -> None:
        """The root's own entry: a layer says how "/" looks; elsewhere the place is somebody else's."""
        if entry.type is not EntryType.DIRECTORY:
            raise self._reader.corrupted("has no name")
        if not self._layer:
            return
        fd = os.open(".", _DIRECTORY, dir_fd=self._parents.open(""))
        try:
            self._finish(fd, entry)
        finally:
            os.close(fd)
        self._directory_times[""] = entry.mtime

    # One method for each type of entry

    def _file(self, entry: Entry, parent: int, base: str) -> None:
        try:
            fd = os.open(base, _CREATE, 0o600, dir_fd=parent)
        except FileExistsError:
            self._displace(parent, base, entry)
            fd = os.open(base, _CREATE, 0o600, dir_fd=parent)
        try:
            self._reader.copy_to(fd)
            self._finish(fd, entry)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _directory(self, entry: Entry, parent: int, name: str, base: str) -> None:
        replaced = False
        try:
            os.mkdir(base, 0o700, dir_fd=parent)
        except FileExistsError:
            replaced = self._displace(parent, base, entry)
            if replaced:
                os.mkdir(base, 0o700, dir_fd=parent)
        if replaced and self._options.whiteouts is Whiteouts.OVERLAY:
            self._make_opaque(parent, base)
        fd = os.open(base, _DIRECTORY, dir_fd=parent)
        try:
            self._finish(fd, entry)
        except BaseException:
            os.close(fd)
            raise
        self._parents.keep(name, fd)
        self._directory_times[name] = entry.mtime

    def _symlink(self, entry: Entry, parent: int, base: str) -> None:
        target = entry.linkname
        if not target:
            raise self._reader.corrupted("is a symlink to nothing")
        try:
            os.symlink(target, base, dir_fd=parent)
        except FileExistsError:
            self._displace(parent, base, entry)
            os.symlink(target, base, dir_fd=parent)
        self._finish_by_name(parent, base, entry)

    def _hardlink(self, entry: Entry, parent: int, name: str, base: str) -> None:
        target = clean(entry.linkname)
        if leaves(target) or not target:
            raise self._reader.corrupted(f"is a link to {entry.linkname!r}, outside of the root")
        if target == name:
            raise self._reader.corrupted("is a link to itself")
        target_parent, _, target_base = target.rpartition("/")
        try:
            source = self._parents.open(target_parent, create=False)
            self._link(source, target_base, parent, base)
        except FileExistsError:
            self._displace(parent, base, entry)
            source = self._parents.open(target_parent, create=False)
            self._link(source, target_base, parent, base)
        self._finish_by_name(parent, base, entry, chmod=True)

    def _link(self, source: int, target: str, parent: int, base: str) -> None:
        try:
            os.link(target, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise self._reader.corrupted(f"is a link to {target!r}, which is not there") from None
        except PermissionError:
            raise self._reader.corrupted(f"is a link to {target!r}, which is a directory") from None

    def _special(self, entry: Entry, parent: int, base: str) -> None:
        """Devices and FIFOs. A 0/0 character device would be read as a whiteout: it is one, then."""
        kind = {
            EntryType.CHARACTER: stat.S_IFCHR,
            EntryType.BLOCK: stat.S_IFBLK,
            EntryType.FIFO: stat.S_IFIFO,
        }[entry.type]
        if kind != stat.S_IFIFO and not self._options.devices:
            return
        try:
            os.mknod(base, 0o600 | kind, entry.device, dir_fd=parent)
        except FileExistsError:
            self._displace(parent, base, entry)
            os.mknod(base, 0o600 | kind, entry.device, dir_fd=parent)
        self._finish_by_name(parent, base, entry, chmod=True)

    # Whiteouts

    def _white_out(self, parent: str, base: str) -> None:
        if base == WHITEOUT_OPAQUE:
            self._white_out_contents(parent)
            return
        if base.startswith(WHITEOUT_META_PREFIX):
            return
        hidden = base[len(WHITEOUT_PREFIX) :]
        if hidden in ("", ".", ".."):
            raise self._reader.corrupted("is a whiteout of no name")
        if self._options.whiteouts is Whiteouts.APPLY:
            self._remove_lower(parent, [hidden])
            return
        parent_fd = self._parents.open(parent)
        try:
            os.mknod(hidden, 0o600 | stat.S_IFCHR, 0, dir_fd=parent_fd)
        except FileExistsError:
            # The layer has it as well as hiding the lower ones: only a directory would still show those.
            with contextlib.suppress(NotADirectoryError):
                self._make_opaque(parent_fd, hidden)

    def _white_out_contents(self, parent: str) -> None:
        parent_fd = self._parents.open(parent)
        if self._options.whiteouts is Whiteouts.OVERLAY:
            self._make_opaque(parent_fd, ".")
            return
        fd = os.open(".", _DIRECTORY, dir_fd=parent_fd)
        try:
            names = os.listdir(fd)
        finally:
            os.close(fd)
        self._remove_lower(parent, names)

    def _remove_lower(self, parent: str, names: list[str]) -> None:
        """Removes entries of a directory, but nothing that this archive made, whatever the order was."""
        todo = [f"{parent}/{name}" if parent else name for name in names]
        while todo:
            path = todo.pop()
            parent, _, base = path.rpartition("/")
            if path not in self._made:
                self._remove(self._parents.open(parent), base)
            elif self._made[path] is not EntryType.DIRECTORY:
                continue
            else:
                fd = os.open(base, _DIRECTORY, dir_fd=self._parents.open(parent))
                try:
                    todo += [f"{path}/{name}" for name in os.listdir(fd)]
                finally:
                    os.close(fd)

    def _make_opaque(self, parent: int, base: str) -> None:
        """NotADirectoryError for anything but a directory."""
        fd = os.open(base, _DIRECTORY, dir_fd=parent)
        try:
            os.setxattr(fd, opaque_attribute(userxattr=self._options.userxattr), b"y")
        finally:
            os.close(fd)

    # What is already there

    def _displace(self, parent: int, base: str, entry: Entry) -> bool:
        """Clears the place for an entry; False when two directories are merged instead.

        True is only said of a directory that takes another thing's place, a whiteout's for one: it must go on
        hiding what the lower layers have there.
        """
        there = os.stat(base, dir_fd=parent, follow_symlinks=False)
        was_directory = stat.S_ISDIR(there.st_mode)
        becomes_directory = entry.type is EntryType.DIRECTORY
        if was_directory and becomes_directory:
            return False
        if self._options.no_overwrite_dir_non_dir and was_directory != becomes_directory:
            kinds = ("directory", "non-directory") if was_directory else ("non-directory", "directory")
            raise InvalidArgument(f"cannot overwrite {kinds[0]} {entry.name.rstrip('/')!r} with {kinds[1]}")
        if stat.S_ISREG(there.st_mode):
            os.unlink(base, dir_fd=parent)
        else:
            self._remove(parent, base)
        return becomes_directory

    def _remove(self, parent: int, base: str) -> None:
        """What was a directory or a link may be part of a kept parent's name, so those are forgotten."""
        with contextlib.suppress(FileNotFoundError):
            trees.remove(base, dir_fd=parent)
        self._parents.forget(keep=parent)

    def _new_directory(self, parent: int, base: str) -> None:
        """A parent that the archive did not list: as Docker makes it, root's and 0755."""
        try:
            os.mkdir(base, 0o755, dir_fd=parent)
        except FileExistsError:  # but it can't be entered: a whiteout, or the archive is wrong
            there = os.stat(base, dir_fd=parent, follow_symlinks=False)
            if self._options.whiteouts is not Whiteouts.OVERLAY or not is_whiteout(there):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), base) from None
            os.unlink(base, dir_fd=parent)
            os.mkdir(base, 0o755, dir_fd=parent)
            self._make_opaque(parent, base)
        owner = self._options.unlisted or self._options.owner
        if self._options.chown and owner is not None:
            uid, gid = owner(0, 0)
            os.chown(base, uid, gid, dir_fd=parent, follow_symlinks=False)

    # Metadata

    def _finish(self, fd: int, entry: Entry) -> None:
        """Owner first: chown drops set-user-ID bits and security.capability, so those come after it."""
        if self._options.chown:
            os.fchown(fd, *self._owner(entry))
        if entry.xattrs:
            self._set_attributes(fd, entry)
        os.fchmod(fd, entry.mode)

    def _finish_by_name(self, parent: int, base: str, entry: Entry, *, chmod: bool = False) -> None:
        """For what can't be opened: symlinks, devices, FIFOs, and hard links to any of them."""
        if self._options.chown:
            os.chown(base, *self._owner(entry), dir_fd=parent, follow_symlinks=False)
        if entry.xattrs:
            self._set_attributes(f"/proc/self/fd/{parent}/{base}", entry)
        if chmod:
            fd = os.open(base, _HANDLE, dir_fd=parent)
            try:
                if not stat.S_ISLNK(os.fstat(fd).st_mode):
                    chmod_descriptor(fd, entry.mode)
            finally:
                os.close(fd)
        os.utime(base, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _owner(self, entry: Entry) -> tuple[int, int]:
        if self._options.owner is None:
            return entry.uid, entry.gid
        return self._options.owner(entry.uid, entry.gid)

    @staticmethod
    def _set_attributes(target: int | str, entry: Entry) -> None:
        for name, value in entry.xattrs.items():
            if name.startswith(_OVERLAY_ATTRIBUTES):
                continue
            try:
                os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
            except OSError as error:
                if error.errno not in _ATTRIBUTE_REFUSED:
                    raise

    def _set_directory_times(self) -> None:
        for name, mtime in self._directory_times.items():
            try:
                fd = self._parents.lookup(name)
            except OSError:  # replaced by a later entry, which has its own time
                continue
            try:
                if stat.S_ISDIR(os.fstat(fd).st_mode):
                    os.utime(f"/proc/self/fd/{fd}", ns=(mtime, mtime))
            finally:
                os.close(fd)
