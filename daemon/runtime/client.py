"""How the daemon talks to the supervisor and the keeper (asyncio, standard library only).

Model
    The *supervisor* is parent of every container; the *keeper* owns their stdio. Both outlive the
    daemon and are found again at `exec_root/supervisor.sock` and `exec_root/keeper.sock`.
    `RuntimeClient` holds one connection to each. Where nobody answers it spawns a supervisor (which
    spawns the keeper). When a connection breaks, requests under way raise `Unavailable`, the client
    reconnects (spawning a new supervisor where needed), reports the exits that it had not yet
    delivered, and calls `on_resync` with all states.

    An *exit* is delivered through `on_exit` at least once: what is not acknowledged is told again
    after a reconnect, and is in `states()`. Exits of containers are acknowledged by `delete`, exits of
    execs by `on_exit` returning.

Errors and records are those of results.py.

Example
    client = RuntimeClient(Path("/run/pyd"), cgroup_root="pyd")
    client.on_exit = lambda event: print(event.id, event.status)
    await client.connect()
    started = await client.start(id, bundle, log=LogSpec("json-file", path, {}), ...)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.cgroups import Cgroup, Layout, Stats, detect, open_cgroup
from daemon.runtime import protocol
from daemon.runtime.channel import Channel
from daemon.runtime.overlay import ONE_BY_ONE
from daemon.runtime.results import (
    ExecState,
    ExitEvent,
    Held,
    LaunchFailed,
    LogSpec,
    NotRunning,
    Refused,
    RuntimeCallError,
    RuntimePath,
    RuntimeState,
    Started,
    Unavailable,
    state_of,
)

__all__ = [
    "ExecState",
    "ExitEvent",
    "Held",
    "LaunchFailed",
    "LogSpec",
    "NotRunning",
    "Refused",
    "RuntimeCallError",
    "RuntimeClient",
    "RuntimePath",
    "RuntimeState",
    "Started",
    "Unavailable",
]

logger = logging.getLogger("pyd.runtime")
SUPERVISOR = Path(__file__).with_name("supervisor.py")
START_TIMEOUT = 10.0


def _run_detached(argv: list[str], environment: dict[str, str], log: str) -> None:
    """Waits for the process that we start only: it leaves the supervisor behind.

    Not posix_spawn, whose children ignore signals 32 and 33 (glibc), which containers would inherit."""
    with open(log, "ab") as output:
        subprocess.run(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            check=False,
        )


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _alive(pid: int) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not _readable(pidfd)
    finally:
        os.close(pidfd)


class RuntimeClient:
    """See the module's text. Callbacks are plain attributes, called on the event loop."""

    def __init__(self, exec_root: Path, *, cgroup_root: str) -> None:
        self.exec_root = exec_root
        self.cgroup_root = cgroup_root
        self.on_exit: Callable[[ExitEvent], None] = lambda event: None
        self.on_detach: Callable[[str, str | None], None] = lambda container_id, exec_id: None
        self.on_oom: Callable[[str], None] = lambda container_id: None
        self.on_resync: Callable[[dict[str, RuntimeState]], None] = lambda states: None
        self._layout: Layout | None = None
        self._cgroups: dict[str, Cgroup] = {}
        self._supervisor: Channel | None = None
        self._keeper: Channel | None = None
        self._connecting = asyncio.Lock()
        self._delivered: set[tuple[str, str | None, int]] = set()
        self._closed = False
        self._reconnect: asyncio.Task[None] | None = None

    # -- connection ----------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connects to supervisor and keeper, starting them where nobody answers."""
        self._closed = False
        await self._supervisor_channel()
        await self._keeper_channel()

    async def close(self) -> None:
        """Leaves supervisor, keeper and containers running."""
        self._closed = True
        if self._reconnect is not None:
            self._reconnect.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reconnect
        for channel in (self._supervisor, self._keeper):
            if channel is not None:
                channel.close()
        self._supervisor = self._keeper = None

    async def shutdown(self) -> None:
        """Asks supervisor and keeper to exit, and waits. Raises Refused while containers run."""
        supervisor = await self._supervisor_channel()
        self._closed = True
        try:
            await supervisor.call("shutdown")
        except RuntimeCallError:
            if supervisor.open:
                self._closed = False
                raise
        await supervisor.ended.wait()
        await self.close()

    async def _supervisor_channel(self) -> Channel:
        async with self._connecting:
            if self._supervisor is None or not self._supervisor.open:
                sock = await self._open("supervisor.sock", spawn=True)
                self._supervisor = Channel(sock, self._event, self._lost)
                reply = await self._supervisor.call("hello")
                self._supervisor.watch_process(reply["pid"])
            return self._supervisor

    async def _keeper_channel(self) -> Channel:
        async with self._connecting:
            if self._keeper is None or not self._keeper.open:
                sock = await self._open("keeper.sock", spawn=False)
                self._keeper = Channel(sock, self._event, lambda: None)
                await self._keeper.call("hello")
            return self._keeper

    async def _open(self, name: str, *, spawn: bool) -> socket.socket:
        path = str(self.exec_root / name)
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT
        spawned = False
        while True:
            try:
                sock = protocol.connect(path)
                if not spawn or _alive(protocol.peer_pid(sock)):
                    return sock
                sock.close()  # the listening socket of a dead supervisor, held by a clone of it
                raise ConnectionRefusedError("its supervisor is dead")
            except OSError as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise Unavailable(f"cannot reach {path}: {error}") from error
            if spawn and not spawned:
                await self._spawn()
                spawned = True
            await asyncio.sleep(0.003)

    async def _spawn(self) -> None:
        """Starts a supervisor detached from us: own session, and no child of ours (it forks once more)."""
        self.exec_root.mkdir(parents=True, exist_ok=True)
        log = str(self.exec_root / "supervisor.log")
        argv = [sys.executable, "-I", "-S", str(SUPERVISOR), "--detach"]
        argv += ["--exec-root", str(self.exec_root), "--cgroup-root", self.cgroup_root]
        environment = {name: os.environ[name] for name in ("PATH", "LANG", "PYD_DEBUG") if name in os.environ}
        await asyncio.to_thread(_run_detached, argv, environment, log)

    def _lost(self) -> None:
        if not self._closed:
            logger.warning("lost the connection to the container supervisor; reconnecting")
            self._reconnect = asyncio.get_running_loop().create_task(self._resync())

    async def _resync(self) -> None:
        while not self._closed:
            try:
                states = await self._states()
                break
            except RuntimeCallError as error:
                logger.error("cannot reach the container supervisor: %s", error)
                await asyncio.sleep(1)
        else:
            return
        for container_id, raw in states.items():
            for event in self._exits(container_id, raw):
                self._deliver(event)
        self.on_resync({container_id: state_of(raw) for container_id, raw in states.items()})

    # -- events --------------------------------------------------------------------------------------

    @staticmethod
    def _exits(container_id: str, raw: dict[str, Any]) -> list[ExitEvent]:
        processes: list[tuple[str | None, dict[str, Any]]] = [*raw["execs"].items(), (None, raw)]
        return [
            ExitEvent(container_id, name, p["pid"], p["exit_status"], raw["oom_killed"], p["finished_at_ns"])
            for name, p in processes
            if p["exit_status"] is not None
        ]

    def _event(self, message: dict[str, Any]) -> None:
        kind = message.pop("event")
        if kind == "exit":
            self._deliver(ExitEvent(**message))
        elif kind == "detach":
            self.on_detach(message["id"], message["exec_id"])
        elif kind == "oom":
            self.on_oom(message["id"])

    def _deliver(self, event: ExitEvent) -> None:
        key = (event.id, event.exec_id, event.pid)
        if key not in self._delivered:
            self._delivered.add(key)
            self.on_exit(event)
        if event.exec_id is not None and self._supervisor is not None and self._supervisor.open:
            self._supervisor.post({"op": "ack", "id": event.id, "exec_id": event.exec_id})
            self._delivered.discard(key)

    def expect(self) -> None:
        """A hint: a start is near. The supervisor gets a clone ready, which takes it two milliseconds less."""
        if self._supervisor is not None and self._supervisor.open:
            self._supervisor.post({"op": "expect"})

    def prepare(self, id: str, overlay: dict[str, Any], directories: list[str], files: list[str]) -> None:
        """A hint: this container's start is what comes next, or else its `delete`. A spare clone mounts the root
        meanwhile (`root.overlay` of the specification), with what is missing of the places to mount on."""
        if self._supervisor is not None and self._supervisor.open and ONE_BY_ONE:
            fields = {"id": id, "overlay": overlay, "directories": directories, "files": files}
            self._supervisor.post({"op": "prepare", **fields})

    # -- processes -----------------------------------------------------------------------------------

    async def _call(self, op: str, fds: tuple[int, ...] = (), **fields: Any) -> dict[str, Any]:
        channel = self._supervisor
        if channel is None or not channel.open:
            channel = await self._supervisor_channel()
        return await channel.call(op, fds, **fields)

    async def start(
        self,
        id: str,
        bundle: Path,
        *,
        log: LogSpec | None,
        open_stdin: bool,
        stdin_once: bool,
        tty: bool,
        console_size: tuple[int, int] | None = None,
        runtime: RuntimePath | None = None,
        netns_fd: int | None = None,
    ) -> Started:
        """Starts the container described by `bundle`/config.json; returns after its execve succeeded.

        `console_size` is (rows, columns). `netns_fd` replaces the path of the network namespace.
        Raises LaunchFailed and leaves nothing behind but the bundle."""
        reply = await self._call(
            "start",
            () if netns_fd is None else (netns_fd,),
            id=id,
            bundle=str(bundle),
            log=None if log is None else {"driver": log.driver, "path": log.path, "options": log.options},
            open_stdin=open_stdin,
            stdin_once=stdin_once,
            tty=tty,
            console_size=console_size,
            runtime=None if runtime is None else [runtime.path, *runtime.args],
        )
        return Started(reply["pid"], reply["started_at_ns"])

    async def exec(
        self,
        id: str,
        exec_id: str,
        process: dict[str, Any],
        *,
        open_stdin: bool,
        tty: bool,
        console_size: tuple[int, int] | None = None,
    ) -> Started:
        """Runs one more process (OCI `process`) in a running container. Raises NotRunning, Refused (the
        container is paused) or LaunchFailed."""
        reply = await self._call(
            "exec",
            id=id,
            exec_id=exec_id,
            process=process,
            open_stdin=open_stdin,
            tty=tty,
            console_size=console_size,
        )
        return Started(reply["pid"], reply["started_at_ns"])

    async def kill(
        self, id: str, signal: int, *, exec_id: str | None = None, everything: bool = False
    ) -> None:
        """Sends `signal` to the init (or one exec, or every process). Raises NotRunning."""
        await self._call("kill", id=id, signal=int(signal), exec_id=exec_id, everything=everything)

    async def pause(self, id: str) -> None:
        await self._call("pause", id=id)

    async def resume(self, id: str) -> None:
        await self._call("resume", id=id)

    async def update(self, id: str, resources: dict[str, Any]) -> None:
        """Changes limits; `resources` is OCI's linux.resources. Raises Refused naming file and value."""
        await self._call("update", id=id, resources=resources)

    async def resize(self, id: str, exec_id: str | None, rows: int, cols: int) -> None:
        await self._call("resize", id=id, exec_id=exec_id, rows=rows, cols=cols)

    async def delete(self, id: str) -> None:
        """After the exit: kills stragglers, removes cgroup, state and bundle directory; acknowledges the
        exit. Idempotent. Raises Refused while the container runs."""
        await self._call("delete", id=id)
        self._cgroups.pop(id, None)
        self._delivered = {key for key in self._delivered if key[0] != id}

    async def _states(self) -> dict[str, dict[str, Any]]:
        reply = await self._call("states")
        states: dict[str, dict[str, Any]] = reply["states"]
        return states

    async def states(self) -> dict[str, RuntimeState]:
        """Every container that the supervisor knows, unacknowledged exits included."""
        return {container_id: state_of(raw) for container_id, raw in (await self._states()).items()}

    # -- accounting: read by the daemon itself, so that a hundred samplers don't load the supervisor ------

    async def _cgroup(self, id: str) -> Cgroup:
        if id not in self._cgroups:
            path = (await self._call("cgroup", id=id))["path"]
            if self._layout is None:
                self._layout = await asyncio.to_thread(detect)
            self._cgroups[id] = open_cgroup(self._layout, path)
        return self._cgroups[id]

    async def stats(self, id: str) -> Stats:
        """One pass over the container's accounting files. Raises NotRunning."""
        cgroup = await self._cgroup(id)
        return await asyncio.to_thread(cgroup.stats)

    async def pids(self, id: str) -> list[int]:
        """Host pids of all the container's processes."""
        cgroup = await self._cgroup(id)
        return cgroup.pids()

    # -- stdio -----------------------------------------------------------------------------------------

    async def attach(
        self,
        id: str,
        client: socket.socket | int,
        *,
        exec_id: str | None = None,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        tty: bool,
        framed: bool,
        detach_keys: bytes = b"\x10\x11",
        early: bytes = b"",
        replay: str | None = None,
    ) -> Held | None:
        """Gives a duplicate of the client's connection to the keeper; may come before the start.

        The caller closes its own copy (without shutdown). `early` is what the client sent already.
        `framed`: Docker's 8-byte headers. The keeper closes its copy when the output has ended.

        With `replay`, the path of the container's log, the client gets nothing until `let_loose`: the caller
        first sends it what the log holds up to where the answer says. Until then the log is not rotated."""
        fd = client if isinstance(client, int) else client.fileno()
        fields = {"id": id, "exec_id": exec_id, "stdin": stdin, "stdout": stdout, "stderr": stderr}
        fields |= {"tty": tty, "framed": framed, "detach_keys": detach_keys.hex(), "early": early.hex()}
        for attempt in (0, 1):
            channel = await self._keeper_channel()
            try:
                reply = await channel.call("attach", (fd,), replay=replay, **fields)
                break
            except Unavailable:
                if attempt:
                    raise
        return Held(reply["held"], reply["inode"], reply["size"]) if replay is not None else None

    async def let_loose(self, held: Held, *, drop: bool = False) -> None:
        """The replay is done: the client goes on with what came meanwhile; with `drop` it is gone."""
        channel = self._keeper
        if channel is not None and channel.open:
            await channel.call("let_loose", held=held.number, drop=drop)
