"""`exec`: further processes in a running container. Records live as long as the daemon and the container."""

from __future__ import annotations

import asyncio
import base64
import secrets
import socket
from dataclasses import dataclass, field
from typing import Any

from daemon.containers import execprocess, merge
from daemon.containers.context import Context
from daemon.containers.detach import detach_keys
from daemon.containers.model import Container
from daemon.runtime.client import ExitEvent, LaunchFailed, NotRunning, RuntimeCallError
from storage.errors import Conflict, Internal, InvalidArgument, NotFound

KEPT_AFTER_EXIT = 1000


@dataclass
class Exec:
    id: str
    container_id: str
    config: dict[str, Any]
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    pid: int = 0
    size: tuple[int, int] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def argv(self) -> list[str]:
        return merge.words(self.config.get("Cmd"))

    @property
    def tty(self) -> bool:
        return bool(self.config.get("Tty"))


class Execs:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._execs: dict[str, Exec] = {}

    def find(self, exec_id: str) -> Exec:
        try:
            return self._execs[exec_id]
        except KeyError:
            raise NotFound(f"No such exec instance: {exec_id}") from None

    def _container(self, run: Exec) -> Container:
        container = self._ctx.registry.by_id(run.container_id)
        if container is None:
            raise NotFound(f"No such exec instance: {run.id}")
        return container

    async def create(self, ref: str, config: dict[str, Any]) -> dict[str, str]:
        """Docker's `{"Id"}`. Raises NotFound, Conflict (not running, paused), InvalidArgument."""
        container = self._ctx.registry.find(ref)
        if not merge.words(config.get("Cmd")):
            raise InvalidArgument("No exec command specified")
        self._check_running(container, ref)
        detach_keys(config.get("DetachKeys"), what="escape")
        run = Exec(secrets.token_hex(32), container.id, config)
        self._execs[run.id] = run
        container.execs.add(run.id)
        self._ctx.publish(container, f"exec_create: {' '.join(run.argv)}", execID=run.id)
        return {"Id": run.id}

    def _check_running(self, container: Container, ref: str) -> None:
        if container.state.paused:
            raise Conflict(f"Container {ref} is paused, unpause the container before exec")
        if container.state.restarting:
            raise Conflict(f"Container {ref} is restarting, wait until the container is running")
        if not container.state.alive:
            raise Conflict(f"container {container.id} is not running")

    def check_start(self, exec_id: str) -> Exec:
        """What must hold before the connection is taken over. Raises NotFound, Conflict."""
        run = self.find(exec_id)
        container = self._container(run)
        self._check_running(container, container.id)
        return run

    async def start(
        self,
        exec_id: str,
        *,
        client: socket.socket | None,
        early: bytes = b"",
        detach: bool = False,
        tty: bool = False,
        console_size: tuple[int, int] | None = None,
    ) -> None:
        """Returns once the process executes; its output goes to `client` through the keeper.

        `tty` is the start request's: it alone decides whether the stream is framed, as in dockerd.

        Raises InvalidArgument (not found: exit code 127, not executable: 126), Conflict.
        """
        run = self.check_start(exec_id)
        container = self._container(run)
        if run.exit_code is not None:
            raise Conflict(f"exec command {exec_id} has already run")
        if run.started:
            raise Conflict(f"exec command {exec_id} is already running")
        run.started = run.running = True  # its output may come before the runtime's answer
        # now, as dockerd does: its end may be told before the runtime's answer is read
        self._ctx.publish(container, f"exec_start: {' '.join(run.argv)}", execID=run.id)
        wants = {name: bool(run.config.get(f"Attach{name}")) for name in ("Stdin", "Stdout", "Stderr")}
        try:
            process = await execprocess.process(self._ctx, container, run.argv, run.config, tty=run.tty)
            if client is not None and not detach:
                await self._ctx.runtime.attach(
                    container.id,
                    client,
                    exec_id=run.id,
                    stdin=wants["Stdin"],
                    stdout=wants["Stdout"],
                    stderr=wants["Stderr"],
                    tty=run.tty,
                    framed=not tty,
                    detach_keys=detach_keys(run.config.get("DetachKeys")),
                    early=early,
                )
            started = await self._ctx.runtime.exec(
                container.id,
                run.id,
                process,
                open_stdin=wants["Stdin"] and not detach,
                tty=run.tty,
                console_size=console_size or _size(run.config),
            )
        except BaseException as error:
            failure, code = _explain(error, container)
            self._ended(run, code)
            raise failure from error
        if not run.ended.is_set():
            run.pid = started.pid

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        run = self.find(exec_id)
        if not run.running:
            raise Conflict(f"exec process {exec_id} is not running")
        try:
            await self._ctx.runtime.resize(run.container_id, run.id, height, width)
        except NotRunning:
            raise Conflict(f"exec process {exec_id} is not running") from None

    def inspect(self, exec_id: str) -> dict[str, Any]:
        run = self.find(exec_id)
        container = self._container(run)
        argv = run.argv
        config = run.config
        return {
            "ID": run.id,
            "Running": run.running,
            "ExitCode": run.exit_code,
            "ProcessConfig": {
                "tty": run.tty,
                "entrypoint": argv[0],
                "arguments": argv[1:],
                "privileged": bool(config.get("Privileged")),
                **({"user": config["User"]} if config.get("User") else {}),
            },
            "OpenStdin": bool(config.get("AttachStdin")),
            "OpenStderr": bool(config.get("AttachStderr")),
            "OpenStdout": bool(config.get("AttachStdout")),
            "CanRemove": False,
            "ContainerID": container.id,
            "DetachKeys": _encoded_keys(config.get("DetachKeys")),
            "Pid": run.pid,
        }

    def is_tty(self, exec_id: str) -> bool:
        return self.find(exec_id).tty

    def on_exit(self, event: ExitEvent) -> None:
        run = self._execs.get(event.exec_id or "")
        if run and not run.ended.is_set():
            self._ended(run, event.status)
            container = self._ctx.registry.by_id(run.container_id)
            if container:
                self._ctx.publish(container, "exec_die", execID=run.id, exitCode=str(event.status))

    def _ended(self, run: Exec, code: int) -> None:
        run.running, run.exit_code = False, code
        run.ended.set()
        container = self._ctx.registry.by_id(run.container_id)
        if container:
            container.execs.discard(run.id)
        if len(self._execs) > KEPT_AFTER_EXIT:
            for old in [e for e in self._execs.values() if e.ended.is_set()][: KEPT_AFTER_EXIT // 10]:
                del self._execs[old.id]

    def forget_running(self, container_id: str) -> None:
        """The container's init has ended and the kernel killed the rest: no exec of it lives."""
        for run in self._execs.values():
            if run.container_id == container_id and run.running:
                self._ended(run, 137)
        container = self._ctx.registry.by_id(container_id)
        if container:
            container.execs.clear()  # those never started too: a later start doesn't have them

    def forget(self, container_id: str) -> None:
        """The container is gone, its execs with it."""
        for run in [e for e in self._execs.values() if e.container_id == container_id]:
            del self._execs[run.id]


def _encoded_keys(text: str | None) -> str:
    """As Go's JSON shows bytes."""
    return base64.b64encode(detach_keys(text)).decode() if text else ""


def _size(config: dict[str, Any]) -> tuple[int, int] | None:
    size = config.get("ConsoleSize")
    return (int(size[0]), int(size[1])) if size and any(size) else None


def _explain(error: BaseException, container: Container) -> tuple[BaseException, int]:
    if isinstance(error, LaunchFailed):
        text = f"OCI runtime exec failed: exec failed: unable to start container process: {error}"
        return (InvalidArgument(text) if error.exit_code in (126, 127) else Internal(text)), error.exit_code
    if isinstance(error, NotRunning):
        return Conflict(f"container {container.id} is not running"), 126
    if isinstance(error, RuntimeCallError):
        return Internal(f"exec failed: {error}"), 126
    return error, 126
