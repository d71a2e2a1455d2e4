"""Paths inside a container's root, resolved by the kernel so that no symlink can lead out.

Every function takes a descriptor of the root directory and a path as the container would see it. The
kernel resolves it with RESOLVE_IN_ROOT (absolute symlinks and `..` stay inside) and RESOLVE_NO_MAGICLINKS
(no /proc/*/fd jumps), see openat2(2). What is returned is a descriptor, and everything that follows acts on the
descriptor: a path exchanged meanwhile (CVE-2021-30465, CVE-2024-45310) changes nothing.
"""

from __future__ import annotations

import os

from daemon.runtime import syscalls as sc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

SAFE: Final = sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS
_SYMLINK_DEPTH = 40  # the kernel's own bound, path_resolution(7)


def open_path(root: int, path: str, flags: int = 0, *, symlinks: bool = True) -> int:
    """An O_PATH descriptor of what is at `path`; with symlinks=False no component may be a symlink."""
    resolve = SAFE if symlinks else SAFE | sc.RESOLVE_NO_SYMLINKS
    return sc.openat2(root, os.fsencode(path), os.O_PATH | flags, resolve=resolve)


def make_directory(root: int, path: str, *, mode: int = 0o755, symlinks: bool = True) -> int:
    """An O_PATH descriptor of the directory `path`, made with its parents where they are missing."""
    try:
        return open_path(root, path, os.O_DIRECTORY, symlinks=symlinks)
    except FileNotFoundError:
        return _make_components(root, path, mode, symlinks, 0)


def _make_components(root: int, path: str, mode: int, symlinks: bool, depth: int) -> int:
    done = ""
    here = os.dup(root)
    for name in path.split("/"):
        if name in ("", "."):
            continue
        done = f"{done}/{name}"
        try:
            there = open_path(root, done, os.O_DIRECTORY, symlinks=symlinks)
        except FileNotFoundError:
            there = _make_component(root, here, done, mode, symlinks, depth)
        os.close(here)
        here = there
    return here


def _make_component(root: int, parent: int, path: str, mode: int, symlinks: bool, depth: int) -> int:
    """Make the last component of `path` in `parent`; where a dangling symlink stands, make what it names."""
    name = path.rpartition("/")[2]
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        if not symlinks or depth >= _SYMLINK_DEPTH:
            raise
        target = os.readlink(name, dir_fd=parent)
        if not target.startswith("/"):
            target = f"{path.rpartition('/')[0]}/{target}"
        return _make_components(root, target, mode, symlinks, depth + 1)
    return sc.openat2(
        parent,
        os.fsencode(name),
        os.O_PATH | os.O_DIRECTORY,
        resolve=sc.RESOLVE_BENEATH | sc.RESOLVE_NO_SYMLINKS,
    )


def make_file(root: int, path: str, *, mode: int = 0o755) -> int:
    """An O_PATH descriptor of the file `path` to mount on, made empty where it is missing."""
    try:
        return open_path(root, path)
    except FileNotFoundError:
        pass
    parent_path, _, name = path.rstrip("/").rpartition("/")
    parent = make_directory(root, parent_path or "/")
    try:
        made = os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=parent)
        os.close(made)
        return sc.openat2(
            parent, os.fsencode(name), os.O_PATH, resolve=sc.RESOLVE_BENEATH | sc.RESOLVE_NO_SYMLINKS
        )
    finally:
        os.close(parent)


def parent_of(root: int, path: str) -> tuple[int, str]:
    """A descriptor of the directory `path` is in (made where missing) and the last component's name."""
    directory, _, name = path.rstrip("/").rpartition("/")
    return make_directory(root, directory or "/"), name
