"""Who the process runs as: `--user` against the image's own /etc/passwd and /etc/group.

The files belong to the image and may be hostile: they are opened with openat2(RESOLVE_IN_ROOT), read
up to a bound, and parsed leniently as runc's user package does (bad lines are skipped).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from storage.errors import InvalidArgument

ReadFile = Callable[[str], str]
"""Path in the root → text; empty when there is no such file."""


@dataclass(frozen=True)
class Identity:
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    def as_oci(self) -> dict[str, object]:
        return {"uid": self.uid, "gid": self.gid, "additionalGids": list(self.groups)}


def _entries(text: str, minimum: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) >= minimum and not line.startswith("#"):
            yield fields


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() and int(text) < 1 << 31 else None


def resolve(user: str, extra_groups: Sequence[str], read: ReadFile) -> Identity:
    """`name|uid[:group|gid]` to numbers. Raises InvalidArgument with runc's text for unknown names."""
    name, _, group = user.partition(":")
    passwd = [
        f for f in _entries(read("/etc/passwd"), 6) if _number(f[2]) is not None and _number(f[3]) is not None
    ]
    groups = [f for f in _entries(read("/etc/group"), 3) if _number(f[2]) is not None]
    uid, gid, home, login = _user(name, passwd)
    supplementary: list[int] = []
    if group:
        gid = _group(group, groups)
    elif login:
        supplementary = [int(f[2]) for f in groups if len(f) > 3 and login in f[3].split(",")]
    for extra in extra_groups:
        number = _extra_group(extra, groups)
        if number not in supplementary:
            supplementary.append(number)
    # the primary group is a supplementary one too (CVE-2022-2989 and its kin: negative group permissions)
    if gid not in supplementary:
        supplementary.insert(0, gid)
    return Identity(uid, gid, tuple(supplementary), home)


def _user(name: str, passwd: list[list[str]]) -> tuple[int, int, str, str]:
    wanted = name or "0"
    number = _number(wanted)
    for fields in passwd:
        if fields[0] == wanted or (number is not None and int(fields[2]) == number):
            return int(fields[2]), int(fields[3]), fields[5] or "/", fields[0]
    if number is None:
        if wanted.lstrip("-").isdigit():
            raise InvalidArgument("uids and gids must be in range 0-2147483647")
        raise InvalidArgument(f"unable to find user {name}: no matching entries in passwd file")
    return (
        number,
        0,
        "/root" if number == 0 and not passwd else "/",
        "root" if number == 0 and not passwd else "",
    )


def _group(wanted: str, groups: list[list[str]]) -> int:
    for fields in groups:
        if fields[0] == wanted:
            return int(fields[2])
    number = _number(wanted)
    if number is None:
        raise InvalidArgument(f"unable to find group {wanted}: no matching entries in group file")
    return number


def _extra_group(wanted: str, groups: list[list[str]]) -> int:
    for fields in groups:
        if wanted in (fields[0], fields[2]):
            return int(fields[2])
    number = _number(wanted)
    if number is None:
        raise InvalidArgument(f"Unable to find group {wanted}: no matching entries in group file")
    return number
