"""The interface of a cgroup: its specification is the docstrings here, `daemon/cgroups/__init__.py` has the
model. Only type checkers and tests load this module; the processes that start containers need not pay for it.
"""

from __future__ import annotations

from typing import Any, Protocol

from daemon.cgroups.entry import Entry
from daemon.cgroups.stats import Stats


class Cgroup(Protocol):
    """One container's cgroup. An object is cheap, holds no descriptor and can be made again from its path.

    Calls may block for as long as the kernel takes (freeze and delete up to about two seconds).
    """

    path: str
    """Relative to each hierarchy's root, without leading slash."""

    def create(self, resources: dict[str, Any]) -> None:
        """Make the directories and write the limits. `resources` is the OCI `linux.resources` object.

        All or nothing: on an error whatever this call made is removed again. A directory that exists
        already is refused (EEXIST) when processes are in it, and taken over otherwise: it is what a
        crash left of this very container. Device rules are applied when the key `devices` is there;
        the devices every container may use (null, zero, tty ...) are then allowed as well, as runc does.
        """

    def attach(self, pid: int) -> None:
        """Move a process, with its threads, into the cgroup in every hierarchy."""

    def directory_fd(self) -> int | None:
        """A new descriptor for CLONE_INTO_CGROUP, which the caller closes; None unless v2 is what limits."""

    def entry(self) -> Entry:
        """Descriptors by which a child enters by itself, instead of `attach`: some 7 ms faster on v1 and
        hybrid. See `daemon/cgroups/entry.py` for the order of steps."""

    def update(self, resources: dict[str, Any]) -> None:
        """Change limits of a living cgroup; keys that are absent keep their value."""

    def freeze(self) -> None:
        """Stop every process; returns when all are stopped, raises (thawed again) when they would not."""

    def thaw(self) -> None:
        """Undo `freeze`; harmless when not frozen."""

    def thaw_below(self) -> None:
        """Thaw cgroups inside it where they hold even the dying, as on v1: a container made and froze them."""

    def frozen(self) -> bool:
        """Is it, or is it becoming, frozen by `freeze` of this cgroup (not by an ancestor's)?"""

    def kill(self, signal: int = 9) -> None:
        """Signal every process in it and below, none escapes by forking. Harmless when empty or gone."""

    def pids(self) -> list[int]:
        """Process IDs in it and below, sorted, as seen from the caller's PID namespace; [] when gone."""

    def delete(self) -> None:
        """Remove it and what is below. Idempotent. Retries while the kernel says EBUSY (dying processes)."""

    def exists(self) -> bool:
        """Is any of its directories there?"""

    def stats(self) -> Stats:
        """Read everything in one pass. Raises CgroupError when the cgroup is gone."""

    def oom_kills(self) -> int:
        """How many processes in it (on v2: and below) the OOM killer has killed; 0 when gone."""

    def oom_event_fd(self) -> int | None:
        """A new non-blocking descriptor that turns readable when the cgroup runs out of memory.

        The caller polls it, calls `drain_oom_event(fd)` when it is readable, looks at `oom_kills()`
        (a wake-up is only a hint: deletion and other memory events wake as well), and closes it.
        None where the kernel has no memory controller for it.
        """
