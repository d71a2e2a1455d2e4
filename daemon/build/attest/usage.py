"""What the machine was busy with while a build ran: the provenance's `sysUsage`, where `capture-usage` asks for it.

A sample at the begin and at the end, and between them one every two seconds, later ones fewer and fewer. BuildKit
tells besides what each step used, on cgroup v2 alone; that is not here.

Source: BuildKit executor/resources (sys_linux.go, sampler.go, types/systypes.go); proc(5).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Any

from daemon.images import times

Json = dict[str, Any]
INTERVAL = 2.0
MOST = 20
"""Samples; then every other one goes, and the next are twice as far apart."""
_CPU = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guestNice")
_PROCESSES = {"ctxt": "contextSwitches", "processes": "processCreated", "procs_running": "processesRunning"}
_MEMORY = {
    "MemTotal": "total",
    "MemFree": "free",
    "MemAvailable": "available",
    "Buffers": "buffers",
    "Cached": "cached",
    "Active": "active",
    "Inactive": "inactive",
    "SwapTotal": "swap",
    "Dirty": "dirty",
    "Writeback": "writeback",
    "Slab": "slab",
}
"""In kilobytes."""


class Usage:
    """One build's samples."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._samples: list[Json] = []
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            self._samples.append(await asyncio.to_thread(sample))
            if len(self._samples) >= MOST:
                del self._samples[1::2]
                self._interval *= 2
            await asyncio.sleep(self._interval)

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def samples(self) -> list[Json]:
        """So far, and one of now."""
        return [*self._samples, await asyncio.to_thread(sample)]


def sample(proc: Path = Path("/proc")) -> Json:
    """One moment, under BuildKit's names. Blocking."""
    lines = dict(line.partition(" ")[::2] for line in (proc / "stat").read_text().splitlines())
    ticks = os.sysconf("SC_CLK_TCK")
    spent = [round(int(value) / ticks, 3) for value in lines["cpu"].split()]
    memory = dict(line.partition(":")[::2] for line in (proc / "meminfo").read_text().splitlines())
    found: Json = {
        "timestamp": times.rfc3339(time.time_ns()),
        "cpuStat": dict(zip(_CPU, spent, strict=False)),
        "procStat": {shown: int(lines[name]) for name, shown in _PROCESSES.items()},
        "memoryStat": {
            shown: int(memory[name].split()[0]) for name, shown in _MEMORY.items() if name in memory
        },
    }
    for kind in ("cpu", "memory", "io"):
        with contextlib.suppress(OSError):
            found[f"{kind}Pressure"] = _pressure((proc / "pressure" / kind).read_text())
    return found


def _pressure(text: str) -> Json:
    found = {}
    for line in text.splitlines():
        name, *fields = line.split()
        values = dict(field.partition("=")[::2] for field in fields)
        found[name] = {key: int(value) if key == "total" else float(value) for key, value in values.items()}
    return found
