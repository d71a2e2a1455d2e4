"""`update`: new limits for a container, living or not, and a new restart policy."""

from __future__ import annotations

from typing import Any

from daemon.containers import ability, validate
from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.containers.spec.resources import limits
from daemon.runtime.client import RuntimeCallError
from storage.errors import Conflict, Internal, InvalidArgument

_LIMITS = (
    *("BlkioWeight", "CpuPeriod", "CpuQuota", "CpuRealtimePeriod", "CpuRealtimeRuntime", "CpuShares"),
    *("CpusetCpus", "CpusetMems", "Memory", "MemoryReservation", "MemorySwap", "NanoCpus", "PidsLimit"),
)


async def update(ctx: Context, ref: str, body: dict[str, Any]) -> dict[str, Any]:
    """Docker's `{"Warnings"}`. Raises InvalidArgument, NotFound, Conflict."""
    container = ctx.registry.find(ref)
    async with container.lock:
        if container.removing or container.state.dead:
            raise Conflict(
                f'cannot update container {ref}: container is marked for removal and cannot be "update"'
            )
        body, warnings = ability.kept(body)
        wanted = _merged(container, body)
        warnings += validate.resources(wanted)
        policy = body.get("RestartPolicy")
        if policy and policy.get("Name"):
            validate.restart_policy(policy)
            if container.host.get("AutoRemove") and policy["Name"] != "no":
                raise InvalidArgument(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container"
                )
            wanted["RestartPolicy"] = {
                "Name": policy["Name"],
                "MaximumRetryCount": policy.get("MaximumRetryCount") or 0,
            }
        if container.state.alive:
            await _apply(ctx, container, ref, limits(wanted))
        container.host = wanted
        await ctx.registry.save(container)
        ctx.publish(container, "update")
    return {"Warnings": warnings or None}


def _merged(container: Container, body: dict[str, Any]) -> Any:
    wanted: dict[str, Any] = dict(container.host)
    if body.get("NanoCpus") and (wanted.get("CpuPeriod") or wanted.get("CpuQuota")):
        raise InvalidArgument(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period/Quota has already been set"
        )
    if (body.get("CpuPeriod") or body.get("CpuQuota")) and wanted.get("NanoCpus"):
        raise InvalidArgument(
            "Conflicting options: CPU Period/Quota cannot be updated as NanoCPUs has already been set"
        )
    if body.get("Memory") and not body.get("MemorySwap"):
        swap = wanted.get("MemorySwap") or 0
        if swap > 0 and body["Memory"] > swap:
            raise InvalidArgument(
                "Memory limit should be smaller than already set memoryswap limit, "
                "update the memoryswap at the same time"
            )
    for field in _LIMITS:
        if body.get(field):
            wanted[field] = body[field]
    return wanted


async def _apply(ctx: Context, container: Container, ref: str, resources: dict[str, Any]) -> None:
    try:
        await ctx.runtime.update(container.id, resources)
    except RuntimeCallError as error:
        raise Internal(f"Cannot update container {ref}: {error}") from error
