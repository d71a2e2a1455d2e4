"""The parent's side of a start: clone3, and what only the parent may do for the child.

In the parent's hands are the id maps and privileged limits of a user namespace, the cgroups, and the pid
namespace when it is joined by path, which a process can only get at its birth (pid_namespaces(7)).
"""

from __future__ import annotations

import _socket
import os

from daemon.runtime import init, messages
from daemon.runtime import syscalls as sc
from daemon.runtime.errors import LaunchError, RuntimeFailure
from daemon.runtime.joining import CgroupEntry
from daemon.runtime.launch import Child
from daemon.runtime.namespaces import KINDS, LATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import NoReturn

    from daemon.cgroups import Cgroup
    from daemon.runtime.launch import ExecPlan, Plan, Stdio
    from daemon.runtime.process import ProcessPlan
else:
    import _signal  # `signal` wraps it in enums, for 4 ms at import

_SIGCHLD = 17
_ALL_SIGNALS = [number for number in range(1, 65) if number not in (32, 33)]  # the C library keeps two


def spawn(
    plan: Plan,
    stdio: Stdio | None,
    *,
    cgroup: Cgroup | None,
    gate: bool,
    netns_fd: int | None,
    listener: _socket.socket | None,
    preserve_fds: int,
) -> Child:
    """`launch.spawn`."""
    namespaces = plan.namespaces
    opened: list[int] = []
    entry = CgroupEntry(cgroup)
    try:
        joined = _open_namespaces(plan, netns_fd, opened)
        userns = namespaces.has("user")
        sources = _open_sources(plan, opened) if userns else {}
        flags = namespaces.new & ~LATE
        if netns_fd is not None:
            flags &= ~sc.CLONE_NEWNET
        pidns = next((fd for kind, fd in joined if kind == sc.CLONE_NEWPID), None)

        def child(sync: _socket.socket, handled: list[int]) -> NoReturn:
            # Not what was joined before the clone: the pid namespace here, the user namespace in between.
            rest = [(kind, fd) for kind, fd in joined if kind not in (sc.CLONE_NEWPID, sc.CLONE_NEWUSER)]
            start = init.Start(
                sync, _triple(stdio), handled, entry, gate=gate, listener=listener, preserve=preserve_fds, joined=rest,
                sources=sources,
            )  # fmt: skip
            init.run(plan, start)

        if "user" in namespaces.joined:
            result = _clone_through(flags, dict(joined)[sc.CLONE_NEWUSER], child, entry, pidns=pidns)
        else:
            result = clone(flags, child, entry, pidns=pidns)
        settle(result, None if entry.complete else cgroup, plan.process, plan if userns else None)
        return result
    except OSError as error:
        raise _failure(error, "spawning") from error
    finally:
        entry.close()
        for fd in opened:
            os.close(fd)


def spawn_exec(
    plan: ExecPlan,
    stdio: Stdio | None,
    *,
    init_pidfd: int,
    cgroup: Cgroup | None,
    gate: bool,
    preserve_fds: int,
) -> Child:
    """`launch.spawn_exec`."""

    entry = CgroupEntry(cgroup)

    def child(sync: _socket.socket, handled: list[int]) -> NoReturn:
        start = init.Start(sync, _triple(stdio), handled, entry, gate=gate, preserve=preserve_fds)
        init.run_exec(plan, start, init_pidfd)

    try:
        pidns = init_pidfd if plan.flags & sc.CLONE_NEWPID else None
        result = clone(0, child, entry, pidns=pidns)
        settle(
            result,
            None if entry.complete else cgroup,
            plan.process,
            None,
            limits=bool(plan.flags & sc.CLONE_NEWUSER),
        )
        return result
    except OSError as error:
        raise _failure(error, "joining the container") from error
    finally:
        entry.close()


def _failure(error: OSError, stage: str) -> LaunchError:
    where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
    text = f"{stage}: {(error.strerror or str(error)).lower()}{where}"
    return LaunchError(text, stage=stage, errno=error.errno or 0)


def _triple(stdio: Stdio | None) -> tuple[int, int, int] | None:
    return None if stdio is None else (stdio.stdin, stdio.stdout, stdio.stderr)


def _open_namespaces(plan: Plan, netns_fd: int | None, opened: list[int]) -> list[tuple[int, int]]:
    """(CLONE_NEW* flag, descriptor) of each namespace to join, in joining order."""
    joined = []
    for kind, flag in KINDS.items():
        if kind == "network" and netns_fd is not None:
            joined.append((flag, netns_fd))
        elif path := plan.namespaces.joined.get(kind):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            opened.append(fd)
            joined.append((flag, fd))
    return joined


def _open_sources(plan: Plan, opened: list[int]) -> dict[int, int]:
    """Open what the root is made of while still privileged: a user namespace's root may not reach it."""
    sources = {}
    for operation in plan.root.all():
        source = getattr(operation, "open_source", None)
        if source is not None:
            sources[id(operation)] = source()
            opened.append(sources[id(operation)])
    return sources


def clone(
    flags: int,
    child: Callable[[_socket.socket, list[int]], NoReturn],
    entry: CgroupEntry,
    *,
    pidns: int | None,
) -> Child:
    """clone3 with all signals held back, so that no handler of the parent's runs in the child."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
    arguments = sc.CloneArguments(flags, exit_signal=_SIGCHLD, cgroup_fd=entry.directory_fd)
    handled = _handled_signals()
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _ALL_SIGNALS)
    try:
        pid = _clone_into(pidns, arguments, lambda: child(theirs, handled))
    except BaseException:
        ours.close()
        raise
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        theirs.close()
    return Child(pid, arguments.pidfd, ours)


def _clone_into(pidns: int | None, arguments: sc.CloneArguments, child: Callable[[], NoReturn]) -> int:
    """clone3; with a pid namespace, for the child alone: the caller's own later children are not affected."""
    if pidns is None:
        return arguments.clone3() or child()
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        sc.setns(pidns, sc.CLONE_NEWPID)
        try:
            pid = arguments.clone3()
        except OSError:
            sc.setns(own, sc.CLONE_NEWPID)
            raise
        if pid == 0:
            child()
        sc.setns(own, sc.CLONE_NEWPID)
        return pid
    finally:
        os.close(own)


def _clone_through(
    flags: int,
    userns: int,
    child: Callable[[_socket.socket, list[int]], NoReturn],
    entry: CgroupEntry,
    *,
    pidns: int | None,
) -> Child:
    """Clone by way of a process that joins `userns`, so that the new namespaces belong to it.

    CLONE_PARENT makes the result the caller's child all the same. The in-between process lives for three
    system calls and is waited for.
    """
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    handled = _handled_signals()

    def between() -> NoReturn:
        try:
            sc.setns(userns, sc.CLONE_NEWUSER)
            if pidns is not None:
                sc.setns(pidns, sc.CLONE_NEWPID)
            arguments = sc.CloneArguments(
                flags | sc.CLONE_PARENT, exit_signal=0, cgroup_fd=entry.directory_fd
            )
            pid = arguments.clone3() or child(theirs, handled)
            os.write(writer, pid.to_bytes(4, "little"))
        except OSError as error:
            os.write(writer, b"E" + (error.errno or 0).to_bytes(4, "little"))
        finally:
            os._exit(0)

    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _ALL_SIGNALS)
    try:
        arguments = sc.CloneArguments(0, exit_signal=_SIGCHLD)
        helper = arguments.clone3() or between()
        os.close(arguments.pidfd)
        os.waitpid(helper, 0)
        answer = os.read(reader, 8)
        if len(answer) != 4:
            number = int.from_bytes(answer[1:], "little")
            raise OSError(number, os.strerror(number))
        pid = int.from_bytes(answer, "little")
        return Child(pid, os.pidfd_open(pid), ours)
    except BaseException:
        ours.close()
        raise
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        theirs.close()
        os.close(reader)
        os.close(writer)


def _handled_signals() -> list[int]:
    """Signals whose disposition differs from the default: ignored ones would stay ignored after execve."""
    default = _signal.SIG_DFL
    return [
        number for number in _ALL_SIGNALS if number not in (9, 19) and _signal.getsignal(number) != default
    ]


def settle(
    child: Child,
    cgroup: Cgroup | None,
    program: ProcessPlan,
    plan: Plan | None,
    *,
    limits: bool = False,
    go: Callable[[], object] | None = None,
) -> None:
    """Give the child what only its parent may, then let it go on; on failure it is killed and reaped."""
    try:
        if plan is not None:
            if plan.namespaces.idmap:
                plan.namespaces.idmap.write(child.pid)
            limits = True
        if program.oom_score_adj is not None:
            _write(f"/proc/{child.pid}/oom_score_adj", str(program.oom_score_adj))
        if limits:
            program.set_limits(child.pid)
        if cgroup is not None:
            cgroup.attach(child.pid)
        go() if go else child.sync.send(messages.GO)
    except BrokenPipeError:
        return  # it has failed already and said why: `progress` reads that
    except BaseException as error:
        discard(child)
        if isinstance(error, (OSError, RuntimeFailure)):
            raise
        raise LaunchError(f"spawning: {error}", stage="spawning") from error


def discard(child: Child) -> None:
    """Kill a child that has not started and leave nothing of it."""
    try:  # noqa: SIM105  (contextlib is not imported here: it costs 3 ms)
        _signal.pidfd_send_signal(child.pidfd, 9)
    except ProcessLookupError:
        pass
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | _WALL)
    child.sync.close()
    os.close(child.pidfd)


_WALL = 0x40000000


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
