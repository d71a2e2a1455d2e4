"""Health checks: HEALTHCHECK run by exec on a timer, Docker's states and log (moby daemon/health.go).

starting ──success──► healthy ◄──► unhealthy (after `Retries` failures in a row)

During StartPeriod failures don't count, and probes come every StartInterval. A container without a
check has no timer. Only changes of state are written; results in between are kept in memory, as moby does.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any

from daemon.clock import SECOND, now_ns, rfc3339
from daemon.containers import merge
from daemon.containers.context import Context
from daemon.containers.model import Container, Health
from daemon.containers.probe import Probe, ProbeTimeout
from daemon.containers.wire import HealthConfig
from daemon.runtime.client import RuntimeCallError
from storage.errors import PydError

log = logging.getLogger("pyd.health")

INTERVAL = TIMEOUT = 30 * SECOND
START_INTERVAL = 5 * SECOND
RETRIES = 3
KEPT_RESULTS = 5
OUTPUT_LIMIT = 4096

_monitors: dict[str, asyncio.Task[Any]] = {}


def command(container: Container) -> list[str] | None:
    """The probe's argv, or None where there is no check."""
    check = container.config.get("Healthcheck") or HealthConfig()
    test = check.get("Test") or []
    if not test or test[0] == "NONE":
        return None
    if test[0] == "CMD":
        return test[1:]
    if test[0] != "CMD-SHELL":  # an image's own invention
        return None
    shell = merge.words(container.config.get("Shell")) or ["/bin/sh", "-c"]
    return [*shell, *test[1:]]


def reset(container: Container) -> None:
    """At start: "starting" again; results of an earlier life stay in the log, as Docker's do."""
    if command(container) is None:
        container.health = None
        return
    container.health = Health(log=container.health.log if container.health else [])


def begin(ctx: Context, container: Container) -> None:
    """Start probing a container that runs (after its start, a thaw, a restart of the daemon)."""
    argv = command(container)
    if argv is not None and container.health is not None:
        _cancel(container)
        _monitors[container.id] = ctx.spawn(_monitor(ctx, container, argv), f"health {container.short_id}")


def end(container: Container) -> None:
    """Stop probing (exit, pause). What is not probed is "unhealthy", for compatibility's sake in Docker."""
    _cancel(container)
    if container.health:
        container.health.status = "unhealthy"


def _cancel(container: Container) -> None:
    task = _monitors.pop(container.id, None)
    if task:
        task.cancel()


def _setting(check: HealthConfig, name: str, default: int) -> int:
    value: Any = check.get(name)
    return int(value or default)


async def _monitor(ctx: Context, container: Container, argv: list[str]) -> None:
    check = container.config.get("Healthcheck") or HealthConfig()
    timeout = _setting(check, "Timeout", TIMEOUT) / SECOND
    while container.state.alive and container.health:
        await asyncio.sleep(_pause(check, container.state.started_at, container.health) / SECOND)
        began = now_ns()
        output, code = await _run(ctx, container, argv, timeout)
        result = {"Start": rfc3339(began), "End": rfc3339(now_ns()), "ExitCode": code, "Output": output}
        in_start_period = began - container.state.started_at < _setting(check, "StartPeriod", 0)
        await _record(ctx, container, result, _setting(check, "Retries", RETRIES), in_start_period)


def _pause(check: HealthConfig, started_at: int, health: Health) -> int:
    """Nanoseconds until the next probe: StartInterval while it starts within StartPeriod, else Interval."""
    starting = health.status == "starting" and now_ns() - started_at < _setting(check, "StartPeriod", 0)
    return (
        _setting(check, "StartInterval", START_INTERVAL)
        if starting
        else _setting(check, "Interval", INTERVAL)
    )


async def _run(ctx: Context, container: Container, argv: list[str], timeout: float) -> tuple[str, int]:
    """Output and exit code; -1 for a probe that could not be run or took too long."""
    if not argv:
        return f"healthcheck for container {container.id} has no command", -1
    try:
        return await Probe(ctx, container, argv, secrets.token_hex(32)).run(timeout, OUTPUT_LIMIT)
    except ProbeTimeout as error:
        text = f"Health check exceeded timeout ({_go_duration(timeout)})"
        return f"{text}: {error.output}" if error.output else text, -1
    except (RuntimeCallError, PydError) as error:
        return str(error), -1


def _go_duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"


async def _record(
    ctx: Context, container: Container, result: dict[str, Any], retries: int, in_start_period: bool
) -> None:
    async with container.lock:
        state = container.health
        if state is None or not container.state.alive:
            return
        before = state.status
        state.log = [*state.log, result][-KEPT_RESULTS:]
        if result["ExitCode"] == 0:
            state.failing_streak, state.status = 0, "healthy"
        elif not (in_start_period and state.status == "starting"):
            state.failing_streak += 1
            if state.failing_streak >= retries:
                state.status = "unhealthy"
        if state.status != before:
            await ctx.registry.save(container)
            ctx.publish(container, f"health_status: {state.status}")
