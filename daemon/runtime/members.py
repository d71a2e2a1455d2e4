"""The supervisor's picture of one container and of the processes in it."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios

from daemon.runtime.protocol import close_all
from daemon.runtime.tasks import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from daemon.cgroups import Cgroup

PF_EXITING = 0x4


class Member:
    """A container's init (exec_id None) or an exec.

    `fds` are our duplicates of what the keeper holds: stdin, stdout, stderr, tty. `stdio` is what the keeper
    was told about them. `ended` is set when the process is dead and its end is on disk.
    """

    __slots__ = (
        "ended",
        "exec_id",
        "exit_status",
        "fds",
        "finished_at_ns",
        "pid",
        "pidfd",
        "released",
        "started_at_ns",
        "stdio",
        "ticks",
    )

    def __init__(self, exec_id: str | None, stdio: dict[str, Any]) -> None:
        self.exec_id = exec_id
        self.stdio = stdio
        self.fds: dict[str, int] = {}
        self.pid = 0
        self.pidfd = -1
        self.ticks = 0
        self.started_at_ns = 0
        self.exit_status: int | None = None
        self.finished_at_ns: int | None = None
        self.released = False
        self.ended = Future()

    def begin_anew(self) -> None:
        """Its process died before it ran anything; another is to follow, with the same stdio."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pid, self.pidfd = 0, -1
        self.exit_status = self.finished_at_ns = None
        self.ended = Future()

    @property
    def running(self) -> bool:
        return self.pid > 0 and self.exit_status is None

    def record(self) -> dict[str, Any]:
        """What is kept on disk."""
        return {
            "pid": self.pid,
            "ticks": self.ticks,
            "started_at_ns": self.started_at_ns,
            "exit_status": self.exit_status,
            "finished_at_ns": self.finished_at_ns,
            "stdio": self.stdio,
        }

    @classmethod
    def from_record(cls, exec_id: str | None, record: dict[str, Any]) -> Member:
        member = cls(exec_id, record["stdio"])
        member.pid, member.ticks = record["pid"], record["ticks"]
        member.started_at_ns = record["started_at_ns"]
        member.exit_status, member.finished_at_ns = record["exit_status"], record["finished_at_ns"]
        return member

    def public(self) -> dict[str, Any]:
        """What the daemon is told."""
        names = ("pid", "exit_status", "started_at_ns", "finished_at_ns")
        return {name: getattr(self, name) for name in names}

    def ending(self) -> bool:
        """Whether the process has ended or is about to: a pid namespace's init kills all others first.

        (proc_pid_stat(5): `flags`; PF_EXITING is the kernel's include/linux/sched.h.)
        """
        if self.pidfd < 0 or self.exit_status is not None:
            return True
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return bool(int(fields[6]) & PF_EXITING)

    def kill(self) -> None:
        """SIGKILL, if it lives."""
        if self.pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return

    def close(self) -> None:
        close_all(self.fds.values())
        self.fds.clear()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def drop(self, name: str) -> None:
        if name in self.fds:
            os.close(self.fds.pop(name))

    def resize(self, rows: int, columns: int) -> bool:
        """Sets the tty's size; False where there is none."""
        if "tty" not in self.fds:
            return False
        fcntl.ioctl(self.fds["tty"], termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        return True


class Container:
    """`phase`: "starting", "running" or "stopped". `foreign` is the command of a foreign OCI runtime, or None."""

    __slots__ = (
        "bundle",
        "cgroup",
        "cgroup_path",
        "execs",
        "foreign",
        "hooked",
        "id",
        "init",
        "oom_fd",
        "oom_killed",
        "oom_kills",
        "paused",
        "phase",
        "shared_pids",
        "stop_watching",
    )

    def __init__(
        self, container_id: str, bundle: str, cgroup_path: str, cgroup: Cgroup, init: Member
    ) -> None:
        self.id = container_id
        self.bundle = bundle
        self.cgroup_path = cgroup_path
        self.cgroup = cgroup
        self.init = init
        self.execs: dict[str, Member] = {}
        self.foreign: list[str] | None = None
        self.hooked = True
        """Whether its specification may have hooks; one found after a crash must be looked at."""
        self.phase = "starting"
        self.paused = False
        self.shared_pids = False
        self.oom_killed = False
        self.oom_kills = 0
        self.oom_fd: int | None = None
        self.stop_watching: Callable[[], None] = lambda: None

    def member(self, exec_id: str | None) -> Member | None:
        return self.init if exec_id is None else self.execs.get(exec_id)

    def members(self) -> list[Member]:
        return [self.init, *self.execs.values()]

    def record(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "bundle": self.bundle,
            "cgroup": self.cgroup_path,
            "foreign": self.foreign,
            "phase": self.phase,
            "shared_pids": self.shared_pids,
            "init": self.init.record(),
        }

    def public(self) -> dict[str, Any]:
        status = "paused" if self.paused and self.phase == "running" else self.phase
        execs = {name: member.public() for name, member in self.execs.items() if member.pid}
        return {**self.init.public(), "status": status, "oom_killed": self.oom_killed, "execs": execs}
