"""The engine's container service: each verb lives in a file of its own; here they are gathered."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from daemon.containers import (
    attach,
    commit,
    create,
    files,
    listing,
    networks,
    prune,
    remove,
    rename,
    restart,
    show,
    start,
    stop,
    top,
    update,
    wait,
)
from daemon.containers.context import Context
from daemon.containers.logs import reader
from daemon.containers.logs.reader import LogQuery
from daemon.containers.stats import Sample, Sampler
from daemon.containers.wire import CreateRequest, EndpointSettings
from daemon.runtime.client import NotRunning
from storage.errors import Conflict

Json = dict[str, Any]
Rows = list[Json]
Filters = dict[str, list[str]]
RECURSIVE_READ_ONLY = (1, 44)
"""The API version since which read-only binds are so with all that is mounted below them."""


class Containers:
    """What the API calls. A `ref` is a name, an ID or a unique prefix of one."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._sampler = Sampler(ctx)

    async def create(
        self, name: str | None, request: CreateRequest, platform: str | None, api_version: tuple[int, ...]
    ) -> Json:
        recursive = api_version >= RECURSIVE_READ_ONLY
        return await create.create(self._ctx, name, request, platform, recursive_read_only=recursive)

    async def start(self, ref: str, *, detach_keys: str | None = None) -> None:
        await start.start(self._ctx, ref)

    async def stop(self, ref: str, *, timeout: int | None = None, signal: str | None = None) -> None:
        await stop.stop(self._ctx, ref, timeout=timeout, signal=signal)

    async def restart(self, ref: str, *, timeout: int | None = None, signal: str | None = None) -> None:
        await restart.restart(self._ctx, ref, timeout=timeout, signal=signal)

    async def kill(self, ref: str, signal: str | None = None) -> None:
        await stop.kill(self._ctx, ref, signal)

    async def pause(self, ref: str) -> None:
        await stop.pause(self._ctx, ref)

    async def unpause(self, ref: str) -> None:
        await stop.unpause(self._ctx, ref)

    async def rename(self, ref: str, name: str) -> None:
        await rename.rename(self._ctx, ref, name)

    async def connect_network(self, ref: str, network: str, settings: EndpointSettings) -> None:
        await networks.connect(self._ctx, ref, network, settings)

    async def disconnect_network(self, ref: str, network: str, *, force: bool = False) -> None:
        await networks.disconnect(self._ctx, ref, network, force=force)

    async def remove(
        self, ref: str, *, force: bool = False, volumes: bool = False, link: bool = False
    ) -> None:
        await remove.remove(self._ctx, ref, force=force, volumes=volumes, link=link)

    def waiter(self, ref: str, condition: str) -> Awaitable[Json]:
        return wait.waiter(self._ctx, ref, condition)

    async def list(
        self,
        *,
        all: bool = False,
        limit: int = 0,
        size: bool = False,
        filters: Filters | None = None,
    ) -> Rows:
        return await listing.listed(self._ctx, all=all, limit=limit, size=size, filters=filters or {})

    async def inspect(self, ref: str, *, size: bool = False) -> Json:
        return await show.inspect(self._ctx, ref, size=size)

    async def top(self, ref: str, ps_args: str) -> Json:
        return await top.top(self._ctx, ref, ps_args)

    def logs(self, ref: str, **query: Any) -> tuple[bool, AsyncIterator[tuple[int, bytes]]]:
        """Whether it has a tty, and (stream, text) pairs. Raises what is wrong at once."""
        container = self._ctx.registry.find(ref)
        wanted = LogQuery.of(**query)
        reader.source(self._ctx, container)
        return container.tty, reader.read(self._ctx, container, wanted)

    def check_attach(self, ref: str, detach_keys: str | None) -> None:
        attach.check(self._ctx, ref, detach_keys)

    async def attach(
        self,
        ref: str,
        client: socket.socket,
        *,
        stream: bool,
        logs: bool,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        detach_keys: str | None,
        early: bytes,
        framed: bool,
    ) -> None:
        await attach.attach(
            self._ctx,
            ref,
            client,
            stream=stream,
            logs=logs,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            keys=detach_keys,
            early=early,
            framed=framed,
        )

    def is_tty(self, ref: str) -> bool:
        return self._ctx.registry.find(ref).tty

    async def resize(self, ref: str, height: int, width: int) -> None:
        container = self._ctx.registry.find(ref)
        if not container.state.alive:
            raise Conflict(f"container {container.id} is not running")
        try:
            await self._ctx.runtime.resize(container.id, None, height, width)
        except NotRunning:
            raise Conflict(f"container {container.id} is not running") from None
        self._ctx.publish(container, "resize", height=str(height), width=str(width))

    def stats(self, ref: str, *, stream: bool, one_shot: bool) -> AsyncIterator[Sample]:
        return self._sampler.stream(ref, stream=stream, one_shot=one_shot)

    async def changes(self, ref: str) -> Rows | None:
        return await files.changes(self._ctx, ref)

    def export(self, ref: str) -> AsyncIterator[bytes]:
        return files.export(self._ctx, ref)

    async def update(self, ref: str, body: Json) -> Json:
        return await update.update(self._ctx, ref, body)

    async def prune(self, filters: Filters) -> Json:
        return await prune.prune(self._ctx, filters)

    async def archive_stat(self, ref: str, path: str) -> Json:
        return await files.stat_path(self._ctx, ref, path)

    async def archive_get(self, ref: str, path: str) -> tuple[Json, AsyncIterator[bytes]]:
        return await files.get(self._ctx, ref, path)

    async def archive_put(
        self,
        ref: str,
        path: str,
        body: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool,
        copy_uidgid: bool,
    ) -> None:
        await files.put(
            self._ctx,
            ref,
            path,
            body,
            no_overwrite_dir_non_dir=no_overwrite_dir_non_dir,
            copy_owner=copy_uidgid,
        )

    async def commit(self, ref: str, **options: Any) -> Json:
        return await commit.commit(self._ctx, ref, **options)
