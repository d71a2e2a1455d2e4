"""RUN: one process in the runtime of every container, without a container.

    root      an overlay snapshot on the parent's layers          network   a sandbox as a container has it
    spec      Docker's defaults, from daemon.containers.spec      output    the keeper's frames, by a socket pair

The process has an ID like a container's, but no record: whatever a crash leaves behind is found and undone by
the reconciliation that finds processes without a record.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.build.bench import Bench, Job, Result
from daemon.build.graph import Exec
from daemon.build.solver import entitlements, runmounts
from daemon.build.steps import Progress
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
_FRAME = struct.Struct(">BxxxL")
STUBS = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname")


class ProcessFailed(InvalidArgument):
    """A RUN step's process ended badly."""

    def __init__(self, args: tuple[str, ...], status: int, reason: str = "") -> None:
        self.arguments, self.exit_code = args, status
        how = reason or f"exit code: {status}"
        super().__init__(f'process "{" ".join(args)}" did not complete successfully: {how}')


@dataclass
class _Process:
    """A RUN under way: what has to be undone is noted as it comes."""

    bench: Bench
    job: Job
    operation: Exec
    key: str
    id: str = field(default_factory=names.new_id)
    mounted: runmounts.Prepared = field(default_factory=runmounts.Prepared)

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


async def run(
    bench: Bench,
    job: Job,
    operation: Exec,
    inputs: list[Result],
    key: str,
    progress: Progress,
    outputs: Mapping[int, str],
) -> list[str]:
    """Runs the process in the active snapshot `key`; returns the paths that were made only to mount upon.

    `outputs`: active snapshots of the mounts that are the step's outputs, by their numbers. ProcessFailed when it
    ends with a status that is not among the valid ones. Cancelling kills it; nothing is left either way.
    """
    held = job.entitlements | ({entitlements.NETWORK_HOST} if job.limits.host_network else frozenset())
    entitlements.check(operation, held)
    process = _Process(bench, job, operation, key)
    process.directory.mkdir()
    try:
        process.mounted = await runmounts.prepare(
            bench, job, operation, inputs, process.directory, process.private, outputs
        )
        status, killed = await _execute(process, inputs[0], progress)
    finally:
        await asyncio.shield(_clean(process))
    progress.exit_code = status
    if status not in (operation.valid_codes or (0,)):
        progress_reason = "exit code: 137 (out of memory)" if killed else ""
        raise ProcessFailed(operation.args, status, progress_reason)
    return [*STUBS, *process.mounted.targets]


async def _clean(process: _Process) -> None:
    await process.mounted.release()
    await asyncio.to_thread(shutil.rmtree, process.directory, True)
    if process.private.exists():
        await asyncio.to_thread(shutil.rmtree, process.private, True)


async def _execute(process: _Process, parent: Result, progress: Progress) -> tuple[int, bool]:
    bench = process.bench
    container = _container(process)
    try:
        identity = await asyncio.to_thread(_identity, bench, parent, process.operation.user)
    except PydError as error:
        raise ProcessFailed(process.operation.args, 1, str(error)) from None
    ended: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()
    bench.exits[process.id] = ended
    ours, theirs = socket.socketpair()
    started = False
    reading: asyncio.Task[None] | None = None
    try:
        attachment = await bench.ctx.networks.connect(process.id, _request(process))
        spec = _spec(process, container, identity, attachment.netns_fd is not None)
        bundle = bench.ctx.config.bundle(process.id)
        bundle.mkdir(mode=0o711, parents=True)
        (bundle / "config.json").write_bytes(json.dumps(spec, separators=(",", ":")).encode())
        await bench.ctx.runtime.attach(
            process.id, theirs, stdin=False, stdout=True, stderr=True, tty=False, framed=True
        )
        theirs.close()
        reading = asyncio.get_running_loop().create_task(_read(ours, progress))
        started = True
        await bench.ctx.runtime.start(
            process.id,
            bundle,
            log=None,
            open_stdin=False,
            stdin_once=False,
            tty=False,
            netns_fd=attachment.netns_fd,
        )
        bench.started.add(process.id)
        status = await asyncio.shield(ended)  # or cancelling us would make it look ended
        await asyncio.wait_for(reading, timeout=10)
        return status
    except LaunchFailed as error:
        raise ProcessFailed(process.operation.args, error.exit_code, str(error)) from None
    except RuntimeCallError as error:
        raise Internal(f"failed to run the step: {error}") from error
    finally:
        await asyncio.shield(_end(process, ended, started=started))
        bench.exits.pop(process.id, None)
        bench.started.discard(process.id)
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        theirs.close()
        ours.close()


async def _end(process: _Process, ended: asyncio.Future[tuple[int, bool]], *, started: bool) -> None:
    """Kills what still runs, waits for it, gives everything back."""
    ctx = process.bench.ctx
    if started:
        if not ended.done():
            with contextlib.suppress(NotRunning, RuntimeCallError):
                await ctx.runtime.kill(process.id, 9, everything=True)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(asyncio.shield(ended), timeout=10)
        with contextlib.suppress(RuntimeCallError):
            await ctx.runtime.delete(process.id)
    await ctx.networks.disconnect(process.id)
    await asyncio.to_thread(shutil.rmtree, ctx.config.bundle(process.id), True)


async def _read(sock: socket.socket, progress: Progress) -> None:
    """The keeper's frames to the step's log."""
    sock.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        while True:
            stream, size = _FRAME.unpack(await reader.readexactly(_FRAME.size))
            progress.log(await reader.readexactly(size), stream)
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        writer.close()


def _container(process: _Process) -> Container:
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
    return Container(
        id=process.id,
        name=process.id[:12],
        created=now_ns(),
        image_id="",
        image="",
        config=defaults.config(
            Config(Env=env, WorkingDir=operation.cwd, User=operation.user, Hostname=process.hostname)
        ),
        host=defaults.host_config(host, config, cgroups_v2=process.bench.ctx.cgroups_v2),
        endpoints={},
        layers=(),
        path=operation.args[0],
        args=list(operation.args[1:]),
    )


def _mode(network: str) -> str:
    return "bridge" if network in ("default", "sandbox", "") else network


def _request(process: _Process) -> AttachRequest:
    return AttachRequest(
        network=_mode(process.operation.network),
        container_name=process.id[:12],
        hostname=process.hostname,
        endpoint=EndpointSettings(),
    )


def _identity(bench: Bench, parent: Result, user: str) -> Identity:
    if not parent.diff_ids:
        return users.resolve(user, (), lambda path: "")
    root = rootview.open_tree(bench.store.snapshots.overlay(parent.chain), writable=False)
    try:
        return users.resolve(user, (), lambda path: rootview.read_text(root, path))
    finally:
        os.close(root)


def _spec(process: _Process, container: Container, identity: Identity, own_network: bool) -> dict[str, Any]:
    bench = process.bench
    files = bench.ctx.networks.etc_files(
        process.id,
        hostname=process.hostname,
        domainname="",
        host_config=HostConfig(ExtraHosts=[*process.job.limits.extra_hosts, *process.operation.hosts]),
    )
    etc = {}
    for name, text in (
        ("hosts", files.hosts),
        ("resolv.conf", files.resolv_conf),
        ("hostname", files.hostname),
    ):
        path = process.directory / name
        path.write_text(text)
        etc[f"/etc/{name}"] = str(path)
    around = Surroundings(
        root=bench.store.snapshots.overlay(process.key),
        rootfs=str(bench.ctx.config.bundle(process.id) / "rootfs"),
        identity=identity,
        hostname=process.hostname,
        etc=etc,
        joined={} if own_network else {"network": "host"},
    )
    spec = spec_of.build(container, around, bench.ctx.config)
    spec["mounts"] += process.mounted.mounts
    spec["root"]["readonly"] = process.operation.readonly
    given = spec["process"]["env"]
    spec["process"]["env"] = [each for each in given if not each.startswith("HOSTNAME=")]
    return spec
