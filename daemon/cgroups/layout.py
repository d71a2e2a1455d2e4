"""Which cgroup hierarchies this machine has, and where.

    v1        each controller (or a few together) is a hierarchy of its own: /sys/fs/cgroup/memory ...
    hybrid    v1, and beside it a v2 tree without (most) controllers: /sys/fs/cgroup/unified
    unified   one v2 tree holds every controller: /sys/fs/cgroup itself

The kernel's mount table is the truth (mountinfo(5) in proc(5)): names of directories are only habits,
and `cpu` may be a symbolic link to `cpu,cpuacct`. A v1 hierarchy without controllers (`name=systemd`)
does not make a machine v1.
"""

from __future__ import annotations

from daemon.cgroups.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal["v1", "hybrid", "unified"]

CONTROLLERS = frozenset(
    {
        "blkio",
        "cpu",
        "cpuacct",
        "cpuset",
        "devices",
        "freezer",
        "hugetlb",
        "memory",
        "misc",
        "net_cls",
        "net_prio",
        "perf_event",
        "pids",
        "rdma",
    }
)


class Layout:
    """The hierarchies found under `root`. Never changed; detect once per process and pass it on.

    `v1` maps a controller, or the `name=...` of a hierarchy without one, to its mount point; `unified` is
    the mount point of the v2 tree, if there is one.
    """

    __slots__ = ("kind", "root", "unified", "v1")

    def __init__(self, kind: Kind, root: str, v1: dict[str, str], unified: str | None) -> None:
        self.kind = kind
        self.root = root
        self.v1 = v1
        self.unified = unified

    def __repr__(self) -> str:
        return f"Layout({self.kind!r}, {self.root!r}, {self.v1!r}, {self.unified!r})"


def detect(root: str = "/sys/fs/cgroup", mountinfo: str = "/proc/self/mountinfo") -> Layout:
    """Read the mount table once. Raises CgroupError when nothing is mounted at or below `root`."""
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
            v1, unified = _parse(lines.read(), root.rstrip("/") or "/")
    except OSError as error:
        raise CgroupError.of("read", mountinfo, error) from error
    if CONTROLLERS.isdisjoint(v1):
        if unified is None:
            raise CgroupError(f"no cgroup hierarchy is mounted at or below {root}", file=root)
        return Layout("unified", root, v1, unified)
    return Layout("hybrid" if unified else "v1", root, v1, unified)


def _parse(text: str, root: str) -> tuple[dict[str, str], str | None]:
    """v1 mounts by controller and the v2 mount. A later mount at the same point hides an earlier one."""
    v1: dict[str, str] = {}
    unified: str | None = None
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, rest = after.partition(" ")
        if not kind.startswith("cgroup"):
            continue
        point = _unescape(before.split(" ")[4])
        if point != root and not point.startswith(root + "/"):
            continue
        if kind == "cgroup2":
            if unified is None or len(point) <= len(unified):
                unified = point
        elif kind == "cgroup":
            for option in rest.rsplit(" ", 1)[-1].split(","):
                if option in CONTROLLERS or option.startswith("name="):
                    v1[option] = point
    return v1, unified


def _unescape(path: str) -> str:
    """mountinfo writes blank, tab, newline and backslash as three octal digits."""
    if "\\" not in path:
        return path
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path
