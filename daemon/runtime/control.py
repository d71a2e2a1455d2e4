"""What is done to running containers: signals, pausing, limits, the size of ttys.

Own containers are controlled through pidfds and cgroups, foreign ones by their runtime. Cgroup calls that
may wait for the kernel (freezing) are done in a fork.
"""

from __future__ import annotations

import signal

from daemon.cgroups import CgroupError
from daemon.runtime.children import WorkFailed
from daemon.runtime.oci import ForeignFailure
from daemon.runtime.server import RequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.runtime.lifecycle import Lifecycle
    from daemon.runtime.members import Container
    from daemon.runtime.protocol import Message


class Control:
    def __init__(self, lifecycle: Lifecycle) -> None:
        self._life = lifecycle

    async def kill(self, message: Message) -> Message:
        container = self._life.find_running(message["id"])
        number = int(message["signal"])
        if message["everything"]:
            await self._work(lambda: container.cgroup.kill(number))
            return {}
        member = container.member(message["exec_id"])
        if member is None or not member.running:
            raise RequestError("not_running", f"no such process in container {container.id} is running")
        try:
            if container.foreign is not None and member is container.init:
                await self._foreign_call(container, "kill", container.id, str(number))
            else:
                signal.pidfd_send_signal(member.pidfd, number)
                if number == signal.SIGKILL and member is container.init:
                    container.cgroup.thaw_below()  # init ends after all of its namespace have
        except ProcessLookupError:
            raise RequestError("not_running", f"container {container.id} is not running") from None
        except (OSError, ValueError) as error:
            raise RequestError("refused", f"cannot send signal {number}: {error}") from error
        return {}

    async def _foreign_call(self, container: Container, *arguments: str) -> None:
        assert container.foreign is not None
        try:
            await self._life.foreign(container.foreign).call(*arguments)
        except ForeignFailure as error:
            running = container.init.running
            raise RequestError("refused" if running else "not_running", str(error)) from error

    async def _work(self, work: Callable[[], object]) -> None:
        try:
            await self._life.children.offload(work)
        except WorkFailed as error:
            raise RequestError("refused", str(error)) from error

    async def pause(self, message: Message) -> Message:
        container = self._life.find_running(message["id"])
        if container.paused:
            raise RequestError("refused", f"container {container.id} is already paused")
        if container.foreign is not None:
            await self._foreign_call(container, "pause", container.id)
        else:
            await self._work(container.cgroup.freeze)
        container.paused = container.phase == "running"
        return {}

    async def resume(self, message: Message) -> Message:
        container = self._life.find_running(message["id"])
        if not container.paused:
            raise RequestError("refused", f"container {container.id} is not paused")
        if container.foreign is not None:
            await self._foreign_call(container, "resume", container.id)
        else:
            await self._work(container.cgroup.thaw)
        container.paused = False
        return {}

    async def update(self, message: Message) -> Message:
        container = self._life.find_running(message["id"])
        try:
            if container.foreign is not None:
                await self._life.foreign(container.foreign).update(container.id, message["resources"])
            else:
                container.cgroup.update(message["resources"])
        except (CgroupError, ForeignFailure) as error:
            raise RequestError("refused", str(error)) from error
        return {}

    async def resize(self, message: Message) -> Message:
        container = self._life.find(message["id"])
        member = container.member(message["exec_id"])
        if member is None or not member.running:
            raise RequestError("not_running", f"no such process in container {container.id} is running")
        try:
            member.resize(int(message["rows"]), int(message["cols"]))
        except (OSError, ValueError) as error:
            raise RequestError("refused", f"cannot resize: {error}") from error
        return {}
