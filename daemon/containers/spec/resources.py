"""HostConfig's limits as the OCI runtime spec's `linux.resources` (moby daemon/daemon_unix.go)."""

from __future__ import annotations

import os
from typing import Any

from daemon.containers.spec.devices import cgroup_rules
from daemon.containers.wire import HostConfig, Resources, ThrottleDevice
from storage.errors import InvalidArgument

CFS_PERIOD = 100_000
NANO = 1_000_000_000


def linux_resources(host: HostConfig) -> dict[str, Any]:
    return limits(host) | {"devices": cgroup_rules(host)}


def limits(host: Resources) -> dict[str, Any]:
    """Everything but devices; also the body of an update of a living container."""
    resources: dict[str, Any] = {"memory": _memory(host), "cpu": _cpu(host), "blockIO": _block(host)}
    pids = host.get("PidsLimit")
    if pids:
        resources["pids"] = {"limit": pids}
    return {key: value for key, value in resources.items() if value}


def _present(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None and value != "" and value != 0}


def _memory(host: Resources) -> dict[str, Any]:
    memory = _present(
        limit=host.get("Memory"),
        swap=effective_swap(host),
        reservation=host.get("MemoryReservation"),
    )
    swappiness = host.get("MemorySwappiness")
    if swappiness is not None and swappiness >= 0:
        memory["swappiness"] = swappiness
    if host.get("OomKillDisable"):
        memory["disableOOMKiller"] = True
    return memory


def effective_swap(host: Resources) -> int:
    """Memory and swap together: twice the memory limit unless told otherwise, as Docker."""
    memory, swap = host.get("Memory") or 0, host.get("MemorySwap") or 0
    return 2 * memory if memory > 0 and swap == 0 else swap


def _cpu(host: Resources) -> dict[str, Any]:
    quota, period = host.get("CpuQuota") or 0, host.get("CpuPeriod") or 0
    nano = host.get("NanoCpus") or 0
    if nano:
        period, quota = CFS_PERIOD, nano * CFS_PERIOD // NANO
    return _present(
        shares=host.get("CpuShares"),
        quota=quota,
        period=period,
        realtimePeriod=host.get("CpuRealtimePeriod"),
        realtimeRuntime=host.get("CpuRealtimeRuntime"),
        cpus=host.get("CpusetCpus"),
        mems=host.get("CpusetMems"),
    )


def _device(path: str) -> dict[str, int]:
    try:
        number = os.stat(path).st_rdev
    except OSError:
        raise InvalidArgument(f"no such device: {path}") from None
    return {"major": os.major(number), "minor": os.minor(number)}


def _throttle(devices: list[ThrottleDevice] | None) -> list[dict[str, int]] | None:
    return [_device(d["Path"]) | {"rate": d.get("Rate", 0)} for d in devices or []] or None


def _block(host: Resources) -> dict[str, Any]:
    weights = [
        _device(d["Path"]) | {"weight": d.get("Weight", 0)} for d in host.get("BlkioWeightDevice") or []
    ]
    return _present(
        weight=host.get("BlkioWeight"),
        weightDevice=weights or None,
        throttleReadBpsDevice=_throttle(host.get("BlkioDeviceReadBps")),
        throttleWriteBpsDevice=_throttle(host.get("BlkioDeviceWriteBps")),
        throttleReadIOPSDevice=_throttle(host.get("BlkioDeviceReadIOps")),
        throttleWriteIOPSDevice=_throttle(host.get("BlkioDeviceWriteIOps")),
    )
