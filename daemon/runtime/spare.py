"""A spare: one clone of the supervisor that waits for the next container's plan, its namespaces made already.

What it saves is most of a start: clone3 with its namespaces (0.8 ms), and most of the child's five hundred page
copies (3 us each). The plan travels pickled through the sync socket, the network namespace beside it, and the spare
builds the root while the supervisor makes cgroup and pipes, which follow. From there on it is an
ordinary init (init.py).

Model
    There is at most one. It is of the usual kind (new pid, ipc and uts namespaces) and serves plans that want
    just those; any other plan, and any that comes while there is none, is started by `launch.spawn`. Taken,
    it is replaced when the supervisor has had time for the container's other business. Whoever kills it, before or
    after it is taken, fails no start: where it died without a word `launch.spawn` does it. It belongs to nobody:
    nothing but its end of the socket (and mounts of its own, rehearsal.py) is open in it, it cannot be dumped, and
    it dies with the supervisor.

    Only where v1 hierarchies have the limits: there a process enters its cgroups by itself at once, while on v2
    moving any process but a clone's takes an RCU grace period (joining.py). A hybrid's v2 tree, which limits
    nothing, has the spare in the directory above the containers'.

    The mount namespace is made when the plan has come: a copy of an earlier moment would lack what the host has
    mounted since. The root, whose making takes longest, may be told before: it is mounted, attached nowhere, while
    the daemon looks for the rest of the specification. From then on the spare is that container's alone, and is gone
    before anybody else mounts this root: two overlays must not share an upper directory.

Life
    expect (a start is near, or has just been) ──> waiting ──[prepare]──take──> Head ──follow──> a container's init
                                                      └──AGE passed, let_go, end──> gone
"""

from __future__ import annotations

import _pickle
import _socket
import gc
import os
import select

from daemon.runtime import init, launch, messages, rehearsal, spawning
from daemon.runtime import syscalls as sc
from daemon.runtime.errors import LaunchError, Vanished
from daemon.runtime.joining import CgroupEntry
from daemon.runtime.tasks import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import NoReturn

    from daemon.cgroups import Cgroup, Layout
    from daemon.runtime.children import Children
    from daemon.runtime.launch import Child, Plan, Stdio
    from daemon.runtime.loop import Loop, Timer
    from daemon.runtime.operations import OverlayRoot
    from daemon.runtime.spec import Object
else:
    import _signal

PAUSE = 0.02
"""Seconds from a start to the next spare: what a start is followed by is done by then. After a removal it is made
at once."""
AGE = 4.0
"""Seconds that a spare waits: an idle supervisor has none, and a container's /proc/1/stat tells no stale start."""
LIMIT = 60 << 10
_FDS = 256
"""Bytes for received descriptors: stdio, and one of each hierarchy."""
_NAMESPACES = sc.CLONE_NEWPID | sc.CLONE_NEWIPC | sc.CLONE_NEWUTS
_MADE_LATER = sc.CLONE_NEWNS | sc.CLONE_NEWNET


class Head:
    """A spare that has its plan and builds the container's root meanwhile: `follow` or `abandon` it."""

    __slots__ = ("_child", "_plan")

    def __init__(self, child: Child, plan: Plan) -> None:
        self._child: Child | None = child
        self._plan = plan

    def follow(self, stdio: Stdio | None, cgroup: Cgroup) -> Child:
        """Hand over the rest, as `launch.spawn` does; on failure it is gone. Raises Vanished when it was killed."""
        child, self._child = self._child, None
        assert child is not None
        fds = [] if stdio is None else [stdio.stdin, stdio.stdout, stdio.stderr]

        def go() -> None:
            entry = cgroup.entry()
            try:
                _send(child.sync, messages.GO + bytes([len(fds)]), [*fds, *entry.tasks])
            finally:
                entry.close()

        try:
            spawning.settle(child, None, self._plan.process, None, go=go)
        except OSError as error:
            raise Vanished from error
        return child

    def abandon(self) -> None:
        """Harmless after `follow`."""
        child, self._child = self._child, None
        if child is not None:
            spawning.discard(child)


class Spares:
    """The supervisor's side: at most one spare."""

    __slots__ = ("_children", "_loop", "_order", "_owner", "_parent", "_spare", "_spec", "_timer", "_usable")

    def __init__(self, loop: Loop, children: Children, layout: Layout, cgroup_root: str) -> None:
        self._loop, self._children = loop, children
        self._usable = layout.kind != "unified"
        self._parent = f"{layout.unified}/{cgroup_root}" if layout.unified else None
        self._spare: Child | None = None
        self._owner = ""
        """The container whose root the spare has."""
        self._timer: Timer | None = None
        self._order = b""
        self._spec: Object = {}

    def expect(self) -> None:
        """A start is near: have a spare for it."""
        if self._spare is None:
            self._make_after(0)
        else:
            self._drop_after(AGE)

    def prepare(self, container_id: str, root: OverlayRoot, directories: list[str], files: list[str]) -> None:
        """The start of this container is next: let the spare mount its root. Does nothing where there is none."""
        if self._spare is None or self._owner:
            return
        try:
            _send(self._spare.sync, messages.ROOT + rehearsal.write_root(root, directories, files), [])
        except OSError:
            return
        self._owner = container_id

    async def let_go(self, container_id: str) -> None:
        """Return when no spare has this container's root mounted (any more)."""
        spare = self._spare
        if spare is None or self._owner != container_id:
            return
        self._spare, self._owner = None, ""
        self._children.forget(spare.pid)
        gone = self._children.exited(spare.pid)
        _signal.pidfd_send_signal(spare.pidfd, _signal.SIGKILL)
        spare.sync.close()
        os.close(spare.pidfd)
        await gone  # not `discard`, which waits: unmounting may sync a file system

    def end(self) -> None:
        self._usable = False
        self._drop()

    def take(self, container_id: str, plan: Plan, spec: Object, netns_fd: int | None) -> Head | None:
        """The spare, on its way with the plan of `spec`; None where `launch.spawn` has to do it, after `let_go`."""
        self._make_after(PAUSE)
        spare = self._spare
        if not suits(plan, netns_fd):
            return None
        self._spec = rehearsal.typical(spec)
        if spare is None or self._owner not in ("", container_id):
            return None
        order = rehearsal.write(plan, network=netns_fd is not None)
        if len(order) > LIMIT:
            return None
        try:
            _send(spare.sync, order, [] if netns_fd is None else [netns_fd])
        except OSError:
            return None  # it is dead
        self._spare, self._owner = None, ""
        self._children.forget(spare.pid)
        return Head(spare, plan)

    def _schedule(self, seconds: float, what: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.later(seconds, what) if self._usable else None

    def _make_after(self, seconds: float) -> None:
        self._schedule(seconds, self._make)

    def _drop_after(self, seconds: float) -> None:
        self._schedule(seconds, self._drop)

    def _make(self) -> None:
        self._drop_after(AGE)
        if self._spare is not None:
            return
        if self._spec and not self._order:
            self._rehearse()
        entry = CgroupEntry(None)
        order = self._order
        try:
            if self._parent:
                os.makedirs(self._parent, exist_ok=True)
                entry.directory_fd = os.open(self._parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            spare = spawning.clone(
                _NAMESPACES, lambda sync, handled: _wait(sync, handled, order), entry, pidns=None
            )
        except OSError:
            return  # starts go the other way
        finally:
            entry.close()
        self._spare = spare
        self._children.expect(spare.pid, lambda status: self._died(spare))
        self._rehearse()

    def _rehearse(self) -> None:
        """The clone has made the supervisor's own pages copy on write again: have that behind us, too."""
        if self._spec:
            self._order = rehearsal.write(launch.prepare(self._spec, "/"), network=False)

    def _died(self, spare: Child) -> None:
        """Killed by somebody."""
        if self._spare is spare:
            self._spare, self._owner = None, ""
            spare.sync.close()
            os.close(spare.pidfd)

    def _drop(self) -> None:
        self._schedule(0, lambda: None)
        if self._owner:
            start(self.let_go(self._owner))
            return
        spare, self._spare = self._spare, None
        if spare is not None:
            self._children.forget(spare.pid)
            spawning.discard(spare)


def suits(plan: Plan, netns_fd: int | None) -> bool:
    """Does the plan want the namespaces that a spare has? Nor may it depend on the host's name or on hooks."""
    joined = plan.namespaces.joined
    return (
        plan.namespaces.new & ~(sc.CLONE_NEWNET | sc.CLONE_NEWCGROUP) == _NAMESPACES | sc.CLONE_NEWNS
        and (not joined or (set(joined) == {"network"} and netns_fd is not None))
        and plan.hooks is None
        and bool(plan.hostname)
    )


def _send(sync: _socket.socket, message: bytes, fds: list[int]) -> None:
    packed = b"".join(fd.to_bytes(4, "little") for fd in fds)
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if fds else []
    sync.sendmsg([message], ancillary, _socket.MSG_NOSIGNAL)


def _receive(sync: _socket.socket) -> tuple[bytes, list[int]]:
    message, ancillary, _, _ = sync.recvmsg(LIMIT, _FDS, _socket.MSG_CMSG_CLOEXEC)
    packed = ancillary[0][2] if ancillary else b""
    return message, [int.from_bytes(packed[at : at + 4], "little") for at in range(0, len(packed), 4)]


# -- the child's side ------------------------------------------------------------------------------


class SpareStart(init.Start):
    """A start whose cgroups and stdio come with GO: they are being made while the root is."""

    __slots__ = ()

    def wait(self) -> None:
        message, fds = _receive(self.sync)
        if message[:1] != messages.GO:
            raise LaunchError("the runtime went away while the container was starting", stage="waiting")
        streams = message[1]
        for tasks in fds[streams:]:
            os.write(tasks, b"0")
        if streams:
            init.place_standard_streams((fds[0], fds[1], fds[2]))


def _wait(sync: _socket.socket, handled: list[int], last: bytes) -> NoReturn:
    """Let go of what is the supervisor's, rehearse, wait for the plan, become the container's init."""
    try:
        gc.disable()
        sc.prctl(sc.PR_SET_PDEATHSIG, _signal.SIGKILL)
        for number in handled:
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        init.close_all_but([sync.fileno()], 3)
        os.umask(0)
        with open("/proc/self/comm", "wb") as file:
            file.write(b"pyd-spare")
        ready = rehearsal.rehearse(last) if last and not _waiting(sync) else None
        order, fds = _receive(sync)
        if order[:1] == messages.ROOT:
            ready = ready or rehearsal.Ready()
            ready.mount_root(order[1:])
            order, fds = _receive(sync)
        if not order:
            os._exit(0)
        sc.prctl(sc.PR_SET_PDEATHSIG, 0)
        plan, start = _read(sync, order, fds, ready)
    except BaseException:
        os._exit(1)
    init.run(plan, start)


def _waiting(sync: _socket.socket) -> bool:
    """Has the plan come before the rehearsal?"""
    poll = select.poll()
    poll.register(sync.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _read(
    sync: _socket.socket, order: bytes, fds: list[int], ready: rehearsal.Ready | None
) -> tuple[Plan, init.Start]:
    plan, trees, network = _pickle.loads(order)
    rehearsal.restore(plan.root, trees, ready)
    new = plan.namespaces.new & _MADE_LATER
    joined = []
    if network:
        joined.append((sc.CLONE_NEWNET, fds[0]))
        new &= ~sc.CLONE_NEWNET
    return plan, SpareStart(sync, None, [], CgroupEntry(None), joined=joined, unshare=new)
