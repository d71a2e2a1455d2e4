"""`--chown` and USER to numbers, by the passwd and group files of the tree that is written to."""

from __future__ import annotations

import os

from storage.archive import Root
from storage.errors import InvalidArgument

_MAX_FILE = 4 << 20
_MAX_ID = (1 << 32) - 2


def resolve(owner: str, root: Root) -> tuple[int, int] | None:
    """(uid, gid); None without an owner. A lone number is the group too, a lone name has passwd's group."""
    if not owner:
        return None
    name, colon, group = owner.partition(":")
    uid, gid = _user(name, root) if name else (0, 0)
    if colon and group:
        gid = _group(group, root)
    return uid, gid


def _user(name: str, root: Root) -> tuple[int, int]:
    if name.isdigit():
        return _number(name), _number(name)
    text = _read(root, "/etc/passwd")
    for line in (text or "").splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[0] == name and fields[2].isdigit() and fields[3].isdigit():
            return int(fields[2]), int(fields[3])
    if text is None:
        return 0, 0  # as BuildKit: an image without the file has no names to get wrong
    raise InvalidArgument(f"unable to find user {name}: invalid argument")


def _group(name: str, root: Root) -> int:
    if name.isdigit():
        return _number(name)
    text = _read(root, "/etc/group")
    for line in (text or "").splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and fields[0] == name and fields[2].isdigit():
            return int(fields[2])
    if text is None:
        return 0
    raise InvalidArgument(f"unable to find group {name}: invalid argument")


def _number(text: str) -> int:
    if len(text) > 10 or int(text) > _MAX_ID:
        raise InvalidArgument(f"user or group ID {text[:20]} is out of range")
    return int(text)


def _read(root: Root, path: str) -> str | None:
    try:
        fd = root.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    with open(fd, "rb") as file:
        return file.read(_MAX_FILE).decode(errors="replace")
