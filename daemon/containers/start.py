"""`start`: network, spec, process. Either the container runs and is recorded so, or nothing is left of it.

Crash: a kill before the record says "running" leaves a process that no record owns; the daemon's next
start finds it in the supervisor's states and undoes it (`reconcile`), so the same command works again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from daemon.containers import backoff, health, hostmounts, links, mounts, networks, remove, volumemounts
from daemon.containers.context import Context
from daemon.containers.logs.options import log_spec
from daemon.containers.model import Container
from daemon.containers.spec import build, cdi
from daemon.containers.spec.build import Surroundings
from daemon.containers.surroundings import (
    foreign_root,
    hostname_of,
    joined_namespaces,
    shared_memory,
)
from daemon.network.model import Attachment
from daemon.runtime import client as runtime
from storage import failpoints
from storage.disk import write_all
from storage.errors import Conflict, Internal, InvalidArgument, NotModified, PydError
from storage.snapshots import OverlayMount

log = logging.getLogger("pyd.containers")

_START_FAILURE = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "pyd create failed: unable to start container process: error during container init: "
)


async def start(ctx: Context, ref: str, *, by_user: bool = True) -> None:
    """Raises NotFound, NotModified (running), Conflict (paused, being removed), or why it did not start."""
    container = ctx.registry.find(ref)
    async with container.lock:
        if container.removing or container.state.dead:
            raise Conflict("container is marked for removal and cannot be started")
        if container.state.paused:
            raise Conflict("cannot start a paused container, try unpause instead")
        if container.state.alive:
            raise NotModified("")
        if by_user:
            backoff.cancel(container)
            container.stopped_by_user = container.restarts_off = False
            container.restart_count = 0
        await launch(ctx, container)


async def launch(ctx: Context, container: Container) -> None:
    """Start with the container's lock held; on failure everything is undone and the error recorded."""
    try:
        await _launch(ctx, container)
    except BaseException as error:
        await _undo(ctx, container)
        failure, code = _explain(error)
        container.state.start_failed(code, str(failure))
        await ctx.registry.save(container)
        if isinstance(error, Exception):
            if container.host.get("AutoRemove"):
                ctx.spawn(remove.discard(ctx, container), f"remove {container.short_id}")
            raise failure from error
        raise


async def _launch(ctx: Context, container: Container) -> None:
    bundle = ctx.config.bundle(container.id)
    connecting = asyncio.ensure_future(_connect(ctx, container))
    try:
        around = await _look_around(ctx, container)
        await asyncio.sleep(0)  # the connection is on its way to the records and the kernel
        await _specify(ctx, container, around, bundle)
    except BaseException:
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        raise
    attachment = await connecting
    _write_etc(ctx, container, around)
    failpoints.hit("containers.start")
    started = await ctx.runtime.start(
        container.id,
        bundle,
        log=await log_spec(container, ctx.config),
        open_stdin=container.open_stdin,
        stdin_once=bool(container.config.get("StdinOnce")),
        tty=container.tty,
        console_size=_console_size(container),
        runtime=_runtime(ctx, container),
        netns_fd=attachment.netns_fd if attachment else None,
    )
    failpoints.hit("containers.started")
    container.state.started(started.pid, started.started_at_ns)
    container.had_start = True
    container.network = attachment.settings() if attachment else {}
    health.reset(container)
    await ctx.registry.save(container)
    mounts.publish(ctx.events.publish, container, "mount")
    ctx.publish(container, "start")
    health.begin(ctx, container)


async def _specify(ctx: Context, container: Container, around: Surroundings, bundle: Path) -> None:
    """The bundle: nothing in it depends on the network, which is being connected meanwhile."""
    spec = build.build(container, around, ctx.config)
    requests = container.host.get("DeviceRequests")
    if requests:
        await asyncio.to_thread(cdi.apply_requests, spec, requests, ctx.config.cdi_spec_dirs)
    mounts.ensure_bind_sources(container.mounts)
    mounts.check_propagation(container.mounts)
    _write_bundle(bundle, spec)


def _console_size(container: Container) -> tuple[int, int] | None:
    size = container.host.get("ConsoleSize")
    return (size[0], size[1]) if size and any(size) else None


def _runtime(ctx: Context, container: Container) -> runtime.RuntimePath | None:
    command = ctx.config.known_runtimes().get(container.runtime)
    if command is None:
        raise InvalidArgument(f"unknown or invalid runtime name: {container.runtime}")
    if not command:
        return None
    path = shutil.which(command)
    if path is None:
        raise InvalidArgument(
            f"failed to create shim task: OCI runtime create failed: unable to retrieve OCI runtime error: "
            f'exec: "{command}": executable file not found in $PATH'
        )
    return runtime.RuntimePath(path)


async def _connect(ctx: Context, container: Container) -> Attachment | None:
    if container.network_mode.startswith("container:"):
        return None
    attachment: Attachment | None = None
    for name in container.endpoints:
        request = networks.request(container, name, first=attachment is None)
        try:
            attachment = await ctx.networks.connect(container.id, request)
        except PydError as error:
            raise type(error)(f"failed to set up container networking: {error}") from error
    return attachment


async def _look_around(ctx: Context, container: Container) -> Surroundings:
    groups = tuple(container.host.get("GroupAdd") or ())
    identity = await ctx.users.identity(container, container.config.get("User") or "", groups)
    joined = joined_namespaces(container, ctx.registry, ctx.config)
    foreign = _runtime(ctx, container) is not None
    root = OverlayMount((), foreign_root(container, ctx.config), None)
    if not foreign:
        root = ctx.snapshots.overlay(container.id)
        _prepare_root(ctx, container, root, joined)
    if foreign or container.host.get("IpcMode") == "shareable" or volumemounts.on_host(ctx, container):
        await _finished(asyncio.to_thread(hostmounts.prepare, ctx, container, foreign=foreign))
    directory = ctx.config.container_dir(_etc_owner(ctx, container).id)
    return Surroundings(
        root=root,
        rootfs=str(ctx.config.bundle(container.id) / "rootfs"),
        identity=identity,
        hostname=hostname_of(container, ctx.registry),
        etc={place: str(directory / place.rpartition("/")[2]) for place in build.ETC_FILES},
        joined=joined,
        shm=shared_memory(container, ctx.registry, ctx.config),
        linked=links.environment(container, ctx.registry),
        special=volumemounts.special(ctx, container),
    )


def _prepare_root(ctx: Context, container: Container, root: OverlayMount, joined: dict[str, str]) -> None:
    """Have it mounted while the rest is looked for; by a spare, which has namespaces of its own. Nobody else sees this
    root before the start, which comes next, or `_undo`."""
    if not {"pid", "ipc", "uts"} & joined.keys() and not container.host.get("DeviceRequests"):
        overlay = build.root(container.host, root).get("overlay")
        if overlay is not None:
            ctx.runtime.prepare(container.id, overlay, *build.mount_points(container))


async def _finished(work: Coroutine[Any, Any, None]) -> None:
    """Wait for a thread also when cancelled: what undoes its work must come after it."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _etc_owner(ctx: Context, container: Container) -> Container:
    """Whose hosts, hostname and resolv.conf it has: who joins another's network has the other's."""
    mode = container.network_mode
    return ctx.registry.find(mode.partition(":")[2]) if mode.startswith("container:") else container


def _write_etc(ctx: Context, container: Container, around: Surroundings) -> None:
    directory = ctx.config.container_dir(container.id)
    if container.network_mode.startswith("container:"):
        return
    if container.config.get("NetworkDisabled"):
        for name in around.etc:
            (directory / name.rpartition("/")[2]).write_text("")
        return
    files = networks.etc_files(ctx, container, around.hostname)
    for name, text in networks.texts(files).items():
        _write(f"{directory}/{name}", text.encode())


def _write_bundle(bundle: Path, spec: dict[str, Any]) -> None:
    bundle.mkdir(mode=0o711, parents=True, exist_ok=True)
    _write(f"{bundle}/config.json", json.dumps(spec, separators=(",", ":")).encode())


def _write(path: str, data: bytes) -> None:
    """As Path.write_bytes, without a file object, which costs four times the file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)


async def _undo(ctx: Context, container: Container) -> None:
    """Nothing of a failed start stays: process, cgroup, address, ports, bundle."""
    results = await asyncio.gather(
        ctx.networks.disconnect(container.id), ctx.runtime.delete(container.id), return_exceptions=True
    )
    for result in results:
        if isinstance(result, Exception):
            log.warning("undoing the start of %s: %s", container.short_id, result)
    await asyncio.to_thread(hostmounts.drop, ctx, container)
    container.network = {}


def _explain(error: BaseException) -> tuple[PydError, int]:
    """The error for the user and the container's exit code (moby translateContainerdStartErr)."""
    if isinstance(error, PydError):
        return error, 128
    if isinstance(error, runtime.LaunchFailed):
        text = _START_FAILURE + str(error)
        if error.exit_code in (126, 127):
            return InvalidArgument(text), error.exit_code
        return Internal(text), 128
    return Internal(f"failed to start the container: {error}"), 128
