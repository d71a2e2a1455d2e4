"""What one daemon holds on the host, in the kernel and on disk: the same before and after what failed.

Spares of the network pool come and go with their names, so namespaces and veths are counted, not named.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemon.config import DaemonConfig
from tests.system.host import Host

Holdings = dict[str, Any]


def take(host: Host) -> Holdings:
    config = DaemonConfig(data_root=host.data_root, exec_root=host.exec_root)
    netns = config.exec_root / "netns"
    return {
        "mounts": sorted(_mounts(str(host.directory), str(netns))),
        "namespaces": len(os.listdir(netns)),
        "veths": len(os.listdir(f"/sys/class/net/{config.bridge}/brif")),
        "firewall elements": _elements(config.firewall_table),
        "cgroups": sorted(_cgroups(config.cgroup_root)),
        "processes": _children(host),
        "bundles": _names(config.exec_root / "containers"),
        "containers": _names(config.data_root / "containers"),
        "volumes": _names(config.data_root / "volumes"),
        "half-written blobs": _names(config.data_root / "content" / "ingest")
        + _names(config.data_root / "tmp"),
        "blobs": len(_names(config.data_root / "content" / "blobs" / "sha256")),
        "snapshots": len(_names(config.data_root / "snapshots")),
    }


@contextmanager
def unchanged(host: Host, *, seconds: float = 15) -> Iterator[None]:
    """After the block the daemon holds what it held before it; what ends in the background gets a while."""
    before = settled(host)
    yield
    compare(host, before, seconds=seconds)


def settled(host: Host) -> Holdings:
    """Holdings once the pool is full and the last test's remains are gone."""
    last, end = take(host), time.monotonic() + 10
    while time.monotonic() < end:
        time.sleep(0.25)
        now = take(host)
        if now == last and now["namespaces"] >= 6:
            return now
        last = now
    return last


def compare(host: Host, before: Holdings, *, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while True:
        now = take(host)
        now["processes"] = max(now["processes"], before["processes"])  # one that ended is no loss
        differing = {key: (before[key], now[key]) for key in before if before[key] != now[key]}
        if not differing:
            return
        assert time.monotonic() < end, f"left behind (before, now): {differing}"
        time.sleep(0.1)


def _names(path: Path) -> list[str]:
    return sorted(os.listdir(path)) if path.is_dir() else []


def _mounts(directory: str, netns: str) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = line.split()[4]
        if target.startswith(directory) and not target.startswith(netns):
            yield target


def _elements(table: str) -> int:
    listed = subprocess.run(["nft", "-j", "list", "table", "inet", table], capture_output=True, check=True)
    found = 0
    for entry in json.loads(listed.stdout)["nftables"]:
        for kind in ("set", "map"):
            found += len(entry.get(kind, {}).get("elem", ()))
    return found


def _cgroups(root: str) -> Iterator[str]:
    for hierarchy in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        if (hierarchy / root).is_dir():
            for directory, _, _ in os.walk(hierarchy / root):
                if directory != str(hierarchy / root):
                    yield directory


def _children(host: Host) -> int:
    """Processes whose parent is the supervisor or the daemon: containers, workers, tools."""
    parents = {str(pid) for pid in host.supervisor_pids()}
    count = 0
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            count += fields[1] in parents and b"keeper" not in command
    return count
