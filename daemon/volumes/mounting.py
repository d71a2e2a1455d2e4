"""File systems of volumes made with `type`, `o` and `device`: mounted at the volume's directory while it is used.

So every container that has the volume sees one file system, a tmpfs too, as with Docker's `local` driver (moby
volume/local). The first user mounts, the last one to go unmounts; users are IDs of containers, or of whoever
looks at a container's files. What a crash leaves mounted is known by where it is (`Mounted.sweep`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from daemon.runtime import mountoptions, operations
from daemon.runtime import syscalls as sc
from daemon.runtime.errors import SpecError
from storage.errors import Internal, InvalidArgument

Options = Mapping[str, str] | None


def needed(options: Options) -> bool:
    return bool(options and (options.get("device") or options.get("type")))


class Mounted:
    """Who uses which. All methods block and may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[str, set[str]] = {}
        """By directory."""

    def hold(self, directory: str, options: Options, user: str) -> None:
        """Raises Internal or InvalidArgument where it cannot be mounted. Idempotent."""
        if not needed(options):
            return
        assert options is not None
        with self._lock:
            users = self._users.get(directory, set())
            if not users and not is_mounted(directory):
                _mount(directory, options)
            self._users[directory] = users | {user}

    def adopt(self, directory: str, options: Options, user: str) -> None:
        """A container that an earlier daemon started has it."""
        if needed(options):
            with self._lock:
                self._users.setdefault(directory, set()).add(user)

    def let_go(self, directory: str, user: str) -> None:
        """Idempotent."""
        with self._lock:
            users = self._users.get(directory)
            if users is None or user not in users:
                return
            users.discard(user)
            if not users:
                del self._users[directory]
                unmount(directory)

    def sweep(self, directories: Iterable[str]) -> None:
        """Unmount what nobody uses."""
        with self._lock:
            for directory in directories:
                if directory not in self._users:
                    unmount(directory)


def _mount(directory: str, options: Mapping[str, str]) -> None:
    kind, device, words = options.get("type", ""), options.get("device", ""), options.get("o", "")
    try:
        wanted = mountoptions.parse([word for word in words.split(",") if word], "o")
        tree = _bound(device, wanted) if wanted.bind else _made(kind, device, wanted)
        try:
            sc.move_mount(tree, b"", sc.AT_FDCWD, os.fsencode(directory), sc.MOVE_MOUNT_F_EMPTY_PATH)
        finally:
            os.close(tree)
    except SpecError as error:
        raise InvalidArgument(f"error while mounting volume '{directory}': {error}") from None
    except OSError as error:
        why = os.strerror(error.errno or errno.EINVAL).lower()
        raise Internal(
            f"error while mounting volume '{directory}': failed to mount local volume: "
            f"mount {device}:{directory}, data: {words}: {why}"
        ) from error


def _made(kind: str, device: str, wanted: mountoptions.MountOptions) -> int:
    parameters = [(b"source", os.fsencode(device)), *wanted.parameters]
    return operations.new_filesystem(kind.encode(), parameters, wanted.set)


def _bound(device: str, wanted: mountoptions.MountOptions) -> int:
    recursive = sc.AT_RECURSIVE if wanted.recursive else 0
    tree = sc.open_tree(sc.AT_FDCWD, os.fsencode(device), sc.OPEN_TREE_CLONE | recursive)
    try:
        operations.set_attributes(tree, wanted, whole=True)
    except BaseException:
        os.close(tree)
        raise
    return tree


def is_mounted(directory: str | Path) -> bool:
    """Whether something is mounted there, a bind of the same file system too, which os.path.ismount misses."""
    return _mount_id(directory) != _mount_id(Path(directory).parent)


def _mount_id(path: str | Path) -> int:
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)


def unmount(directory: str | Path) -> None:
    """All that is mounted there, when it is there. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        while is_mounted(directory):
            sc.umount2(os.fsencode(directory), sc.MNT_DETACH)
