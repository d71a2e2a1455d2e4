"""`pyd update`: limits and restart policy of containers that exist."""

from __future__ import annotations

from typing import Any

from client.creation.body import _restart_policy
from client.errors import ClientError
from client.options import Command, Parsed
from client.session import Session, each, warn

FLAGS = """
 |blkio-weight|uint16|0|Relative weight of block IO, 10 to 1000, or 0 to leave it alone
 |cpu-period|int||Length of a CFS period in microseconds
 |cpu-quota|int||CPU time in each CFS period in microseconds
 |cpu-rt-period|int||Length of a real-time period in microseconds
 |cpu-rt-runtime|int||Real-time CPU time in each period in microseconds
c|cpu-shares|int||Relative weight of CPU time
 |cpus|decimal||Number of CPUs
 |cpuset-cpus|string||CPUs to run on (0-3, 0,1)
 |cpuset-mems|string||Memory nodes to use (0-3, 0,1)
 |!kernel-memory|bytes||Kernel memory limit (the kernel has none any more)
m|memory|bytes||Memory limit
 |memory-reservation|bytes||Soft memory limit
 |memory-swap|bytes:swap||Limit of memory and swap together, -1 for unlimited swap
 |pids-limit|int||Limit of processes (-1 for unlimited)
 |restart|string||What to do when the container exits
"""


def build_update(parsed: Parsed) -> dict[str, Any]:
    """The body of POST /containers/{id}/update: docker sends every resource, zero for what stays."""
    if not parsed.changed:
        raise ClientError("you must provide one or more flags when using this command")
    body: dict[str, Any] = {
        "CpuShares": parsed.number("cpu-shares"),
        "Memory": parsed.number("memory"),
        "NanoCpus": parsed.number("cpus"),
        "CgroupParent": "",
        "BlkioWeight": parsed.number("blkio-weight"),
        "BlkioWeightDevice": None,
        "BlkioDeviceReadBps": None,
        "BlkioDeviceWriteBps": None,
        "BlkioDeviceReadIOps": None,
        "BlkioDeviceWriteIOps": None,
        "CpuPeriod": parsed.number("cpu-period"),
        "CpuQuota": parsed.number("cpu-quota"),
        "CpuRealtimePeriod": parsed.number("cpu-rt-period"),
        "CpuRealtimeRuntime": parsed.number("cpu-rt-runtime"),
        "CpusetCpus": parsed.text("cpuset-cpus"),
        "CpusetMems": parsed.text("cpuset-mems"),
        "Devices": None,
        "DeviceCgroupRules": None,
        "DeviceRequests": None,
        "MemoryReservation": parsed.number("memory-reservation"),
        "MemorySwap": parsed.number("memory-swap"),
        "MemorySwappiness": None,
        "OomKillDisable": None,
        "PidsLimit": parsed.number("pids-limit") if "pids-limit" in parsed.changed else None,
        "Ulimits": None,
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
        "RestartPolicy": _restart_policy(parsed.text("restart")),
    }
    if parsed.number("kernel-memory"):
        body["KernelMemory"] = parsed.number("kernel-memory")
    return body


def update(session: Session, parsed: Parsed) -> int:
    body = build_update(parsed)
    warnings: list[str] = []

    def one(name: str) -> None:
        answer = session.api.json("POST", f"/containers/{name}/update", json=body)
        warnings.extend((answer or {}).get("Warnings") or [])

    failed = each(parsed.arguments, one)
    if warnings:
        warn("\n".join(warnings))
    return failed


COMMANDS = (
    Command(("update", "container update"), "CONTAINER [CONTAINER...]",
            "Update configuration of one or more containers", update, FLAGS, least=1, completes="containers"),
)  # fmt: skip
