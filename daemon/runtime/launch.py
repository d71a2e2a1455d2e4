"""Starting a container's first process, and further processes inside it: the runtime's public face.

    prepare(spec, bundle) -> Plan        everything computed, nothing done; `describe()` prints it
    spawn(plan, stdio, ...) -> Child     clone3; the child (init.py) executes the plan
    progress(child) -> Progress | None   what init reports, one message at a time
    go(child)                            opens the gate of a child spawned with gate=True

Life of a child, as seen through `progress`:

    spawn ──> [console] ──> [hooks] ──go()──> [ready, only with gate] ──go()──> started        (execve has happened)
                  └────────────────┴──────────────────────> error          (then the child exits)

The caller owns the child: it is the caller's direct child (waitid by `pidfd` gives the exit status), and
`child.sync` is closed by the caller once `started` or `error` was seen. Reports come in the order above;
nothing follows `started` or `error`. `spawn` and `progress` never wait for what the child does.

A process that spawns calls `harden()` once at its start. Records here are plain classes with slots rather
than dataclasses: importing `dataclasses` takes 20 ms, most of what `runc run` takes as a whole.
"""

from __future__ import annotations

from _socket import MSG_CMSG_CLOEXEC, MSG_DONTWAIT

from daemon.runtime import hardening, messages, namespaces, rootfs, sysctls
from daemon.runtime.errors import SpecError, Vanished
from daemon.runtime.process import ProcessPlan, encode
from daemon.runtime.spec import get_object, get_string

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from typing import Literal

    from daemon.cgroups import Cgroup
    from daemon.runtime.errors import LaunchError
    from daemon.runtime.hooks import Hooks
    from daemon.runtime.spec import Object

_UNSUPPORTED = ("intelRdt", "memoryPolicy", "mountLabel", "netDevices")


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
    kind "hooks":   namespaces and mounts exist; the caller runs `plan.hooks` of the kinds prestart and createRuntime,
                    then `go`; only when the specification has such hooks;
    kind "ready":   everything is set up, the child waits for `go`;
    kind "started": execve has happened;
    kind "error":   `error` says what failed; the child has exited or is about to.
    """

    __slots__ = ("error", "fd", "kind")

    def __init__(
        self,
        kind: Literal["console", "hooks", "ready", "started", "error"],
        fd: int = -1,
        error: LaunchError | None = None,
    ) -> None:
        self.kind, self.fd, self.error = kind, fd, error


class Plan:
    """A container's start, fully computed. Holds no descriptor; may be spawned more than once."""

    __slots__ = (
        "domainname", "hooks", "hooks_wait", "hostname", "keyring", "namespaces", "process", "root", "sysctls",
    )  # fmt: skip

    def __init__(self, spec: Object, bundle: str, *, pivot: bool, keyring: str, new_keyring: bool) -> None:
        linux = get_object(spec, "linux", "linux")
        for name in _UNSUPPORTED:
            if linux.get(name):
                raise SpecError(f"linux.{name}", "is not supported")
        self.namespaces = namespaces.plan(linux)
        self.root = rootfs.plan(spec, self.namespaces, bundle, pivot=pivot)
        self.process = ProcessPlan(get_object(spec, "process", "process"), linux)
        self.hostname = self._uts_name(spec, "hostname")
        self.domainname = self._uts_name(spec, "domainname")
        self.sysctls = sysctls.plan(spec, self.namespaces)
        self.keyring = _keyring_name(keyring) if new_keyring else None
        self.hooks = _plan_hooks(spec)
        self.hooks_wait = self.hooks is not None and self.hooks.has("prestart", "createRuntime")

    def _uts_name(self, spec: Object, key: str) -> bytes:
        name = encode(get_string(spec, key, key), key)
        if name and not self.namespaces.has("uts"):
            raise SpecError(key, "needs a UTS namespace of the container's own")
        return name

    def describe(self) -> list[str]:
        lines = self.namespaces.describe()
        lines += [operation.describe() for operation in self.root.all()]
        if self.hostname:
            lines.append(f"set the host name {self.hostname.decode(errors='replace')}")
        lines += [f"set /proc/{path} to {value.decode(errors='replace')!r}" for path, value in self.sysctls]
        return lines + self.process.describe()


class ExecPlan:
    """A further process' start in a running container. Holds no descriptor."""

    __slots__ = ("flags", "keyring", "process")

    def __init__(self, process: Object, spec: Object, keyring: str) -> None:
        linux = get_object(spec, "linux", "linux")
        self.flags = namespaces.plan(linux).flags()
        self.process = ProcessPlan(process, linux)
        self.keyring = _keyring_name(keyring)

    def describe(self) -> list[str]:
        names = [kind for kind, flag in namespaces.KINDS.items() if self.flags & flag]
        return [f"join the container's namespaces: {' '.join(names)}", *self.process.describe()]


def _keyring_name(container: str) -> bytes:
    """As runc names it; without a container's name the keyring is anonymous."""
    return f"_ses.{container}".encode() if container else b""


def _plan_hooks(spec: Object) -> Hooks | None:
    if not spec.get("hooks"):
        return None
    from daemon.runtime import hooks

    return hooks.plan(spec)


def harden() -> None:
    """Make this process safe to spawn from; call first thing in main(), before any thread or descriptor.

    It re-executes the interpreter once (same arguments and environment) from a detached read-only clone of
    its mount, so that no container can write to the interpreter through /proc/self/exe (CVE-2019-5736),
    and makes the process undumpable, which its children inherit until they execve (CVE-2016-9962).
    """
    hardening.harden()


def prepare(
    spec: Object, bundle: str, *, pivot: bool = True, keyring: str | None = None, new_keyring: bool = True
) -> Plan:
    """Compute a container's start from its OCI `config.json`; raises SpecError naming the field.

    `keyring` names the container's session keyring, by default after the bundle's directory;
    new_keyring=False leaves it the runtime's. pivot=False is for roots that pivot_root(2) refuses.
    """
    name = keyring or bundle.rstrip("/").rpartition("/")[2]
    return Plan(spec, bundle, pivot=pivot, keyring=name, new_keyring=new_keyring)


def prepare_exec(process: Object, spec: Object, keyring: str = "") -> ExecPlan:
    """Compute the start of `process` (OCI) in a running container of `spec`."""
    return ExecPlan(process, spec, keyring)


def spawn(
    plan: Plan,
    stdio: Stdio | None,
    *,
    cgroup: Cgroup | None,
    gate: bool = False,
    netns_fd: int | None = None,
    listener: Socket | None = None,
    preserve_fds: int = 0,
) -> Child:
    """Start the child. `stdio` is None when process.terminal is true.

    Writes id maps and puts the child into `cgroup` before init goes beyond its first steps. On any failure
    here nothing is left behind and LaunchError is raised. `netns_fd` replaces the network namespace of the
    spec; the caller keeps and closes it. `listener` (a listening SOCK_SEQPACKET socket) is a gate that outlives the
    caller: the child goes on when somebody connects, and reports to that connection from then on.
    """
    from daemon.runtime import spawning

    return spawning.spawn(
        plan, stdio, cgroup=cgroup, gate=gate, netns_fd=netns_fd, listener=listener, preserve_fds=preserve_fds
    )


def spawn_exec(
    plan: ExecPlan,
    stdio: Stdio | None,
    *,
    init_pidfd: int,
    cgroup: Cgroup | None,
    gate: bool = False,
    preserve_fds: int = 0,
) -> Child:
    """Start a further process in the container of `init_pidfd`; otherwise as `spawn`."""
    from daemon.runtime import spawning

    return spawning.spawn_exec(
        plan, stdio, init_pidfd=init_pidfd, cgroup=cgroup, gate=gate, preserve_fds=preserve_fds
    )


def progress(child: Child) -> Progress | None:
    """One non-blocking read of `child.sync`; None when there is nothing yet. Call when it is readable."""
    while True:
        try:
            message, ancillary, _, _ = child.sync.recvmsg(messages.LIMIT, 64, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            continue  # the child left a GO unread; what it said before is still in the queue
        kind = message[:1]
        if kind == messages.EXECUTE:
            child.executing = True  # end of file from now on means that execve has happened
            continue
        if kind == messages.CONSOLE:
            return Progress("console", fd=messages.received_descriptor(ancillary))
        if kind == messages.READY:
            return Progress("ready")
        if kind == messages.HOOKS:
            return Progress("hooks")
        if kind == messages.ERROR:
            return Progress("error", error=messages.decode_error(message))
        if child.executing:
            return Progress("started")
        return Progress("error", error=Vanished())


def go(child: Child) -> None:
    """Let a child that reported "ready" (or "hooks") go on; harmless when it has died meanwhile."""
    try:  # noqa: SIM105  (contextlib is not imported here: it costs 3 ms)
        child.sync.send(messages.GO)
    except (BrokenPipeError, ConnectionResetError):
        pass  # `progress` will say so
