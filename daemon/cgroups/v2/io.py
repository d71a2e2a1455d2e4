"""The v2 io controller (Documentation/admin-guide/cgroup-v2.rst, "IO").

`io.bfq.weight` belongs to the BFQ scheduler and takes v1's scale; `io.weight` (io.cost) takes 1 to 10000.
"""

from __future__ import annotations

from daemon.cgroups import files
from daemon.cgroups.convert import io_weight

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daemon.cgroups.stats import BlkioEntry, BlkioStats

_THROTTLES = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}

_BYTES = {"rbytes": "read", "wbytes": "write", "dbytes": "discard"}
_OPERATIONS = {"rios": "read", "wios": "write", "dios": "discard"}


def wants(resources: dict[str, Any]) -> bool:
    block = resources.get("blockIO") or {}
    return any(block.values())


def apply(directory: str, resources: dict[str, Any]) -> None:
    block = resources.get("blockIO") or {}
    if not block:
        return
    bfq = files.exists(f"{directory}/io.bfq.weight")
    if block.get("weight"):
        if bfq:
            files.write(f"{directory}/io.bfq.weight", block["weight"])
        else:
            files.write(f"{directory}/io.weight", io_weight(block["weight"]))
    for device in block.get("weightDevice") or ():
        if device.get("weight"):
            number = f"{device['major']}:{device['minor']}"
            name, weight = (
                ("io.bfq.weight", device["weight"]) if bfq else ("io.weight", io_weight(device["weight"]))
            )
            files.write(f"{directory}/{name}", f"{number} {weight}")
    for key, word in _THROTTLES.items():
        for device in block.get(key) or ():
            rate = device["rate"] or "max"  # v1 takes 0 for "no limit", v2 refuses it
            files.write(f"{directory}/io.max", f"{device['major']}:{device['minor']} {word}={rate}")


def stats(directory: str) -> BlkioStats:
    """`io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6` a device."""
    from daemon.cgroups.stats import BlkioEntry, BlkioStats

    service_bytes: list[BlkioEntry] = []
    serviced: list[BlkioEntry] = []
    for line in (files.read_optional(f"{directory}/io.stat") or "").splitlines():
        number, *fields = line.split()
        major, _, minor = number.partition(":")
        for field in fields:
            key, _, value = field.partition("=")
            if key in _BYTES:
                service_bytes.append(BlkioEntry(int(major), int(minor), _BYTES[key], int(value)))
            elif key in _OPERATIONS:
                serviced.append(BlkioEntry(int(major), int(minor), _OPERATIONS[key], int(value)))
    return BlkioStats(service_bytes=tuple(service_bytes), serviced=tuple(serviced))
