"""Health checks: HEALTHCHECK run by exec on a timer, Docker's states and log (moby daemon/health.go).

starting ──success──► healthy ◄──► unhealthy (after `Retries` failures in a row)

During StartPeriod failures don't count, and probes come every StartInterval. A container without a
check has no timer.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from typing import Any

from daemon.clock import SECOND, now_ns, rfc3339
from daemon.containers import merge
from daemon.containers.context import Context
from daemon.containers.model import Container, Health
from daemon.containers.probe import Probe
from daemon.containers.wire import HealthConfig
from daemon.runtime.client import RuntimeCallError

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
    shell = merge.words(container.config.get("Shell")) or ["/bin/sh", "-c"]
    return [*shell, *test[1:2]]


def reset(container: Container) -> None:
    """At start: back to "starting" with an empty log."""
    container.health = Health() if command(container) else None


def begin(ctx: Context, container: Container) -> None:
    argv = command(container)
    if argv:
        end(container)
        _monitors[container.id] = ctx.spawn(_monitor(ctx, container, argv), f"health {container.short_id}")


def end(container: Container) -> None:
    """Stop probing; a container that ends while it was healthy is unhealthy no more than it runs."""
    task = _monitors.pop(container.id, None)
    if task:
        task.cancel()
    if container.health:
        container.health.status = "unhealthy"


def _setting(check: HealthConfig, name: str, default: int) -> int:
    value: Any = check.get(name)
    return int(value or default)


async def _monitor(ctx: Context, container: Container, argv: list[str]) -> None:
    check = container.config.get("Healthcheck") or HealthConfig()
    interval, timeout = _setting(check, "Interval", INTERVAL), _setting(check, "Timeout", TIMEOUT)
    start_period = _setting(check, "StartPeriod", 0)
    start_interval = _setting(check, "StartInterval", START_INTERVAL)
    began = now_ns()
    while container.state.alive and container.health:
        starting = container.health.status == "starting" and now_ns() - began < start_period
        pause = min(start_interval, interval) if starting else interval
        await asyncio.sleep(pause / SECOND)
        if container.state.paused:
            continue
        result = await _run(ctx, container, argv, timeout / SECOND)
        if not container.state.alive or container.health is None:
            return
        in_start_period = now_ns() - began < start_period
        await _record(ctx, container, result, _setting(check, "Retries", RETRIES), in_start_period)


async def _run(ctx: Context, container: Container, argv: list[str], timeout: float) -> dict[str, Any]:
    began = now_ns()
    mine, theirs = socket.socketpair()
    probe = Probe(ctx, container, argv, secrets.token_hex(32))
    try:
        output, code = await probe.run(mine, theirs, timeout, OUTPUT_LIMIT)
    except TimeoutError:
        output, code = f"Health check exceeded timeout ({_go_duration(timeout)})", -1
    except RuntimeCallError as error:
        output, code = str(error), -1
    finally:
        mine.close()
        theirs.close()
    return {"Start": rfc3339(began), "End": rfc3339(now_ns()), "ExitCode": code, "Output": output}


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
