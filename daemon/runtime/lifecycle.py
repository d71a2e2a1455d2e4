"""What the supervisor does with containers: start, exec, signals, limits, the end of processes, removal.

    (nothing) ──start──> starting ──execve──> running ⇄ paused ──exit──> stopped ──delete──> (nothing)
                            └──failure: undone──> (nothing)

An end is handled in one order: exit.json (or the exec's record) is written, the keeper drains the
output, the daemon is told, the keeper lets the clients go. A start over a stopped container removes what
is left of it first.
"""

from __future__ import annotations

import json
import os
import re
import resource
import time

from daemon.cgroups import CgroupError, Layout, drain_oom_event, open_cgroup
from daemon.runtime import exits
from daemon.runtime.children import WorkFailed
from daemon.runtime.errors import LaunchError, RuntimeFailure
from daemon.runtime.keeperlink import KeeperLink, KeeperLost, KeeperRefused
from daemon.runtime.loop import IN
from daemon.runtime.members import Container, Member
from daemon.runtime.oci import ForeignFailure, ForeignRuntime
from daemon.runtime.records import Records, remove_tree
from daemon.runtime.rootfs import overlay_root
from daemon.runtime.server import RequestError
from daemon.runtime.spare import Spares
from daemon.runtime.starting import Starter
from daemon.runtime.tasks import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from daemon.runtime.children import Children
    from daemon.runtime.loop import Loop
    from daemon.runtime.protocol import Message

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,255}")


def check_name(name: object, what: str) -> str:
    """Names become file names: no separators, no leading dot."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestError("refused", f"invalid {what}: {name!r}")
    return name


def load_spec(bundle: str) -> dict[str, Any]:
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            spec = json.loads(file.read())
    except (OSError, ValueError) as error:
        raise RequestError("launch", f"cannot read {path}: {error}") from error
    if not isinstance(spec, dict):
        raise RequestError("launch", f"{path} holds no object")
    return spec


class Lifecycle:
    def __init__(
        self,
        loop: Loop,
        *,
        exec_root: str,
        cgroup_root: str,
        layout: Layout,
        children: Children,
        keeper: KeeperLink,
        publish: Callable[[Message], None],
    ) -> None:
        self.loop = loop
        self.exec_root = exec_root
        self.cgroup_root = cgroup_root
        self.layout = layout
        self.keeper = keeper
        self.publish = publish
        self.records = Records(exec_root)
        self.children = children
        self.containers: dict[str, Container] = {}
        self.spares = Spares(loop, children, layout, cgroup_root)
        self.starter = Starter(loop, children, keeper, self.spares, self._save, self._registered)
        self.descriptor_limit = resource.getrlimit(resource.RLIMIT_NOFILE)

    def find(self, container_id: object) -> Container:
        container = self.containers.get(container_id) if isinstance(container_id, str) else None
        if container is None or container.phase == "starting":
            raise RequestError("not_running", f"container {container_id} is not running")
        return container

    def find_running(self, container_id: object) -> Container:
        container = self.find(container_id)
        if container.phase != "running":
            raise RequestError("not_running", f"container {container_id} is not running")
        return container

    def foreign(self, argv: list[str]) -> ForeignRuntime:
        return ForeignRuntime(self.loop, self.children, argv, self.exec_root)

    # -- start -----------------------------------------------------------------------------------------------

    def prepare(self, message: Message) -> None:
        """The daemon is about to start this container, whose root this is."""
        container_id = check_name(message["id"], "container id")
        if container_id not in self.containers:
            root = overlay_root(message["overlay"], "")
            self.spares.prepare(container_id, root, message["directories"], message["files"])

    async def start(self, message: Message, netns_fd: int | None) -> Message:
        container_id = check_name(message["id"], "container id")
        existing = self.containers.get(container_id)
        if existing is not None:
            if existing.phase != "stopped":
                raise RequestError("refused", f"container {container_id} is {existing.phase} already")
            await self._clear(existing)
        bundle: str = message["bundle"]
        spec = load_spec(bundle)
        container = self._new(container_id, bundle, spec, message)
        self.containers[container_id] = container
        try:
            await self._launch(container, spec, message, netns_fd)
            container.phase = "running"
            self._save(container)
        except BaseException as error:
            await self._undo(container)
            raise _as_launch_failure(error) from error
        self.loop.defer(lambda: self._started(container))
        return {"pid": container.init.pid, "started_at_ns": container.init.started_at_ns}

    def _started(self, container: Container) -> None:
        """What the answer need not wait for."""
        if container.phase == "running":
            self._watch_memory(container)
            if container.init.exit_status is not None:
                start(self._finish(container, container.init))

    def _save(self, container: Container) -> None:
        self.records.save_state(container.id, container.record())

    def _new(self, container_id: str, bundle: str, spec: dict[str, Any], message: Message) -> Container:
        linux = spec.get("linux") or {}
        path = (linux.get("cgroupsPath") or f"{self.cgroup_root}/{container_id}").strip("/")
        init = Member(None, _stdio(message, closes_stdin=bool(message["stdin_once"])))
        container = Container(container_id, bundle, path, open_cgroup(self.layout, path), init)
        namespaces = [n.get("type") for n in linux.get("namespaces") or [] if not n.get("path")]
        container.shared_pids = "pid" not in namespaces
        container.foreign = message["runtime"]
        container.hooked = bool(spec.get("hooks"))
        return container

    async def _launch(
        self, container: Container, spec: dict[str, Any], message: Message, netns_fd: int | None
    ) -> None:
        open_stdin = bool(message["open_stdin"])
        if container.foreign is None:
            self._complete(spec, message.get("console_size"))
            await self.starter.native(container, spec, open_stdin=open_stdin, netns_fd=netns_fd)
            return
        if netns_fd is not None:
            self._put_namespace(container.bundle, spec, netns_fd)
        self._save(container)
        self.children.curious += 1
        try:
            await self.starter.foreign(container, self.foreign(container.foreign), open_stdin=open_stdin)
        finally:
            self.children.curious -= 1

    def _complete(self, spec: dict[str, Any], console_size: list[int] | None) -> None:
        """What the supervisor's own state must not leak into: its raised descriptor limit."""
        process = spec.get("process")
        if not isinstance(process, dict):
            return
        limits = process.setdefault("rlimits", [])
        if isinstance(limits, list) and not any(
            isinstance(limit, dict) and limit.get("type") == "RLIMIT_NOFILE" for limit in limits
        ):
            soft, hard = self.descriptor_limit
            limits.append({"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard})
        if console_size and process.get("terminal"):
            process["consoleSize"] = {"height": console_size[0], "width": console_size[1]}

    @staticmethod
    def _put_namespace(bundle: str, spec: dict[str, Any], netns_fd: int) -> None:
        """A foreign runtime reads config.json itself: the namespace is named there by our descriptor."""
        namespaces = spec.setdefault("linux", {}).setdefault("namespaces", [])
        namespaces[:] = [entry for entry in namespaces if entry.get("type") != "network"]
        namespaces.append({"type": "network", "path": f"/proc/{os.getpid()}/fd/{netns_fd}"})
        path = os.path.join(bundle, "config.json")
        with open(f"{path}.new", "w") as file:
            json.dump(spec, file)
        os.rename(f"{path}.new", path)

    async def _undo(self, container: Container) -> None:
        """A start failed: nothing of it stays."""
        init = container.init
        if init.pidfd >= 0 and init.exit_status is None:
            init.kill()
            await init.ended
        await self._remove_kernel_objects(container)
        self.keeper.send("forget", id=container.id, exec_id=None)
        init.close()
        self.records.forget(container.id)
        self.containers.pop(container.id, None)

    # -- exec ------------------------------------------------------------------------------------------------

    async def exec(self, message: Message) -> Message:
        container = self.find_running(message["id"])
        exec_id = check_name(message["exec_id"], "exec id")
        if container.paused:
            raise RequestError("refused", f"container {container.id} is paused")
        if exec_id in container.execs:
            raise RequestError("refused", f"exec {exec_id} exists already")
        member = Member(exec_id, _stdio(message, closes_stdin=True))
        container.execs[exec_id] = member
        process = message["process"]
        if message.get("console_size") and process.get("terminal"):
            rows, columns = message["console_size"]
            process["consoleSize"] = {"height": rows, "width": columns}
        try:
            await self._launch_exec(container, member, process, open_stdin=bool(message["open_stdin"]))
        except BaseException as error:
            await self._undo_exec(container, member)
            if isinstance(error, (LaunchError, OSError)) and container.init.ending():
                # the kernel killed the new process together with the init: no fault of the command
                raise RequestError("not_running", f"container {container.id} is not running") from error
            raise _as_launch_failure(error) from error
        if member.exit_status is not None:
            self.loop.defer(lambda: start(self._finish(container, member)))
        else:
            member.stdio["started"] = True
        return {"pid": member.pid, "started_at_ns": member.started_at_ns}

    async def _launch_exec(
        self, container: Container, member: Member, process: dict[str, Any], *, open_stdin: bool
    ) -> None:
        if container.foreign is None:
            spec = load_spec(container.bundle)
            await self.starter.native_exec(container, member, process, spec, open_stdin=open_stdin)
            return
        self.children.curious += 1
        try:
            runtime = self.foreign(container.foreign)
            await self.starter.foreign_exec(container, member, process, runtime, open_stdin=open_stdin)
        finally:
            self.children.curious -= 1

    async def _undo_exec(self, container: Container, member: Member) -> None:
        if member.pidfd >= 0 and member.exit_status is None:
            member.kill()
            await member.ended
        # The daemon tells the client why: its connection must outlive this.
        self.keeper.send("forget", id=container.id, exec_id=member.exec_id, hand_back=True)
        self._forget_exec(container, member)

    def _forget_exec(self, container: Container, member: Member) -> None:
        assert member.exec_id is not None
        member.close()
        container.execs.pop(member.exec_id, None)
        self.records.forget_exec(container.id, member.exec_id)

    def acknowledge(self, container_id: str, exec_id: str) -> None:
        """The daemon knows the end of this exec."""
        container = self.containers.get(container_id)
        member = container.execs.get(exec_id) if container else None
        if container is not None and member is not None and member.released:
            self._forget_exec(container, member)

    # -- the end of a process ----------------------------------------------------------------------------------

    def _registered(self, container: Container, member: Member) -> None:
        """A member has a pid. An init's is not written yet: until it runs it is found by its cgroup, or by
        being a clone of ours (recovery.py)."""
        if member.exec_id is not None:
            self.records.save_exec(container.id, member.exec_id, member.record())
        self.children.expect(member.pid, lambda status: self.ended(container, member, exits.decode(status)))

    def ended(self, container: Container, member: Member, status: int) -> None:
        """A process is dead (and reaped, by us or somebody else)."""
        if member.exit_status is not None:
            return
        member.exit_status, member.finished_at_ns = status, time.time_ns()
        starting = container.phase == "starting" if member.exec_id is None else "started" not in member.stdio
        if starting:
            member.ended.set()  # start() is still under way, and goes on to `_finish` if it succeeds
        else:
            start(self._finish(container, member))

    async def _finish(self, container: Container, member: Member) -> None:
        if member.exec_id is None:
            await self._container_ended(container)
        else:
            self.records.save_exec(container.id, member.exec_id, member.record())
        member.ended.set()
        await self.announce(container, member)

    async def _container_ended(self, container: Container) -> None:
        container.phase, container.paused = "stopped", False
        self._check_memory(container)
        container.stop_watching()
        if container.shared_pids:
            await self._kill_stragglers(container)
        self.records.save_exit(container.id, self.exit_record(container))

    @staticmethod
    def exit_record(container: Container) -> dict[str, Any]:
        init = container.init
        return {
            "exit_status": init.exit_status,
            "finished_at_ns": init.finished_at_ns,
            "oom_killed": container.oom_killed,
        }

    async def announce(self, container: Container, member: Member) -> None:
        """After the output is drained: tells the daemon, then lets the clients go."""
        while self.keeper.connected:
            try:
                await self.keeper.call("drain", id=container.id, exec_id=member.exec_id)
                break
            except KeeperLost:
                continue
            except KeeperRefused:
                break
        if member.released:
            return
        member.released = True
        self.publish(
            {
                "event": "exit",
                "id": container.id,
                "exec_id": member.exec_id,
                "pid": member.pid,
                "status": member.exit_status,
                "oom_killed": container.oom_killed,
                "finished_at_ns": member.finished_at_ns,
            }
        )
        self.keeper.send("release", id=container.id, exec_id=member.exec_id)
        member.close()

    # -- memory ------------------------------------------------------------------------------------------------

    def _watch_memory(self, container: Container) -> None:
        """Listens for the OOM killer; no descriptor where the kernel has no such event."""
        if container.foreign is not None and not container.cgroup.exists():
            return
        try:
            fd = container.cgroup.oom_event_fd()
        except CgroupError:
            return
        if fd is None:
            return

        def stop() -> None:
            container.stop_watching = lambda: None
            self.loop.remove(fd)
            os.close(fd)

        def ready(events: int) -> None:
            drain_oom_event(fd)
            self._check_memory(container)

        container.stop_watching = stop
        self.loop.add(fd, IN, ready)

    def _check_memory(self, container: Container) -> None:
        kills = container.cgroup.oom_kills()
        if kills > container.oom_kills:
            container.oom_kills = kills
            container.oom_killed = True
            self.publish({"event": "oom", "id": container.id})

    # -- removal -----------------------------------------------------------------------------------------------

    async def delete(self, message: Message) -> Message:
        container_id = check_name(message["id"], "container id")
        container = self.containers.get(container_id)
        if container is None:
            await self.spares.let_go(container_id)
            self.keeper.send("forget", id=container_id, exec_id=None, all=True)
            bundle = self.records.directory(container_id)
        elif container.phase != "stopped":
            raise RequestError("refused", f"container {container_id} is {container.phase}")
        else:
            await self._clear(container)
            bundle = container.bundle
            await self._poststop(container)
        if self.records.owns(bundle):
            remove_tree(bundle)
        self.spares.expect()  # who removes one often starts another
        return {}

    async def _poststop(self, container: Container) -> None:
        if container.foreign is None and container.hooked:
            try:
                spec = load_spec(container.bundle)
            except RequestError:
                return  # the bundle is gone already, and its hooks with it
            if spec.get("hooks"):
                await self.starter.poststop(container, spec)

    async def _clear(self, container: Container) -> None:
        """Removes everything of a stopped container but its bundle."""
        await self._remove_kernel_objects(container)
        for member in container.members():
            member.close()
            if not member.released and member.exec_id is not None:
                self.keeper.send("forget", id=container.id, exec_id=member.exec_id)
        container.stop_watching()
        self.records.forget(container.id)
        self.containers.pop(container.id, None)

    async def _remove_kernel_objects(self, container: Container) -> None:
        container.stop_watching()
        if container.foreign is not None:
            await self._foreign_delete(container)
        cgroup = container.cgroup
        try:
            if cgroup.pids():
                await self._kill_stragglers(container)
            cgroup.delete()
        except CgroupError as error:
            raise RequestError("internal", str(error)) from error

    async def _foreign_delete(self, container: Container) -> None:
        """Its runtime may not know it (any more); what is left is removed by the caller."""
        assert container.foreign is not None
        try:
            await self.foreign(container.foreign).call("delete", "--force", container.id)
        except ForeignFailure:
            return

    async def _kill_stragglers(self, container: Container) -> None:
        """Processes that outlive the init, where it was no pid namespace's init."""
        try:
            if container.cgroup.pids():
                await self.children.offload(container.cgroup.kill)
        except (CgroupError, WorkFailed) as error:
            print(f"pyd-supervisor: {container.id}: {error}", flush=True)


def _stdio(message: Message, *, closes_stdin: bool) -> dict[str, Any]:
    return {
        "tty": bool(message["tty"]),
        "closes_stdin": closes_stdin,
        "log": message.get("log"),
        "console_size": message.get("console_size"),
    }


def _as_launch_failure(error: BaseException) -> BaseException:
    """What the client is told of a failed start."""
    if isinstance(error, (LaunchError, ForeignFailure)):
        return RequestError("launch", str(error), error.exit_code)
    if isinstance(error, (RuntimeFailure, CgroupError, WorkFailed, OSError)):
        return RequestError("launch", str(error))
    return error
