"""Starting processes: the way from a request to a successful execve, and back when it fails.

    start   plan (→ spare) → state.json → cgroup → pipes → parent's ends to the keeper → clone → progress → running
    exec    record → plan → pipes → keeper → clone → progress

`Starter` makes one process run; it neither waits nor decides what a failed start leaves: its caller
(lifecycle.py) undoes. Own containers go through launch.py, foreign ones through oci.py.
"""

from __future__ import annotations

import os
import sys
import time

from daemon.runtime import launch, protocol
from daemon.runtime.children import Children, WorkFailed
from daemon.runtime.errors import RuntimeFailure, Vanished
from daemon.runtime.keeperlink import KeeperLost, KeeperRefused
from daemon.runtime.launch import Stdio
from daemon.runtime.loop import IN
from daemon.runtime.oci import ForeignFailure
from daemon.runtime.records import start_ticks
from daemon.runtime.server import RequestError
from daemon.runtime.tasks import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from daemon.runtime.hooks import Hooks
    from daemon.runtime.keeperlink import KeeperLink
    from daemon.runtime.loop import Loop
    from daemon.runtime.members import Container, Member
    from daemon.runtime.oci import ForeignRuntime
    from daemon.runtime.spare import Spares

    Registered = Callable[[Container, Member], None]
    RunHooks = Callable[..., Awaitable[None]]
    Spawn = Callable[[Stdio | None], launch.Child]

_HOOK_STATUS = {
    "prestart": "creating",
    "createRuntime": "creating",
    "poststart": "running",
    "poststop": "stopped",
}


def pipes(*, open_stdin: bool) -> tuple[Stdio, dict[str, int]]:
    """(the child's ends, the parent's by name).

    The child gets its output pipes opened for reading too: as long as it has them, writing to them
    waits instead of raising SIGPIPE while nobody else reads (supervisor and keeper both killed).
    """
    ends: dict[str, int] = {}
    stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) if not open_stdin else -1
    if open_stdin:
        stdin, ends["stdin"] = os.pipe2(os.O_CLOEXEC)
    outputs = []
    for name in ("stdout", "stderr"):
        ends[name], write = os.pipe2(os.O_CLOEXEC)
        outputs.append(os.open(f"/proc/self/fd/{write}", os.O_RDWR | os.O_CLOEXEC))
        os.close(write)
    return Stdio(stdin, *outputs), ends


def close_stdio(stdio: Stdio | None) -> None:
    if stdio is not None:
        protocol.close_all((stdio.stdin, stdio.stdout, stdio.stderr))


class Starter:
    def __init__(
        self,
        loop: Loop,
        children: Children,
        keeper: KeeperLink,
        spares: Spares,
        begun: Callable[[Container], None],
        registered: Registered,
    ) -> None:
        self._loop = loop
        self._children = children
        self._keeper = keeper
        self._spares = spares
        self._begun = begun
        self._registered = registered

    # -- stdio ---------------------------------------------------------------------------------------------

    def _make_stdio(self, member: Member, *, open_stdin: bool) -> Stdio | None:
        """Pipes, or nothing for a tty; the parent's ends are `member.fds`."""
        if member.stdio["tty"]:
            return None
        stdio, member.fds = pipes(open_stdin=open_stdin)
        member.stdio["inodes"] = {name: os.fstat(fd).st_ino for name, fd in member.fds.items()}
        return stdio

    async def hand_over(self, container_id: str, member: Member, *, recover: bool = False) -> None:
        """Gives the keeper duplicates of `member.fds`. Raises RequestError when it refuses (a wrong log option)."""
        names = list(member.fds)
        fds = list(member.fds.values())
        if member.pidfd >= 0:
            names, fds = [*names, "pidfd"], [*fds, member.pidfd]
        stdio = {name: member.stdio[name] for name in ("tty", "closes_stdin", "log")}
        try:
            reply = await self._keeper.call(
                "stdio",
                fds,
                id=container_id,
                exec_id=member.exec_id,
                names=names,
                slots=member.stdio.get("slots"),
                recover=recover,
                **stdio,
            )
            member.stdio["slots"] = reply["slots"]
        except KeeperLost:
            return  # the restarted keeper is given everything anew
        except KeeperRefused as error:
            raise RequestError(error.kind, str(error)) from error

    # -- own containers --------------------------------------------------------------------------------------

    async def native(
        self, container: Container, spec: dict[str, Any], *, open_stdin: bool, netns_fd: int | None
    ) -> None:
        plan = launch.prepare(spec, container.bundle, keyring=container.id)
        head = self._spares.take(container.id, plan, spec, netns_fd)
        if head is None:
            await self._spares.let_go(container.id)

        def spawn(stdio: Stdio | None) -> launch.Child:
            return launch.spawn(plan, stdio, cgroup=container.cgroup, netns_fd=netns_fd)

        def follow(stdio: Stdio | None) -> launch.Child:
            assert head is not None
            return head.follow(stdio, container.cgroup)

        ways: list[Spawn] = [spawn] if head is None else [follow, spawn]
        run_hooks = self._hooks(container, plan.hooks)
        try:
            self._begun(container)
            container.cgroup.create((spec.get("linux") or {}).get("resources") or {})
            await self._run(container, container.init, ways, run_hooks, open_stdin=open_stdin)
        finally:
            if head is not None:
                head.abandon()
        await run_hooks("poststart")

    async def native_exec(
        self,
        container: Container,
        member: Member,
        process: dict[str, Any],
        spec: dict[str, Any],
        *,
        open_stdin: bool,
    ) -> None:
        plan = launch.prepare_exec(process, spec, container.id)

        def spawn(stdio: Stdio | None) -> launch.Child:
            return launch.spawn_exec(
                plan, stdio, init_pidfd=container.init.pidfd, cgroup=container.cgroup, gate=False
            )

        await self._run(container, member, [spawn], self._hooks(container, None), open_stdin=open_stdin)

    def _hooks(self, container: Container, hooks: Hooks | None) -> RunHooks:
        """Hooks may take as long as they like, so a fork runs them."""
        if hooks is not None:
            hooks.state = {"ociVersion": "1.2.0", "id": container.id, "bundle": container.bundle}

        async def run_kind(kind: str) -> None:
            if hooks is not None and hooks.has(kind):
                pid, status = container.init.pid, _HOOK_STATUS[kind]
                await self._children.offload(lambda: hooks.run(kind, pid=pid, status=status))

        async def run(*kinds: str) -> None:
            for kind in kinds:
                await run_kind(kind)

        return run

    async def poststop(self, container: Container, spec: dict[str, Any]) -> None:
        """The container is removed; failures of its hooks change nothing any more."""
        from daemon.runtime import hooks

        try:
            await self._hooks(container, hooks.plan(spec))("poststop")
        except (RuntimeFailure, WorkFailed) as error:
            print(f"pyd-supervisor: {container.id}: {error}", file=sys.stderr, flush=True)

    async def _run(
        self,
        container: Container,
        member: Member,
        ways: list[Spawn],
        run_hooks: RunHooks,
        *,
        open_stdin: bool,
    ) -> None:
        """Start it in one of `ways`: the next one where a clone vanishes. The child's ends of the pipes stay open
        meanwhile, or the keeper would take the death of the first for the end of the output."""
        stdio = self._make_stdio(member, open_stdin=open_stdin)
        handed = Future()
        try:
            if stdio is not None:
                self._begin_hand_over(container.id, member, handed)
            for spawn in ways:
                try:
                    await self._run_clone(container, member, spawn(stdio), handed, run_hooks)
                    break
                except Vanished:
                    if spawn is ways[-1] or "tty" in member.fds:
                        raise
                    await self._gone(member)
                    member.begin_anew()
        finally:
            close_stdio(stdio)
        await handed

    @staticmethod
    async def _gone(member: Member) -> None:
        """Its mounts and cgroups are let go of when it is reaped, not when its socket is closed."""
        if member.pidfd >= 0 and member.exit_status is None:
            member.kill()
            await member.ended

    async def _run_clone(
        self, container: Container, member: Member, child: launch.Child, handed: Future, run_hooks: RunHooks
    ) -> None:
        self._note(container, member, child.pid, child.pidfd)
        try:
            await self._until_started(container.id, member, child, handed, run_hooks)
        finally:
            self._loop.remove(child.sync.fileno())
            child.sync.close()

    def _begin_hand_over(self, container_id: str, member: Member, handed: Future) -> None:
        from daemon.runtime.tasks import start

        async def work() -> None:
            try:
                await self.hand_over(container_id, member)
            except RequestError as error:
                handed.fail(error)
            else:
                handed.set()

        start(work())

    def _note(self, container: Container, member: Member, pid: int, pidfd: int) -> None:
        """There is a process: on disk with it, and its end is waited for from now on."""
        member.pid, member.pidfd = pid, pidfd
        member.ticks = start_ticks(pid) or 0
        member.started_at_ns = time.time_ns()
        self._registered(container, member)
        self._keeper.send("pidfd", [pidfd], id=container.id, exec_id=member.exec_id)

    async def _until_started(
        self, container_id: str, member: Member, child: launch.Child, handed: Future, run_hooks: RunHooks
    ) -> None:
        while True:
            report = launch.progress(child)
            if report is None:
                await self._readable(child.sync.fileno())
            elif report.kind == "console":
                member.fds["tty"] = report.fd
                self._resize(member)
                self._begin_hand_over(container_id, member, handed)
            elif report.kind == "hooks":
                await run_hooks("prestart", "createRuntime")
                launch.go(child)
            elif report.kind == "ready":
                launch.go(child)
            elif report.kind == "error":
                raise report.error or RuntimeFailure("the process could not be started")
            else:
                break
        if member.stdio["tty"] and "tty" not in member.fds:
            raise RuntimeFailure("the process was started without its tty")
        member.started_at_ns = time.time_ns()

    @staticmethod
    def _resize(member: Member) -> None:
        size = member.stdio.get("console_size")
        if size:
            member.resize(size[0], size[1])

    def _readable(self, fd: int) -> Future:
        future = Future()

        def ready(events: int) -> None:
            self._loop.remove(fd)
            future.set()

        self._loop.add(fd, IN, ready)
        return future

    # -- foreign containers ------------------------------------------------------------------------------------

    async def foreign(self, container: Container, runtime: ForeignRuntime, *, open_stdin: bool) -> None:
        await self._run_foreign(
            container,
            container.init,
            lambda stdio: runtime.create(container.id, container.bundle, stdio),
            open_stdin,
        )
        await runtime.call("start", container.id)

    async def foreign_exec(
        self,
        container: Container,
        member: Member,
        process: dict[str, Any],
        runtime: ForeignRuntime,
        *,
        open_stdin: bool,
    ) -> None:
        await self._run_foreign(
            container, member, lambda stdio: runtime.exec(container.id, process, stdio), open_stdin
        )

    async def _run_foreign(
        self, container: Container, member: Member, create: Callable[[Stdio | None], Any], open_stdin: bool
    ) -> None:
        stdio = self._make_stdio(member, open_stdin=open_stdin)
        handed = Future()
        if stdio is not None:
            self._begin_hand_over(container.id, member, handed)
        try:
            pid, master = await create(stdio)
        finally:
            close_stdio(stdio)
        if master >= 0:
            member.fds["tty"] = master
            self._resize(member)
            self._begin_hand_over(container.id, member, handed)
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError as error:
            raise ForeignFailure(f"process {pid} is gone") from error
        self._note(container, member, pid, pidfd)
        await handed
