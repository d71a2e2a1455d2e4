"""A process in the runtime of every container, without a container: a RUN's, a front end's, a front end's container.

    root      an active snapshot                      network   a sandbox as a container has it
    spec      Docker's defaults, from daemon.containers.spec    stdio     the keeper's, to the sockets that are given

It has an ID like a container's, but no record: whatever a crash leaves behind is found and undone by the
reconciliation that finds processes without a record.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from daemon.build.bench import Bench, Job, Result
from daemon.build.graph import Exec
from daemon.build.imageconfig import quoted
from daemon.build.solver import runmounts
from daemon.clock import now_ns
from daemon.containers import defaults, names, rootview
from daemon.containers.model import Container
from daemon.containers.spec import build as spec_of
from daemon.containers.spec import users
from daemon.containers.spec.build import Surroundings
from daemon.containers.spec.users import Identity
from daemon.containers.wire import Config, EndpointSettings, HostConfig
from daemon.network.model import AttachRequest
from daemon.runtime.client import LaunchFailed, NotRunning, RuntimeCallError
from storage.errors import Internal, InvalidArgument, PydError

HOSTNAME = "buildkitsandbox"
HEADER = struct.Struct(">BxxxL")
"""Of the keeper's frames: a stream's number, bytes."""
_PATIENCE = 10.0
Ended = tuple[int, bool]
"""A status, and whether memory was the reason."""


class ProcessFailed(InvalidArgument):
    """A process ended badly, or could not begin."""

    left: Left | None = None
    """Of a step whose build keeps what is left."""

    def __init__(self, args: tuple[str, ...], status: int, reason: str = "") -> None:
        self.arguments, self.exit_code = args, status
        how = self.reason = reason or f"exit code: {status}"
        super().__init__(f"process {quoted(' '.join(args))} did not complete successfully: {how}")


@dataclass(frozen=True)
class Left:
    """Of a failed step, by its mounts in their order, the root first: IDs in Job.left, empty where there is nothing."""

    inputs: tuple[str, ...]
    mounts: tuple[str, ...]
    """As the process left them."""


@dataclass(frozen=True)
class Stdio:
    """Who has a part of a process's stdio. The socket is duplicated, and closed here once the keeper has it."""

    socket: socket.socket
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    framed: bool = True
    """In frames that tell stdout from stderr (`frames`)."""


@dataclass
class Process:
    """`mounted` is released with it (`clean`), not with its end."""

    bench: Bench
    job: Job
    operation: Exec
    key: str
    """The active snapshot that is its root."""
    id: str = field(default_factory=names.new_id)
    mounted: runmounts.Prepared = field(default_factory=runmounts.Prepared)
    tty: bool = False

    @property
    def directory(self) -> Path:
        return self.job.directory / f"run-{self.id[:12]}"

    @property
    def hostname(self) -> str:
        return self.operation.hostname or HOSTNAME

    @property
    def private(self) -> Path:
        """On the runtime's own (memory) file system: secrets never touch the data root."""
        return self.bench.ctx.config.exec_root / "build" / self.id

    @contextlib.asynccontextmanager
    async def running(
        self, parent: Result, stdio: Sequence[Stdio], size: tuple[int, int] | None = None
    ) -> AsyncIterator[asyncio.Future[Ended]]:
        """It runs when the block begins, and nothing of it is left behind it; gives what is set when it ends.

        `parent`: the layers below its root, where its user is looked up. `size`: rows and columns of a terminal.
        Raises ProcessFailed when it can't be started. Cancelling kills it.
        """
        bench = self.bench
        container = _container(self)
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        started = False
        try:
            identity = await identified(bench, parent, self.operation)
            bench.exits[self.id] = ended
            attachment = await bench.ctx.networks.connect(self.id, _request(self))
            spec = _spec(self, container, identity, attachment.netns_fd is not None)
            bundle = bench.ctx.config.bundle(self.id)
            bundle.mkdir(mode=0o711, parents=True)
            (bundle / "config.json").write_bytes(json.dumps(spec, separators=(",", ":")).encode())
            started = True
            for each in stdio:
                await _attach(bench, self.id, None, each, tty=self.tty)
            reads = any(each.stdin for each in stdio)
            await bench.ctx.runtime.start(
                self.id,
                bundle,
                log=None,
                open_stdin=reads,
                stdin_once=reads,
                tty=self.tty,
                console_size=size,
                netns_fd=attachment.netns_fd,
            )
            bench.started.add(self.id)
            yield ended
        except LaunchFailed as error:
            raise ProcessFailed(self.operation.args, error.exit_code, str(error)) from None
        except RuntimeCallError as error:
            raise Internal(f"failed to run the step: {error}") from error
        finally:
            await asyncio.shield(self._end(ended, started=started))
            bench.exits.pop(self.id, None)
            bench.started.discard(self.id)
            for each in stdio:
                each.socket.close()

    @contextlib.asynccontextmanager
    async def beside(
        self, parent: Result, operation: Exec, stdio: Sequence[Stdio], *, tty: bool = False
    ) -> AsyncIterator[tuple[str, asyncio.Future[Ended]]]:
        """One more process in what is running: its name, and what is set when it ends. Nothing is left of it behind
        the block. `operation`: its arguments, environment, directory and user. ProcessFailed as of `running`."""
        bench, name = self.bench, secrets.token_hex(16)
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        other = replace(self, operation=operation, tty=tty)
        identity = await identified(bench, parent, operation)
        around = _around(other, identity, {}, own_network=True)
        process = spec_of.build(_container(other), around, bench.ctx.config)["process"]
        process["env"] = _without_hostname(process["env"])
        bench.exits[f"{self.id}/{name}"] = ended
        try:
            for each in stdio:
                await _attach(bench, self.id, name, each, tty=tty)
            reads = any(each.stdin for each in stdio)
            await bench.ctx.runtime.exec(self.id, name, process, open_stdin=reads, tty=tty)
            yield name, ended
        except LaunchFailed as error:
            raise ProcessFailed(operation.args, error.exit_code, str(error)) from None
        except RuntimeCallError as error:
            raise Internal(f"failed to run the process: {error}") from error
        finally:
            if not ended.done():
                with contextlib.suppress(NotRunning, RuntimeCallError):
                    await asyncio.shield(bench.ctx.runtime.kill(self.id, 9, exec_id=name))
            bench.exits.pop(f"{self.id}/{name}", None)
            for each in stdio:
                each.socket.close()

    async def _end(self, ended: asyncio.Future[Ended], *, started: bool) -> None:
        """Kills what still runs, waits for it, gives everything back."""
        ctx = self.bench.ctx
        if started:
            if not ended.done():
                with contextlib.suppress(NotRunning, RuntimeCallError):
                    await ctx.runtime.kill(self.id, 9, everything=True)
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(asyncio.shield(ended), timeout=_PATIENCE)
            with contextlib.suppress(RuntimeCallError):
                await ctx.runtime.delete(self.id)
        await ctx.networks.disconnect(self.id)
        await asyncio.to_thread(shutil.rmtree, ctx.config.bundle(self.id), True)

    async def clean(self) -> None:
        """Gives back the mounts, and removes what lay beside the process."""
        await self.mounted.release()
        await asyncio.to_thread(shutil.rmtree, self.directory, True)
        if self.private.exists():
            await asyncio.to_thread(shutil.rmtree, self.private, True)


async def _attach(bench: Bench, id: str, exec_id: str | None, stdio: Stdio, *, tty: bool) -> None:
    await bench.ctx.runtime.attach(
        id,
        stdio.socket,
        exec_id=exec_id,
        stdin=stdio.stdin,
        stdout=stdio.stdout,
        stderr=stdio.stderr,
        tty=tty,
        framed=stdio.framed,
        detach_keys=b"",
    )
    stdio.socket.close()


async def frames(sock: socket.socket, take: Callable[[bytes, int], None]) -> None:
    """What the keeper sends, with the number of its stream, to its end."""
    sock.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        while True:
            stream, size = HEADER.unpack(await reader.readexactly(HEADER.size))
            take(await reader.readexactly(size), stream)
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        writer.close()


def _container(process: Process) -> Container:
    """As the spec's planner wants it; it is recorded nowhere."""
    operation, job = process.operation, process.job
    config = process.bench.ctx.config
    env = [*operation.env, *operation.proxy, *process.mounted.env]
    wanted: dict[str, Any] = {**job.limits.host, "NetworkMode": _mode(operation.network)}
    if operation.ulimits:
        wanted["Ulimits"] = [{"Name": n, "Soft": s, "Hard": h} for n, s, h in operation.ulimits]
    if operation.cgroup_parent:
        wanted["CgroupParent"] = operation.cgroup_parent
    if operation.shm_size:
        wanted["ShmSize"] = operation.shm_size
    if operation.security == "insecure":
        wanted["Privileged"] = True
    host = HostConfig(**wanted)  # type: ignore[typeddict-item]
    given = Config(
        Env=env, WorkingDir=operation.cwd, User=operation.user, Hostname=process.hostname, Tty=process.tty
    )
    return Container(
        id=process.id,
        name=process.id[:12],
        created=now_ns(),
        image_id="",
        image="",
        config=defaults.config(given),
        host=defaults.host_config(host, config, cgroups_v2=process.bench.ctx.cgroups_v2),
        endpoints={},
        layers=(),
        path=operation.args[0],
        args=list(operation.args[1:]),
    )


def _mode(network: str) -> str:
    return "bridge" if network in ("default", "sandbox", "") else network


def _request(process: Process) -> AttachRequest:
    return AttachRequest(
        network=_mode(process.operation.network),
        container_name=process.id[:12],
        hostname=process.hostname,
        endpoint=EndpointSettings(),
    )


async def identified(bench: Bench, parent: Result, operation: Exec) -> Identity:
    """Who the process is. ProcessFailed when there is no such user."""
    try:
        return await asyncio.to_thread(_identity, bench, parent, operation.user)
    except PydError as error:
        raise ProcessFailed(operation.args, 1, str(error)) from None


def _identity(bench: Bench, parent: Result, user: str) -> Identity:
    if not parent.chain:
        return users.resolve(user, (), lambda path: "")
    root = rootview.open_tree(bench.store.snapshots.overlay(parent.chain), writable=False)
    try:
        return users.resolve(user, (), lambda path: rootview.read_text(root, path))
    finally:
        os.close(root)


def _spec(process: Process, container: Container, identity: Identity, own_network: bool) -> dict[str, Any]:
    bench = process.bench
    files = bench.ctx.networks.etc_files(
        process.id,
        hostname=process.hostname,
        domainname="",
        host_config=HostConfig(ExtraHosts=[*process.job.limits.extra_hosts, *process.operation.hosts]),
    )
    etc = {}
    for name, text in (("hosts", files.hosts), ("resolv.conf", files.resolv_conf)):
        path = process.directory / name
        path.write_text(text)
        etc[f"/etc/{name}"] = str(path)
    around = _around(process, identity, etc, own_network=own_network)
    spec = spec_of.build(container, around, bench.ctx.config)
    for mount in spec["mounts"]:
        if mount["destination"] in etc:  # as BuildKit: what a step wrote there would be lost
            mount["options"] = [*mount["options"], "ro"]
    spec["mounts"] += process.mounted.mounts
    spec["root"]["readonly"] = process.operation.readonly
    spec["process"]["env"] = _without_hostname(spec["process"]["env"])
    return spec


def _around(process: Process, identity: Identity, etc: dict[str, str], *, own_network: bool) -> Surroundings:
    bench = process.bench
    return Surroundings(
        root=bench.store.snapshots.overlay(process.key),
        rootfs=str(bench.ctx.config.bundle(process.id) / "rootfs"),
        identity=identity,
        hostname=process.hostname,
        etc=etc,
        joined={} if own_network else {"network": "host"},
    )


def _without_hostname(environment: list[str]) -> list[str]:
    return [each for each in environment if not each.startswith("HOSTNAME=")]
