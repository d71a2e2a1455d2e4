"""Starting a container's first process, and further processes inside it: the runtime's public face.

    prepare(spec, bundle) -> Plan        everything computed, nothing done; `describe()` prints it
    spawn(plan, stdio, ...) -> Child     clone3; the child (init.py) executes the plan
    progress(child) -> Progress | None   what init reports, one message at a time
    go(child)                            opens the gate of a child spawned with gate=True

Life of a child, as seen through `progress`:

    spawn ──> [console] ──> [ready, only with gate] ──go()──> started        (execve has happened)
                  └────────────────┴──────────────────────> error          (then the child exits)

The caller owns the child: it is the caller's direct child (waitid by `pidfd` gives the exit status), and
`child.sync` is closed by the caller once `started` or `error` was seen. Reports come in the order above;
nothing follows `started` or `error`. `spawn` and `progress` never wait for what the child does.

A process that spawns calls `harden()` once at its start. Records here are plain classes with slots rather
than dataclasses: importing `dataclasses` takes 20 ms, most of what `runc run` takes as a whole.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from typing import Any, Literal

    from daemon.cgroups import Cgroup
    from daemon.runtime.errors import LaunchError


class Stdio:
    """The child's ends of its standard streams; the caller keeps (and closes) its own copies."""

    __slots__ = ("stderr", "stdin", "stdout")

    def __init__(self, stdin: int, stdout: int, stderr: int) -> None:
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr


class Child:
    """A spawned process. `sync` is the caller's end of a SOCK_SEQPACKET pair (has fileno() and close())."""

    __slots__ = ("executing", "pid", "pidfd", "sync")

    def __init__(self, pid: int, pidfd: int, sync: Socket) -> None:
        self.pid, self.pidfd, self.sync = pid, pidfd, sync
        self.executing = False


class Progress:
    """One report of a child.

    kind "console": `fd` is the pty's master (close-on-exec, the receiver's to close);
    kind "ready":   everything is set up, the child waits for `go`;
    kind "started": execve has happened;
    kind "error":   `error` says what failed; the child has exited or is about to.
    """

    __slots__ = ("error", "fd", "kind")

    def __init__(
        self,
        kind: Literal["console", "ready", "started", "error"],
        fd: int = -1,
        error: LaunchError | None = None,
    ) -> None:
        self.kind, self.fd, self.error = kind, fd, error


class Plan:
    """A container's start, fully computed. Holds no descriptor; may be spawned more than once."""

    def describe(self) -> list[str]:
        raise NotImplementedError


class ExecPlan:
    """A further process' start in a running container. Holds no descriptor."""

    def describe(self) -> list[str]:
        raise NotImplementedError


def harden() -> None:
    """Make this process safe to spawn from; call first thing in main(), before any thread or descriptor.

    It re-executes the interpreter once (same arguments and environment) from a detached read-only clone of
    its mount, so that no container can write to the interpreter through /proc/self/exe (CVE-2019-5736),
    and makes the process undumpable, which its children inherit until they execve (CVE-2016-9962).
    """
    raise NotImplementedError


def prepare(spec: dict[str, Any], bundle: str) -> Plan:
    """Compute a container's start from its OCI `config.json`; raises SpecError naming the field."""
    raise NotImplementedError


def prepare_exec(process: dict[str, Any], spec: dict[str, Any], init_pid: int) -> ExecPlan:
    """Compute the start of `process` (OCI) in the container of `spec` whose init is `init_pid`."""
    raise NotImplementedError


def spawn(
    plan: Plan, stdio: Stdio | None, *, cgroup: Cgroup | None, gate: bool = False, netns_fd: int | None = None
) -> Child:
    """Start the child. `stdio` is None when process.terminal is true.

    Writes id maps and puts the child into `cgroup` before init goes beyond its first steps. On any failure
    here nothing is left behind and LaunchError is raised. `netns_fd` replaces the network namespace of the
    spec; the caller keeps and closes it.
    """
    raise NotImplementedError


def spawn_exec(
    plan: ExecPlan, stdio: Stdio | None, *, init_pidfd: int, cgroup: Cgroup | None, gate: bool = False
) -> Child:
    """Start a further process in the container of `init_pidfd`; otherwise as `spawn`."""
    raise NotImplementedError


def progress(child: Child) -> Progress | None:
    """One non-blocking read of `child.sync`; None when there is nothing yet. Call when it is readable."""
    raise NotImplementedError


def go(child: Child) -> None:
    """Let a child that reported "ready" go on to execve."""
    raise NotImplementedError
