"""Reading and writing the one-value files of a cgroup file system.

Plain `os.open`/`os.read` and not `open()`: a file object costs ten times the system calls here, and a
container's start writes some forty of these files. Paths are strings for the same reason.
"""

from __future__ import annotations

import errno
import os
import time

from daemon.cgroups.errors import CgroupError

_CHUNK = 65536
DELETE_SECONDS = 2.0


def write(file: str, value: str | int) -> None:
    """Write one value; CgroupError names both. Never creates a file."""
    text = str(value)
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise CgroupError.of("write", file, error, text) from error


def read(file: str) -> str:
    """The whole file, without trailing newline. CgroupError if it cannot be read."""
    try:
        return _read(file)
    except OSError as error:
        raise CgroupError.of("read", file, error) from error


def read_optional(file: str) -> str | None:
    """Like `read`; None if the kernel has no such file (or cannot answer it: EOPNOTSUPP, ENODEV)."""
    try:
        return _read(file)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV):
            return None
        raise CgroupError.of("read", file, error) from error


def _read(file: str) -> str:
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunk = os.read(fd, _CHUNK)
        parts = [chunk]
        while chunk:
            chunk = os.read(fd, _CHUNK)
            parts.append(chunk)
    finally:
        os.close(fd)
    return b"".join(parts).decode("utf-8", "surrogateescape").rstrip("\n")


def read_int(file: str) -> int:
    """A single number; 0 when the file is not there."""
    text = read_optional(file)
    return int(text) if text else 0


def read_keyed(file: str) -> dict[str, int]:
    """A flat keyed file: `key value` a line (memory.stat, cpu.stat, memory.events). {} when absent."""
    pairs: dict[str, int] = {}
    for line in (read_optional(file) or "").splitlines():
        key, _, value = line.partition(" ")
        if value.strip().isdigit():
            pairs[key] = int(value)
    return pairs


def exists(path: str) -> bool:
    return os.access(path, os.F_OK)


def make_directory(directory: str) -> list[str]:
    """mkdir with parents; returns what was made, outermost first. FileExistsError is the caller's."""
    try:
        os.mkdir(directory)
    except FileNotFoundError:
        parent = os.path.dirname(directory)
        if parent == directory:
            raise
        try:
            made = make_directory(parent)
        except FileExistsError:
            made = []
        os.mkdir(directory)
        return [*made, directory]
    return [directory]


def make_if_missing(directory: str) -> bool:
    """mkdir; False when it is there already."""
    try:
        os.mkdir(directory)
    except FileExistsError:
        return False
    return True


def remove_directories(directories: list[str]) -> None:
    """rmdir what a failed creation made, given outermost first; what others use by now stays."""
    for directory in reversed(directories):
        try:  # noqa: SIM105 - contextlib is an import that pyd-oci does without
            os.rmdir(directory)
        except OSError:
            pass


def children(directory: str) -> list[str]:
    """Sub-cgroups of a cgroup. kernfs keeps a directory's link count at 2 plus its subdirectories, so the
    usual answer, none, costs one stat and no listing."""
    try:
        if os.stat(directory).st_nlink == 2:
            return []
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def walk_pids(directory: str) -> list[int]:
    """Processes in the cgroup at `directory` and below it, sorted. Gone directories hold none."""
    found: set[int] = set()
    pending = [directory]
    while pending:
        current = pending.pop()
        text = read_optional(f"{current}/cgroup.procs")
        if text is None:  # a threaded cgroup lists threads only, whose IDs kill(2) takes as well
            text = read_optional(f"{current}/cgroup.threads") or ""
        found.update(int(pid) for pid in text.split())
        pending.extend(children(current))
    found.discard(0)  # processes of other PID namespaces
    return sorted(found)


def remove_tree(directory: str, seconds: float = DELETE_SECONDS) -> None:
    """rmdir the cgroup and those below it, waiting for dying processes. Idempotent."""
    deadline = time.monotonic() + seconds
    pause = 0.0005
    while True:
        for child in children(directory):
            remove_tree(child, max(0.0, deadline - time.monotonic()))
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY) or time.monotonic() >= deadline:
                raise _still_used(directory, error) from error
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _still_used(directory: str, error: OSError) -> CgroupError:
    failure = CgroupError.of("remove", directory, error)
    try:
        pids = walk_pids(directory)
    except CgroupError:
        return failure
    if pids:
        return CgroupError(f"{failure} (processes {pids[:8]})", file=directory, errno=failure.errno)
    return failure
