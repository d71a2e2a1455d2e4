"""The v1 blkio controller (Documentation/admin-guide/cgroup-v1/blkio-controller.rst).

Three schedulers have kept three sets of file names: CFQ (`blkio.weight`, gone since Linux 5.0), BFQ
(`blkio.bfq.weight`) and the throttling layer, which counts whatever scheduler a device has.
"""

from __future__ import annotations

from daemon.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daemon.cgroups.stats import BlkioEntry, BlkioStats

_THROTTLES = {
    "throttleReadBpsDevice": "blkio.throttle.read_bps_device",
    "throttleWriteBpsDevice": "blkio.throttle.write_bps_device",
    "throttleReadIOPSDevice": "blkio.throttle.read_iops_device",
    "throttleWriteIOPSDevice": "blkio.throttle.write_iops_device",
}

_COUNTERS = (
    # (bytes, operations) of each source, the fullest first
    ("blkio.bfq.io_service_bytes_recursive", "blkio.bfq.io_serviced_recursive"),
    ("blkio.io_service_bytes_recursive", "blkio.io_serviced_recursive"),
    ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
    ("blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"),
)

_DETAILS = {
    "queued": "io_queued_recursive",
    "service_time": "io_service_time_recursive",
    "wait_time": "io_wait_time_recursive",
    "merged": "io_merged_recursive",
    "time": "time_recursive",
    "sectors": "sectors_recursive",
}


def wants(resources: dict[str, Any]) -> bool:
    block = resources.get("blockIO") or {}
    return any(block.values())


def apply(directory: str, resources: dict[str, Any]) -> None:
    block = resources.get("blockIO") or {}
    if not block:
        return
    scheduler = "bfq." if files.exists(f"{directory}/blkio.bfq.weight") else ""
    if block.get("weight"):
        files.write(f"{directory}/blkio.{scheduler}weight", block["weight"])
    if block.get("leafWeight"):
        files.write(f"{directory}/blkio.leaf_weight", block["leafWeight"])
    for device in block.get("weightDevice") or ():
        number = f"{device['major']}:{device['minor']}"
        if device.get("weight"):
            files.write(f"{directory}/blkio.{scheduler}weight_device", f"{number} {device['weight']}")
        if device.get("leafWeight"):
            files.write(f"{directory}/blkio.leaf_weight_device", f"{number} {device['leafWeight']}")
    for key, file in _THROTTLES.items():
        for device in block.get(key) or ():
            files.write(f"{directory}/{file}", f"{device['major']}:{device['minor']} {device['rate']}")


def stats(directory: str) -> BlkioStats:
    """The first source that has counted anything; details where the kernel was built with them."""
    from daemon.cgroups.stats import BlkioStats

    for bytes_file, count_file in _COUNTERS:
        service_bytes = entries(directory, bytes_file)
        if service_bytes:
            details = {}
            prefix = bytes_file.partition("io_service_bytes")[0]
            if not prefix.startswith("blkio.throttle"):
                details = {name: entries(directory, prefix + file) for name, file in _DETAILS.items()}
            return BlkioStats(service_bytes=service_bytes, serviced=entries(directory, count_file), **details)
    return BlkioStats()


def entries(directory: str, name: str) -> tuple[BlkioEntry, ...]:
    """Lines `8:0 Read 4096`, or `8:0 123` where there is no operation; the closing `Total N` is dropped."""
    from daemon.cgroups.stats import BlkioEntry

    found = []
    for line in (files.read_optional(f"{directory}/{name}") or "").splitlines():
        number, _, rest = line.partition(" ")
        major, colon, minor = number.partition(":")
        if not colon:
            continue
        operation, _, value = rest.rpartition(" ")
        found.append(BlkioEntry(int(major), int(minor), operation.lower(), int(value)))
    return tuple(found)
