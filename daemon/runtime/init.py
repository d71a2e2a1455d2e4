"""The child's side: from the clone to execve, as the container's init or as an exec'd process.

This runs on a copy of the parent's interpreter. Everything it needs was computed and imported before;
from here on there are system calls and little else. Any failure is reported over the sync socket as one ERROR
message, and the process exits with the code that `docker run` would give.

    init       signals, session ── namespaces ── root, early half ─┬─ late half ─ console ─ pivot ─ rights ─ execve
    parent     id maps, cgroups, limits ── GO ─────────────────────┘
"""

from __future__ import annotations

import _socket
import gc
import os
from fcntl import ioctl

from daemon.runtime import messages, operations, process, tty
from daemon.runtime import syscalls as sc
from daemon.runtime.errors import LaunchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import NoReturn

    from daemon.runtime.joining import CgroupEntry
    from daemon.runtime.launch import ExecPlan, Plan
    from daemon.runtime.process import ProcessPlan
else:
    import _signal  # `signal` wraps it in enums, for 4 ms at import

_IFF_UP_RUNNING = 0x41
_KEYRING_PERMISSIONS = 0x3F3F0000 | 0x080000  # possessor and user: all; user: search (keyctl(2))
_MAX_FD = 0xFFFFFFFF
_SIOCSIFFLAGS = 0x8914


class Start:
    """What belongs to one start rather than to the plan: descriptors and switches."""

    __slots__ = (
        "cgroup", "gate", "handled", "joined", "listener", "preserve", "sources", "stdio", "sync", "unshare",
    )  # fmt: skip

    def __init__(
        self,
        sync: _socket.socket,
        stdio: tuple[int, int, int] | None,
        handled: list[int],
        cgroup: CgroupEntry,
        *,
        gate: bool = False,
        listener: _socket.socket | None = None,
        preserve: int = 0,
        joined: list[tuple[int, int]] | None = None,
        sources: dict[int, int] | None = None,
        unshare: int = 0,
    ) -> None:
        self.sync, self.stdio, self.handled, self.cgroup = sync, stdio, handled, cgroup
        self.gate, self.listener, self.preserve = gate, listener, preserve
        self.joined = joined or []
        self.sources = sources or {}
        self.unshare = unshare
        """CLONE_NEW* of namespaces that the clone did not make (a spare's, spare.py)."""

    def wait(self) -> None:
        """Until the parent has done its part."""
        _await(self.sync)


class _Stage:
    """Where init is, for the error message should the next step fail."""

    __slots__ = ("name",)

    def __init__(self) -> None:
        self.name = "starting"


def run(plan: Plan, start: Start) -> NoReturn:
    """Become the container's init."""
    stage = _Stage()
    _guarded(start, stage, lambda: _become_init(plan, start, stage))


def run_exec(plan: ExecPlan, start: Start, init_pidfd: int) -> NoReturn:
    """Become a further process of a running container."""
    stage = _Stage()
    _guarded(start, stage, lambda: _become_exec(plan, start, stage, init_pidfd))


def _guarded(start: Start, stage: _Stage, steps: Callable[[], None]) -> NoReturn:
    error = LaunchError("init returned", stage="init")
    try:
        gc.disable()
        steps()
    except LaunchError as failure:
        error = failure
    except OSError as failure:
        where = f" ({os.fsdecode(failure.filename)})" if failure.filename else ""
        text = (failure.strerror or str(failure)).lower()
        error = LaunchError(f"{stage.name}: {text}{where}", stage=stage.name, errno=failure.errno or 0)
    except BaseException as failure:
        error = LaunchError(f"{stage.name}: {failure!r}", stage=stage.name)
    try:
        start.sync.send(messages.encode_error(error))
    finally:
        os._exit(error.exit_code)


# -- init ------------------------------------------------------------------------------------------


def _become_init(plan: Plan, start: Start, stage: _Stage) -> None:
    namespaces, program = plan.namespaces, plan.process
    stage.name = "entering the cgroups"
    _detach(start)
    stage.name = "joining namespaces"
    for kind, fd in start.joined:
        sc.setns(fd, kind)
    if start.unshare:
        sc.unshare(start.unshare)
    userns = namespaces.has("user")
    if userns:
        _await(start.sync)
        _become_root()
    stage.name = "setting up namespaces"
    if plan.keyring is not None:
        _session_keyring(plan.keyring)
    if namespaces.new & sc.CLONE_NEWNET and not any(kind == sc.CLONE_NEWNET for kind, _ in start.joined):
        _loopback_up()
    context = operations.Context(start.sources)
    _execute(plan.root.early, context, stage)
    if not userns:
        stage.name = "waiting for the parent"
        start.wait()
    stage.name = "setting up namespaces"
    _late_namespaces(plan, context, userns)
    _execute(plan.root.late, context, stage)
    slave = -1
    if program.terminal:
        stage.name = "opening the terminal"
        slave = _open_console(program, start.sync, context)
    if plan.hooks_wait:
        stage.name = "waiting for hooks"
        start.sync.send(messages.HOOKS)
        _await(start.sync)
    if plan.hooks:
        plan.hooks.run("createContainer", pid=os.getpid(), status="creating")
    _execute(plan.root.closing, context, stage)
    if slave >= 0:
        tty.take(slave)
    stage.name = "setting the host name"
    if plan.hostname:
        sc.sethostname(plan.hostname)
    if plan.domainname:
        sc.setdomainname(plan.domainname)
    for path, value in plan.sysctls:
        stage.name = f"setting sysctl {path}"
        _write_at(context.proc, path, value)
    stage.name = "setting up the process"
    if program.apparmor:
        process.set_apparmor(context.proc, program.apparmor)
    _finish(program, start, stage, userns=userns, plan=plan)


def _execute(todo: list[operations.Operation], context: operations.Context, stage: _Stage) -> None:
    for operation in todo:
        try:
            operation.execute(context)
        except OSError:
            stage.name = operation.describe()
            raise


def _late_namespaces(plan: Plan, context: operations.Context, userns: bool) -> None:
    new = plan.namespaces.new
    if new & sc.CLONE_NEWCGROUP:
        sc.unshare(sc.CLONE_NEWCGROUP)
    if new & sc.CLONE_NEWTIME:
        sc.unshare(sc.CLONE_NEWTIME)
        if plan.namespaces.offsets:
            # In a user namespace the file belongs to the outer root while the process is undumpable.
            if userns:
                sc.prctl(sc.PR_SET_DUMPABLE, 1)
            _write_at(context.proc, "self/timens_offsets", plan.namespaces.offsets.encode())
            if userns:
                sc.prctl(sc.PR_SET_DUMPABLE, 0)
        fd = os.open("self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC, dir_fd=context.proc)
        sc.setns(fd, sc.CLONE_NEWTIME)
        os.close(fd)


def _open_console(program: ProcessPlan, sync: _socket.socket, context: operations.Context | None) -> int:
    """Open the pty, send its master to the parent, return the slave."""
    directory = -1
    if context is not None:
        directory = context.devpts
        if directory < 0:
            directory = operations.open_existing(context.root, "/dev/pts")
            if directory < 0:
                raise FileNotFoundError(2, "a terminal needs a devpts mounted", "/dev/pts")
    master, slave = tty.open_pty(directory)
    if program.console_size:
        tty.set_size(master, *program.console_size)
    if context is not None:
        tty.mount_console(context, slave)
    messages.send_console(sync, master)
    os.close(master)
    return slave


# -- exec ------------------------------------------------------------------------------------------


def _become_exec(plan: ExecPlan, start: Start, stage: _Stage, init_pidfd: int) -> None:
    program = plan.process
    stage.name = "entering the cgroups"
    _detach(start)
    stage.name = "joining the container's namespaces"
    flags = plan.flags & ~sc.CLONE_NEWPID  # that one the parent joined before the clone
    if flags:
        sc.setns(init_pidfd, flags)
    userns = bool(flags & sc.CLONE_NEWUSER)
    if userns:
        _become_root()
    os.chdir("/")
    stage.name = "waiting for the parent"
    _await(start.sync)
    stage.name = "setting up the process"
    _session_keyring(plan.keyring)
    if program.apparmor:
        fd = operations.new_filesystem(b"proc", [], 0)
        process.set_apparmor(fd, program.apparmor)
    if program.terminal:
        stage.name = "opening the terminal"
        tty.take(_open_console(program, start.sync, None))
    stage.name = "setting up the process"
    _finish(program, start, stage, userns=userns, plan=None)


# -- both ------------------------------------------------------------------------------------------


def _detach(start: Start) -> None:
    """Enter the cgroups; leave the parent's signals, session and descriptors behind."""
    start.cgroup.enter()
    for number in start.handled:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    os.setsid()
    os.umask(0)
    if start.stdio is not None:
        place_standard_streams(start.stdio)
    first = 3 + start.preserve
    sc.close_range(first, _MAX_FD, sc.CLOSE_RANGE_CLOEXEC)
    for fd in range(3, first):
        os.set_inheritable(fd, True)


def _close_descriptors(start: Start) -> None:
    """Nothing is left open for a working directory or program of /proc/self/fd/N to lead to (CVE-2024-21626)."""
    keep = [start.sync.fileno()]
    if start.listener is not None:
        keep.append(start.listener.fileno())
    close_all_but(keep, 3 + start.preserve)


def close_all_but(keep: list[int], first: int) -> None:
    """Close what is open from `first` on, except `keep`."""
    for fd in sorted(keep):
        if fd > first:
            sc.close_range(first, fd - 1, 0)
        first = max(first, fd + 1)
    sc.close_range(first, _MAX_FD, 0)


def place_standard_streams(stdio: tuple[int, int, int]) -> None:
    copies = [fd if fd == place else os.dup(fd) for place, fd in enumerate(stdio)]
    for place, fd in enumerate(copies):
        if fd == place:
            os.set_inheritable(fd, True)
        else:
            os.dup2(fd, place)
            os.close(fd)


def _await(sync: _socket.socket) -> None:
    """Wait for GO; end of file means that the parent is gone, and then nothing should start."""
    if sync.recv(1) != messages.GO:
        raise LaunchError("the runtime went away while the container was starting", stage="waiting")


def _become_root() -> None:
    """Take on the user namespace's root; setgroups may be denied there (user_namespaces(7))."""
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    sc.prctl(sc.PR_SET_DUMPABLE, 0)


def _session_keyring(name: bytes) -> None:
    """A session keyring of its own, or the process would hold the runtime's keys (keyctl(2))."""
    try:
        key = sc.keyctl_join_session_keyring(name or None)
        sc.keyctl_setperm(key, _KEYRING_PERMISSIONS)
    except OSError as error:
        if error.errno not in (1, 13, 38):  # EPERM, EACCES, ENOSYS: forbidden or absent where we run
            raise


def _loopback_up() -> None:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    ioctl(sock.fileno(), _SIOCSIFFLAGS, b"lo".ljust(16, b"\0") + _IFF_UP_RUNNING.to_bytes(24, "little"))
    sock.close()


def _write_at(directory: int, path: str, value: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


def _finish(program: ProcessPlan, start: Start, stage: _Stage, *, userns: bool, plan: Plan | None) -> None:
    """The steps that init and exec have in common, up to execve."""
    if not userns:
        program.set_limits()
    if program.scheduling:
        program.scheduling.apply()
    _close_descriptors(start)
    program.enter_directory()
    process.own_standard_streams(program.uid)
    program.restrict()
    program.enter_directory(again=True)
    program.complete_environment()
    path = program.find_executable()
    sync = start.sync
    if start.gate or start.listener:
        stage.name = "waiting to be started"
        sync.send(messages.READY)
        sync = _wait_at_gate(start)
    if plan is not None and plan.hooks:
        plan.hooks.run("startContainer", pid=os.getpid(), status="created")
    stage.name = "executing"
    sync.send(messages.EXECUTE)
    if program.no_new_privs and program.seccomp:
        program.seccomp.install()
    program.execute(path)


def _wait_at_gate(start: Start) -> _socket.socket:
    """Until the parent says GO or, with a listener (`pyd-oci create`), until `pyd-oci start` connects."""
    if start.listener is None:
        _await(start.sync)
        return start.sync
    fd, _ = start.listener._accept()  # type: ignore[attr-defined]
    start.sync = _socket.socket(fileno=fd)
    return start.sync
