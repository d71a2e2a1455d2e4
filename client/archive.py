"""Tar archives for `pyd cp`: packing a path here, and unpacking what a container sent without trusting it.

A container's files may be hostile: no entry is written through a symbolic link or above the directory it is meant
for (CVE-2018-15664 and CVE-2019-14271 are what happens otherwise).
"""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Iterator
from typing import IO

from client.errors import ClientError

_CHUNK = 1 << 18


class Reader:
    """Chunks as a file that can only be read forwards."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            self._rest += chunk
        data = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(data) :]
        return data


def pack(source: str, name: str) -> Iterator[bytes]:
    """A tar stream of a file or directory whose first entry has the given name."""
    read_end, write_end = os.pipe()
    problem: list[OSError] = []

    def write() -> None:
        try:
            with os.fdopen(write_end, "wb") as out, tarfile.open(fileobj=out, mode="w|") as tar:
                tar.add(source, arcname=name)
        except BrokenPipeError:
            pass
        except OSError as error:
            problem.append(error)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        while data := pipe.read(_CHUNK):
            yield data
    writer.join()
    if problem:
        raise ClientError(str(problem[0]))


def extract(stream: Reader, directory: str, rename: tuple[str, str], *, owners: bool) -> int:
    """Unpack below `directory`; the first path component is renamed. The bytes of all files.

    `rename` is (old, new); an old name of `.` puts everything below the new one, which may be empty.
    """
    old, new = rename
    root = os.path.realpath(directory)
    total = 0
    later: list[tuple[str, tarfile.TarInfo]] = []
    try:
        with tarfile.open(fileobj=_as_file(stream), mode="r|") as tar:
            for member in tar:
                target = _target(root, _renamed(member.name, old, new))
                if target is None:
                    continue
                _write(tar, member, target, root, (old, new))
                if owners and os.geteuid() == 0:
                    os.lchown(target, member.uid, member.gid)
                if member.isdir():
                    later.append((target, member))
                total += member.size
    except tarfile.TarError as error:
        raise ClientError(f"the container's archive is damaged: {error}") from None
    for target, member in reversed(later):
        os.chmod(target, member.mode & 0o7777)
        os.utime(target, (member.mtime, member.mtime))
    return total


def _as_file(stream: Reader) -> IO[bytes]:
    return stream  # type: ignore[return-value]


def _renamed(name: str, old: str, new: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if old == ".":
        parts.insert(0, new)
    elif parts and parts[0] == old:
        parts[0] = new
    return "/".join(part for part in parts if part)


def _target(root: str, name: str) -> str | None:
    """The path below root, ClientError when its parent lies elsewhere; None for root itself."""
    if not name:
        return None
    if ".." in name.split("/"):
        raise ClientError(f"the container's archive has a path outside of the target: {name}")
    target = os.path.join(root, name)
    parent = os.path.realpath(os.path.dirname(target))
    if parent != root and not parent.startswith(root.rstrip("/") + "/"):
        raise ClientError(f"the container's archive writes through a symbolic link: {name}")
    return target


def _write(
    tar: tarfile.TarFile, member: tarfile.TarInfo, target: str, root: str, rename: tuple[str, str]
) -> None:
    if member.isdir():
        if os.path.islink(target) or not os.path.isdir(target):
            _clear(target)
            os.makedirs(target)
        return
    _clear(target)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if member.issym():
        os.symlink(member.linkname, target)
        return
    if member.islnk():
        source = _target(root, _renamed(member.linkname, *rename))
        if source is None:
            raise ClientError(f"the container's archive has a link to nothing: {member.name}")
        os.link(source, target, follow_symlinks=False)
        return
    if not member.isreg():
        raise ClientError(f"cannot copy a device, pipe or socket: {member.name}")
    source_file = tar.extractfile(member)
    if source_file is None:
        raise ClientError(f"the container's archive is damaged at {member.name}")
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        while data := source_file.read(_CHUNK):
            file.write(data)
        os.fchmod(file.fileno(), member.mode & 0o7777)
    os.utime(target, (member.mtime, member.mtime))


def _clear(target: str) -> None:
    """Make room for an entry; a directory is never replaced by something else."""
    if os.path.isdir(target) and not os.path.islink(target):
        raise ClientError(f"cannot overwrite directory {target!r} with non-directory")
    if os.path.lexists(target):
        os.unlink(target)
