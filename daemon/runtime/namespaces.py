"""Which namespaces a container gets new, and which it joins by path (namespaces(7))."""

from __future__ import annotations

import os

from daemon.runtime import syscalls as sc
from daemon.runtime.errors import SpecError
from daemon.runtime.spec import get_int, get_object, get_objects, get_string

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.spec import Object

# In the order in which they are joined: the user namespace first, for it gives the right to join the others.
KINDS = {
    "user": sc.CLONE_NEWUSER,
    "pid": sc.CLONE_NEWPID,
    "network": sc.CLONE_NEWNET,
    "ipc": sc.CLONE_NEWIPC,
    "uts": sc.CLONE_NEWUTS,
    "time": sc.CLONE_NEWTIME,
    "cgroup": sc.CLONE_NEWCGROUP,
    "mount": sc.CLONE_NEWNS,
}
# Made by init itself: a cgroup namespace shows the cgroup its maker is in, and init is put there after the
# clone; a time namespace takes its clock offsets between unshare(2) and execve(2).
LATE = sc.CLONE_NEWCGROUP | sc.CLONE_NEWTIME


class IdMap:
    """Lines for /proc/PID/uid_map and gid_map (user_namespaces(7))."""

    __slots__ = ("gid", "uid")

    def __init__(self, linux: Object) -> None:
        self.uid = self._lines(linux, "uidMappings")
        self.gid = self._lines(linux, "gidMappings")

    @staticmethod
    def _lines(linux: Object, key: str) -> str:
        lines = []
        for index, entry in enumerate(get_objects(linux, key, f"linux.{key}")):
            field = f"linux.{key}[{index}]"
            inside = get_int(entry, "containerID", f"{field}.containerID")
            outside = get_int(entry, "hostID", f"{field}.hostID")
            size = get_int(entry, "size", f"{field}.size", low=1)
            lines.append(f"{inside} {outside} {size}\n")
        return "".join(lines)

    def write(self, pid: int) -> None:
        for name, lines in (("uid_map", self.uid), ("gid_map", self.gid)):
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, lines.encode())
            finally:
                os.close(fd)


class Namespaces:
    """`new`: CLONE_NEW* of namespaces to make; `joined`: kind -> path, in joining order."""

    __slots__ = ("idmap", "joined", "new", "offsets")

    def __init__(self, new: int, joined: dict[str, str], idmap: IdMap | None, offsets: str) -> None:
        self.new, self.joined, self.idmap, self.offsets = new, joined, idmap, offsets

    def has(self, kind: str) -> bool:
        """Is the container apart from the host in this kind (new or joined)?"""
        return bool(self.new & KINDS[kind]) or kind in self.joined

    def flags(self) -> int:
        """CLONE_NEW* of all kinds the container is apart in: what an exec joins."""
        return self.new | sum(KINDS[kind] for kind in self.joined)

    def describe(self) -> list[str]:
        new = [kind for kind, flag in KINDS.items() if self.new & flag]
        lines = [f"clone into new namespaces: {' '.join(new) or 'none'}"]
        if self.idmap:
            lines.append(f"map uids {self.idmap.uid.strip()!r}, gids {self.idmap.gid.strip()!r}")
        lines += [f"join {kind} namespace {path}" for kind, path in self.joined.items()]
        return lines


def plan(linux: Object) -> Namespaces:
    new = 0
    joined: dict[str, str] = {}
    for index, entry in enumerate(get_objects(linux, "namespaces", "linux.namespaces")):
        field = f"linux.namespaces[{index}]"
        kind = get_string(entry, "type", f"{field}.type")
        flag = KINDS.get(kind)
        if flag is None:
            raise SpecError(f"{field}.type", f"must be one of {', '.join(KINDS)}, not {kind!r}")
        if new & flag or kind in joined:
            raise SpecError(field, f"names the {kind} namespace a second time")
        path = get_string(entry, "path", f"{field}.path")
        if path:
            joined[kind] = path
        else:
            new |= flag
    if not new & sc.CLONE_NEWNS:
        raise SpecError(
            "linux.namespaces", "a new mount namespace is required (one to join is not supported)"
        )
    return Namespaces(
        new,
        {kind: joined[kind] for kind in KINDS if kind in joined},
        _idmap(linux, new),
        _offsets(linux, new),
    )


def _idmap(linux: Object, new: int) -> IdMap | None:
    if not new & sc.CLONE_NEWUSER:
        return None
    idmap = IdMap(linux)
    if not idmap.uid or not idmap.gid:
        raise SpecError("linux.uidMappings", "a new user namespace needs uidMappings and gidMappings")
    return idmap


def _offsets(linux: Object, new: int) -> str:
    """Lines for /proc/self/timens_offsets (time_namespaces(7))."""
    lines = []
    for clock, entry in get_object(linux, "timeOffsets", "linux.timeOffsets").items():
        field = f"linux.timeOffsets.{clock}"
        if clock not in ("boottime", "monotonic"):
            raise SpecError(field, "is not the clock boottime or monotonic")
        if not new & sc.CLONE_NEWTIME:
            raise SpecError(field, "needs a new time namespace")
        bound = 1 << 62
        seconds = get_int(entry, "secs", f"{field}.secs", default=0, low=-bound, high=bound)
        nanoseconds = get_int(entry, "nanosecs", f"{field}.nanosecs", default=0, high=999_999_999)
        lines.append(f"{clock} {seconds} {nanoseconds}\n")
    return "".join(lines)
