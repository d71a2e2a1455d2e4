"""`stop`, `kill`, `pause`, `unpause`.

A signal by hand also concerns restarts, as moby's daemon/kill.go has it: whatever the signal, "unless-stopped"
is held to have been stopped by its user; and the signal that stops it (any, for a container that names none)
ends every policy until the next start by a user.
"""

from __future__ import annotations

import asyncio
import signal as signals_module
from typing import Any

from daemon.containers import backoff, health, signals
from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.containers.wait import wake
from daemon.runtime.client import NotRunning, RuntimeCallError
from storage.errors import Conflict, Internal, NotModified

DEFAULT_TIMEOUT = 10
GRACE_AFTER_KILL = 10.0


async def stop(ctx: Context, ref: str, *, timeout: int | None, signal: str | None) -> None:
    """Signal, wait, SIGKILL. `timeout` seconds; -1 waits for ever. Raises NotModified when not running."""
    container = ctx.registry.find(ref)
    number = signals.parse(signal) if signal else stop_signal(container)
    if not container.state.running:
        raise NotModified("")
    await halt(ctx, container, timeout=timeout, number=number)
    ctx.publish(container, "stop")


def stop_signal(container: Container) -> int:
    return signals.parse(container.config.get("StopSignal") or "TERM")


def stop_timeout(container: Container) -> int:
    """Seconds between the stop signal and SIGKILL; -1 waits for ever."""
    configured = container.config.get("StopTimeout")
    return DEFAULT_TIMEOUT if configured is None else configured


async def halt(
    ctx: Context, container: Container, *, timeout: int | None, number: int, by_user: bool = True
) -> None:
    """Bring a running or restarting container to "exited"; stopped by its user it stays so."""
    if timeout is None:
        timeout = stop_timeout(container)
    exited = await _signal_for_stop(ctx, container, number, by_user)
    if exited is None:
        return
    if await _within(exited, None if timeout < 0 else timeout):
        return
    await _send(ctx, container, signals_module.SIGKILL)
    if not await _within(exited, GRACE_AFTER_KILL):
        raise Internal(
            f"cannot stop container: {container.id}: tried to kill container, but did not receive an exit event"
        )


async def _signal_for_stop(
    ctx: Context, container: Container, number: int, by_user: bool
) -> asyncio.Future[Any] | None:
    async with container.lock:
        container.stopped_by_user = container.stopped_by_user or by_user
        container.restarts_off = container.restarts_off or by_user
        if container.state.restarting:
            await _give_up_restart(ctx, container)
            return None
        if not container.state.alive:
            return None
        await ctx.registry.save(container)
        exited: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        container.exit_waiters.append(exited)
        await _send(ctx, container, number)
        return exited


async def _give_up_restart(ctx: Context, container: Container) -> None:
    backoff.cancel(container)
    container.state.status = "exited"
    await ctx.registry.save(container)
    wake(container.exit_waiters, container)


async def _within(future: asyncio.Future[Any], seconds: float | None) -> bool:
    done, _ = await asyncio.wait([future], timeout=seconds)
    return bool(done)


async def _send(ctx: Context, container: Container, number: int, *, thaw: bool = True) -> None:
    try:
        await ctx.runtime.kill(container.id, number)
        if thaw and container.state.paused:  # the signal is delivered once it is thawed
            await ctx.runtime.resume(container.id)
            await _thawed(ctx, container)
    except NotRunning:  # it went by itself; its exit is on the way
        return
    except RuntimeCallError as error:
        raise Internal(f"cannot kill container: {container.name}: {error}") from error
    ctx.publish(container, "kill", signal=str(int(number)))


async def kill(ctx: Context, ref: str, signal: str | None) -> None:
    """Raises InvalidArgument (signal), NotFound, Conflict (not running); the API puts `cannot kill` in front."""
    container = ctx.registry.find(ref)
    number = signals.parse(signal) if signal else int(signals_module.SIGKILL)
    waiting: asyncio.Future[Any] | None = None
    async with container.lock:
        if not container.state.running:
            raise Conflict(f"container {container.id} is not running")
        stops = _stops(container, number)
        container.stopped_by_user = True
        container.restarts_off = container.restarts_off or stops
        if container.state.restarting:  # no process: there is only the restart to be called off
            if stops:
                await _give_up_restart(ctx, container)
            return
        await ctx.registry.save(container)
        if number == signals_module.SIGKILL:
            waiting = asyncio.get_running_loop().create_future()
            container.exit_waiters.append(waiting)
        await _send(ctx, container, number, thaw=stops)
    if waiting and not await _within(waiting, GRACE_AFTER_KILL):
        raise Internal("it did not end")


def _stops(container: Container, number: int) -> bool:
    """Whether the signal is meant as a stop: SIGKILL, the configured one, any where none is configured."""
    configured = container.config.get("StopSignal")
    return not configured or number in (int(signals_module.SIGKILL), signals.parse(configured))


async def pause(ctx: Context, ref: str) -> None:
    container = ctx.registry.find(ref)
    async with container.lock:
        if container.state.paused:
            raise Conflict(f"Container {container.id} is already paused")
        if container.state.restarting:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        if not container.state.alive:
            raise Conflict(f"container {container.id} is not running")
        await _runtime_call(ctx.runtime.pause(container.id), "pause", container)
        container.state.status = "paused"
        health.end(container)
        await ctx.registry.save(container)
        ctx.publish(container, "pause")


async def unpause(ctx: Context, ref: str) -> None:
    container = ctx.registry.find(ref)
    async with container.lock:
        if not container.state.paused:
            raise Internal(f"Container {container.id} is not paused")
        await _runtime_call(ctx.runtime.resume(container.id), "unpause", container)
        await _thawed(ctx, container)


async def _thawed(ctx: Context, container: Container) -> None:
    container.state.status = "running"
    health.begin(ctx, container)
    await ctx.registry.save(container)
    ctx.publish(container, "unpause")


async def _runtime_call(call: Any, what: str, container: Container) -> None:
    try:
        await call
    except NotRunning:
        raise Conflict(f"container {container.id} is not running") from None
    except RuntimeCallError as error:
        raise Internal(f"Cannot {what} container {container.id}: {error}") from error
