"""Passing controllers down a v2 tree (cgroup-v2.rst, "Enabling and Disabling", "No Internal Process").

A controller works in a cgroup only when each cgroup above lists it in `cgroup.subtree_control`, and a
cgroup (but the root) that lists a domain controller may hold no processes itself. pyd's own processes may
sit in just such a cgroup: a service's with Delegate=yes, or the root of a container's cgroup namespace
(which looks like a root but is none). Those are moved one level down, into `pyd-self`. Processes of
anybody else are never moved: the error names them instead.
"""

from __future__ import annotations

import errno
import os

from daemon.cgroups import files
from daemon.cgroups.errors import CgroupError

SELF = "pyd-self"
_PROGRAMS = frozenset({"pydd", "pyd-oci", "pyd-supervisor", "pyd-keeper"})
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + "/"  # .../daemon/
THREADED = frozenset({"cpu", "cpuset", "perf_event", "pids"})
"""Controllers that work in a threaded subtree; all others need a domain ("Threads")."""


def delegate(root: str, path: str, required: frozenset[str]) -> list[str]:
    """Make the cgroups above `root/path` and enable in each what it has. Returns the directories made.

    `required` controllers must arrive, or CgroupError says where they stopped; any other is enabled if
    that is possible. Removing what was made, on an error too, is the caller's; the exception carries none.
    """
    made: list[str] = []
    directory = root
    parts = path.split("/")
    if _passes_everything("/".join([root, *parts[:-1]])):
        return made
    try:
        for part in parts[:-1]:
            enable(directory, required)
            directory = f"{directory}/{part}"
            if files.make_if_missing(directory):
                made.append(directory)
        enable(directory, required)
    except BaseException as error:
        files.remove_directories(made)
        if isinstance(error, OSError):
            raise CgroupError.of("mkdir", directory, error) from error
        raise
    return made


def _passes_everything(directory: str) -> bool:
    """The usual case, two reads: the parent is there and passes on whatever it has."""
    available = files.read_optional(f"{directory}/cgroup.controllers")
    passed = files.read_optional(f"{directory}/cgroup.subtree_control")
    return bool(available) and set((available or "").split()) <= set((passed or "").split())


def enable(directory: str, required: frozenset[str]) -> None:
    """List every available controller in `cgroup.subtree_control`, in one write if the kernel lets us."""
    available = set(files.read(f"{directory}/cgroup.controllers").split())
    missing = required - available
    if missing:
        raise CgroupError(
            f"{directory}/cgroup.controllers lacks {' '.join(sorted(missing))}:"
            " the kernel has it not or the cgroup above does not pass it on",
            file=f"{directory}/cgroup.controllers",
        )
    file = f"{directory}/cgroup.subtree_control"
    wanted = available - set(files.read(file).split())
    if not wanted:
        return
    try:
        files.write(file, " ".join(f"+{name}" for name in sorted(wanted)))
    except CgroupError as error:
        # Foreign processes in the way of what nobody needs: leave it. (Threaded controllers alone could be
        # had, but they would turn each cgroup below into an invalid domain.)
        if error.errno != errno.EBUSY or _move_own_down(directory, required & wanted):
            _enable_singly(file, wanted, required)


def _enable_singly(file: str, wanted: set[str], required: frozenset[str]) -> None:
    """One write each: a controller that cannot be had (no real-time budget, threaded) spoils no other."""
    for name in sorted(wanted):
        try:
            files.write(file, f"+{name}")
        except CgroupError:
            if name in required:
                raise


def _move_own_down(directory: str, needed: frozenset[str]) -> bool:
    """Move our processes out of `directory`. False (and nothing moved) when only others are in the way
    of something not needed; CgroupError when they are in the way of something needed."""
    inside = [int(pid) for pid in files.read(f"{directory}/cgroup.procs").split()]
    own = own_processes()
    foreign = [pid for pid in inside if pid not in own]
    if foreign:
        if needed:
            raise CgroupError(
                f"enable {' '.join(sorted(needed))} in {directory}/cgroup.subtree_control: processes"
                f" {foreign[:8]}, which are not pyd's, are in the cgroup itself; move them into one below",
                file=f"{directory}/cgroup.subtree_control",
                errno=errno.EBUSY,
            )
        return False
    refuge = f"{directory}/{SELF}"
    files.make_if_missing(refuge)
    for pid in inside:
        try:
            files.write(f"{refuge}/cgroup.procs", pid)
        except CgroupError as error:
            if error.errno != errno.ESRCH:  # it ended meanwhile
                raise
    return True


def own_processes() -> set[int]:
    """This process, its descendants, and this user's other pyd processes: the daemon and the keeper sit in
    the supervisor's cgroup and are not its children."""
    parents = _parents()
    own = {os.getpid()} | {pid for pid in parents if _is_pyd(pid)}
    grown = True
    while grown:
        more = {child for child, parent in parents.items() if parent in own} - own
        grown = bool(more)
        own |= more
    return own


def _parents() -> dict[int, int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = files.read_optional(f"/proc/{name}/stat")
            if stat:
                parents[int(name)] = int(stat.rpartition(")")[2].split()[1])
    return parents


def _is_pyd(pid: int) -> bool:
    """By its name, or by a program of ours among the first words of its command line."""
    try:
        if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
            return False
        words = files.read(f"/proc/{pid}/cmdline").split("\0")[:5]
        return files.read(f"/proc/{pid}/comm") in _PROGRAMS or any(
            os.path.basename(word) in _PROGRAMS or word.startswith(_PACKAGE) for word in words
        )
    except (OSError, CgroupError):
        return False
