"""What a test run may not leave on the machine, taken before and compared after."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OURS = re.compile(r"pyd|pydd|keeper|supervisor|docker-registry|\bsleep\b")
NAMESPACES = re.compile(r"^pyd|^t-")


def _processes() -> set[str]:
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            parent = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if command and parent != "Z" and OURS.search(command):
            found.add(f"process {entry}: {command[:120]}")
    return found


def _mounts() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {f"mount {line.split()[4]}" for line in lines}


def _cgroups() -> set[str]:
    found = set()
    for directory, folders, _ in os.walk(CGROUPS):
        depth = directory.count("/") - str(CGROUPS).count("/")
        if depth > 3:
            folders.clear()
        found |= {f"cgroup {directory}/{name}" for name in folders if "pyd" in name or "pyd" in directory}
    return found


def _links() -> set[str]:
    return {f"network device {name}" for name in os.listdir("/sys/class/net")}


def _tables() -> set[str]:
    result = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False)
    return {f"firewall {line}" for line in result.stdout.splitlines() if "pyd" in line}


def _namespaces() -> set[str]:
    try:
        return {f"network namespace {name}" for name in os.listdir("/run/netns") if NAMESPACES.search(name)}
    except FileNotFoundError:
        return set()


@dataclass(frozen=True)
class Footprint:
    things: frozenset[str]

    @classmethod
    def take(cls) -> Footprint:
        parts = (_processes, _mounts, _cgroups, _links, _tables, _namespaces)
        return cls(frozenset().union(*(part() for part in parts)))

    @classmethod
    def settled_since(cls, before: Footprint, seconds: float = 10) -> list[str]:
        """What came and stayed; dying processes get a moment."""
        deadline = time.monotonic() + seconds
        while True:
            left = sorted(cls.take().things - before.things)
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.2)
