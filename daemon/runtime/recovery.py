"""A new supervisor takes up what its killed predecessor was doing.

    state.json says          and the process       then
    starting                 whatever it does      killed, all of it removed: the start was never confirmed
    running                  lives                 watched by its pidfd; its stdio is the keeper's
    running                  is dead               its exit is learnt (exits.py) or 255, recorded, announced
    running, and exit.json   -                     stopped; announced again unless deleted

Pidfds come from the keeper, which keeps them for this. When the keeper was killed as well, pipes are
opened again through /proc/<pid>/fd. What cannot be kept then: ttys (their master is gone, their processes
got SIGHUP), an open stdin (its reader saw the end), and the beginning of a line that was not yet logged.
"""

from __future__ import annotations

import os
import signal

from daemon.cgroups import open_cgroup
from daemon.runtime import exits
from daemon.runtime.lifecycle import Lifecycle
from daemon.runtime.loop import HUP, IN
from daemon.runtime.members import Container, Member
from daemon.runtime.protocol import close_all
from daemon.runtime.server import RequestError
from daemon.runtime.tasks import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daemon.runtime.protocol import Message

_ENDS = {"stdin": (0, os.O_WRONLY), "stdout": (1, os.O_RDONLY), "stderr": (2, os.O_RDONLY)}
_INIT_REAPS_WITHIN = 1.0


def kill_clones() -> None:
    """Kills what a predecessor had cloned and not yet brought to execve: it still has our command line.

    Such a clone may be in no cgroup yet, and its pid on no disk. We hold the lock, so that no living
    supervisor of this root is among them."""
    with open("/proc/self/cmdline", "rb") as file:
        ours = file.read()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if file.read() == ours:
                    os.kill(int(name), signal.SIGKILL)
        except OSError:
            continue


class Held:
    """What the keeper holds of one process."""

    __slots__ = ("fds", "message")

    def __init__(self, message: Message, fds: list[int]) -> None:
        self.message = message
        self.fds = dict(zip(message["names"], fds, strict=True))


class Recovery:
    def __init__(self, lifecycle: Lifecycle) -> None:
        self._life = lifecycle
        self._held: dict[tuple[str, str | None], Held] = {}

    def held(self, message: Message, fds: list[int]) -> None:
        """The keeper tells of a process."""
        self._held[message["id"], message["exec_id"]] = Held(message, fds)

    async def run(self) -> None:
        kill_clones()
        for container_id in self._life.records.containers():
            state = self._life.records.state(container_id)
            if state is not None:
                await self._container(container_id, state)
        for (container_id, exec_id), held in self._held.items():
            close_all(held.fds.values())
            self._life.keeper.send("forget", id=container_id, exec_id=exec_id)

    async def _container(self, container_id: str, state: dict[str, Any]) -> None:
        life = self._life
        init = Member.from_record(None, state["init"])
        cgroup = open_cgroup(life.layout, state["cgroup"])
        container = Container(container_id, state["bundle"], state["cgroup"], cgroup, init)
        container.foreign, container.shared_pids = state["foreign"], state["shared_pids"]
        life.containers[container_id] = container
        if state["phase"] == "starting":
            await self._half_started(container)
            return
        container.phase = "running"
        ended = life.records.exit(container_id)
        if ended is not None:
            init.exit_status, init.finished_at_ns = ended["exit_status"], ended["finished_at_ns"]
            container.oom_killed, container.phase = ended["oom_killed"], "stopped"
        for exec_id, record in life.records.execs(container_id).items():
            member = Member.from_record(exec_id, record)
            if member.pid:
                member.stdio["started"] = True
                container.execs[exec_id] = member
            else:
                life.records.forget_exec(container_id, exec_id)
        if container.phase == "running":
            container.paused = cgroup.frozen()
            container.oom_kills = cgroup.oom_kills()
            life._watch_memory(container)
        for member in [*container.execs.values(), init]:
            await self._member(container, member)

    async def _half_started(self, container: Container) -> None:
        """Its init may exist and may even have come to execve; nobody was told, so it goes."""
        init = container.init
        self._take_held(container, init)
        if init.pidfd < 0:
            self._open_pidfd(init)
        init.kill()
        init.exit_status = exits.UNKNOWN
        try:
            await self._life._undo(container)
        except RequestError as error:
            print(f"pyd-supervisor: {container.id}: {error}", flush=True)

    def _take_held(self, container: Container, member: Member) -> bool:
        held = self._held.pop((container.id, member.exec_id), None)
        if held is None:
            return False
        member.pidfd = held.fds.pop("pidfd", -1)
        member.fds = held.fds
        member.stdio["slots"] = held.message["slots"]
        return True

    @staticmethod
    def _open_pidfd(member: Member) -> None:
        """A pidfd of exactly this process, or none."""
        if not exits.alive(member.pid, member.ticks):
            return
        try:
            pidfd = os.pidfd_open(member.pid)
        except ProcessLookupError:
            return
        if exits.alive(member.pid, member.ticks):
            member.pidfd = pidfd
        else:
            os.close(pidfd)

    async def _member(self, container: Container, member: Member) -> None:
        held = self._take_held(container, member)
        if member.exit_status is not None:
            member.ended.set()
            start(self._life.announce(container, member))
            return
        if member.pidfd < 0:
            self._open_pidfd(member)
        if not held and member.pidfd >= 0:
            self._reopen(member)
            await self._life.starter.hand_over(container.id, member, recover=True)
        if member.pidfd < 0:
            self._life.ended(container, member, exits.of_zombie(member.pid, member.ticks) or exits.UNKNOWN)
        else:
            self._watch(container, member)

    @staticmethod
    def _reopen(member: Member) -> None:
        """Opens the ends of pipes that nobody of us holds any more; only what still is the same pipe."""
        for name, inode in member.stdio.get("inodes", {}).items():
            number, flags = _ENDS[name]
            path = f"/proc/{member.pid}/fd/{number}"
            try:
                if os.stat(path).st_ino == inode:
                    member.fds[name] = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                continue

    def _watch(self, container: Container, member: Member) -> None:
        """Waits for the end of a process that is not our child: readable when dead, HUP when reaped."""
        fd = os.dup(member.pidfd)
        loop = self._life.loop

        def finish() -> None:
            if loop.watching(fd):
                loop.remove(fd)
                status = exits.of_pidfd(fd)
                os.close(fd)
                self._life.ended(container, member, exits.UNKNOWN if status is None else status)

        def ready(events: int) -> None:
            status = exits.of_zombie(member.pid, member.ticks)
            if status is None:
                status = exits.of_pidfd(fd)
            if status is not None:
                loop.remove(fd)
                os.close(fd)
                self._life.ended(container, member, status)
            elif events & HUP:
                finish()
            else:
                loop.modify(fd, 0)
                loop.later(_INIT_REAPS_WITHIN, finish)

        loop.add(fd, IN, ready)

    def keeper_restarted(self) -> None:
        """A new keeper has nothing: it is given our duplicates, and takes up its predecessor's journal."""
        for container in self._life.containers.values():
            for member in container.members():
                if member.fds and not member.released:
                    start(self._hand_over_again(container, member))

    async def _hand_over_again(self, container: Container, member: Member) -> None:
        try:
            await self._life.starter.hand_over(container.id, member, recover=True)
        except RequestError as error:
            print(f"pyd-supervisor: {container.id}: {error}", flush=True)
