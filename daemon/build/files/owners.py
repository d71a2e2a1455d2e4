"""`--chown` and USER to numbers, by the passwd and group files of the tree that is written to."""

from __future__ import annotations

import os

from storage.archive import Root
from storage.errors import InvalidArgument

_MAX_FILE = 4 << 20
_MAX_ID = (1 << 32) - 2


def resolve(owner: str, root: Root) -> tuple[int, int] | None:
    """(uid, gid); None without an owner. A lone number is the group too, a lone name has passwd's group.

    A name that the tree's files don't know is root, and leaves the group as it is: BuildKit's ops/user_linux.go.
    """
    if not owner:
        return None
    name, colon, group = owner.partition(":")
    uid, gid = _user(name, root) or (0, 0)
    if colon:
        found = _group(group, root)
        gid = gid if found is None else found
    return uid, gid


def _user(name: str, root: Root) -> tuple[int, int] | None:
    if name.isdigit():
        return _number(name), _number(name)
    for line in _read(root, "/etc/passwd").splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[0] == name and fields[2].isdigit() and fields[3].isdigit():
            return int(fields[2]), int(fields[3])
    return None


def _group(name: str, root: Root) -> int | None:
    if not name:
        return 0
    if name.isdigit():
        return _number(name)
    for line in _read(root, "/etc/group").splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and fields[0] == name and fields[2].isdigit():
            return int(fields[2])
    return None


def _number(text: str) -> int:
    if len(text) > 10 or int(text) > _MAX_ID:
        raise InvalidArgument(f"user or group ID {text[:20]} is out of range")
    return int(text)


def _read(root: Root, path: str) -> str:
    try:
        fd = root.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    with open(fd, "rb") as file:
        return file.read(_MAX_FILE).decode(errors="replace")
