"""`stats`: Docker's JSON from one typed reading, one sampler a container however many clients stream."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from daemon.cgroups import Stats
from daemon.cgroups.stats import BlkioEntry
from daemon.clock import NEVER, rfc3339
from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.runtime.client import RuntimeCallError

INTERVAL = 1.0
PATIENCE = 0.1
"""Seconds between the end of a container's accounting and the news of its exit, at most so far apart."""
Sample = dict[str, Any]


class Sampler:
    """Reads a container once a second while anyone streams it."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._clients: dict[str, set[asyncio.Queue[Sample | None]]] = defaultdict(set)
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def stream(self, ref: str, *, stream: bool, one_shot: bool) -> AsyncIterator[Sample]:
        """Samples with the one before in `precpu_stats`; one sample unless `stream`."""
        container = self._ctx.registry.find(ref)
        if not stream:
            yield await self._single(container, one_shot)
            return
        while container.id in self._ctx.registry:
            if container.state.alive:
                async with contextlib.aclosing(self._live(container)) as live:
                    async for sample in live:
                        yield sample
                await asyncio.sleep(PATIENCE)
            # dockerd keeps the stream of a container that stops, with one empty sample a second
            while container.id in self._ctx.registry and not container.state.alive:
                yield empty(container)
                await asyncio.sleep(INTERVAL)

    async def _live(self, container: Container) -> AsyncGenerator[Sample, None]:
        """Samples of the container's one sampler, until it stops running."""
        queue: asyncio.Queue[Sample | None] = asyncio.Queue(maxsize=8)
        self._clients[container.id].add(queue)
        if container.id not in self._tasks:
            self._tasks[container.id] = self._ctx.spawn(
                self._sample(container), f"stats {container.short_id}"
            )
        try:
            while (sample := await queue.get()) is not None:
                yield sample
        finally:
            self._clients[container.id].discard(queue)
            if not self._clients[container.id]:
                del self._clients[container.id]
                task = self._tasks.pop(container.id, None)
                if task:
                    task.cancel()

    async def _single(self, container: Container, one_shot: bool) -> Sample:
        if not container.state.alive:
            return empty(container)
        before = None if one_shot else await self._read(container, None)
        if before is not None:
            await asyncio.sleep(INTERVAL)
        return await self._read(container, before) or empty(container)

    async def _sample(self, container: Container) -> None:
        before: Sample | None = None
        while container.state.alive:
            sample = await self._read(container, before)
            if sample is None:
                break
            for queue in tuple(self._clients.get(container.id, ())):
                if not queue.full():
                    queue.put_nowait(sample)
            before = sample
            await asyncio.sleep(INTERVAL)
        self._tasks.pop(container.id, None)
        for queue in tuple(self._clients.get(container.id, ())):
            while queue.full():
                queue.get_nowait()
            queue.put_nowait(None)

    async def _read(self, container: Container, before: Sample | None) -> Sample | None:
        try:
            reading = await self._ctx.runtime.stats(container.id)
            networks = await asyncio.to_thread(network_counters, container.state.pid)
        except (RuntimeCallError, OSError):
            return None
        return as_docker(container, reading, networks, before)


def empty(container: Container) -> Sample:
    """What dockerd answers for a container that does not run."""
    return {
        "name": f"/{container.name}",
        "id": container.id,
        "read": NEVER,
        "preread": NEVER,
        "pids_stats": {},
        "blkio_stats": _blkio(None),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _NO_CPU,
        "precpu_stats": _NO_CPU,
        "memory_stats": {},
    }


_NO_CPU: dict[str, Any] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


def as_docker(
    container: Container, reading: Stats, networks: dict[str, dict[str, int]], before: Sample | None
) -> Sample:
    cpu = reading.cpu
    usage: dict[str, Any] = {
        "total_usage": cpu.total_ns,
        "usage_in_kernelmode": cpu.system_ns,
        "usage_in_usermode": cpu.user_ns,
    }
    if cpu.per_cpu_ns:
        usage["percpu_usage"] = list(cpu.per_cpu_ns)
    sample: Sample = {
        "name": f"/{container.name}",
        "id": container.id,
        "read": rfc3339(reading.taken_ns),
        "preread": before["read"] if before else NEVER,
        "pids_stats": _without_none(current=reading.pids.current, limit=reading.pids.limit),
        "blkio_stats": _blkio(reading),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": {
            "cpu_usage": usage,
            "system_cpu_usage": host_cpu_ns(),
            "online_cpus": os.cpu_count() or 1,
            "throttling_data": {
                "periods": cpu.periods,
                "throttled_periods": cpu.throttled_periods,
                "throttled_time": cpu.throttled_ns,
            },
        },
        "precpu_stats": before["cpu_stats"] if before else _NO_CPU,
        "memory_stats": _memory(reading),
    }
    if networks:
        sample["networks"] = networks
    return sample


def _without_none(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _memory(reading: Stats) -> dict[str, Any]:
    memory = reading.memory
    shown: dict[str, Any] = {"usage": memory.usage, "stats": memory.by_type}
    if reading.version == 1:
        shown |= {"max_usage": memory.peak}
        if memory.failcnt:
            shown["failcnt"] = memory.failcnt
    shown["limit"] = memory.limit if memory.limit is not None else host_memory()
    return shown


def _entries(entries: tuple[BlkioEntry, ...] | None) -> list[dict[str, Any]] | None:
    if entries is None:
        return None
    return [{"major": e.major, "minor": e.minor, "op": e.op, "value": e.value} for e in entries]


def _blkio(reading: Stats | None) -> dict[str, Any]:
    io = reading.blkio if reading else None
    v2 = reading is not None and reading.version == 2

    def rest(name: str) -> list[dict[str, Any]] | None:
        return None if io is None or v2 else _entries(getattr(io, name))

    return {
        "io_service_bytes_recursive": _entries(io.service_bytes) if io else None,
        "io_serviced_recursive": rest("serviced"),
        "io_queue_recursive": rest("queued"),
        "io_service_time_recursive": rest("service_time"),
        "io_wait_time_recursive": rest("wait_time"),
        "io_merged_recursive": rest("merged"),
        "io_time_recursive": rest("time"),
        "sectors_recursive": rest("sectors"),
    }


def host_cpu_ns() -> int:
    """Processor time of the machine since boot, all states (proc_stat(5)); what `docker stats` divides by."""
    with open("/proc/stat", "rb") as file:
        fields = file.readline().split()[1:9]
    return sum(int(f) for f in fields) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def host_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


_COLUMNS = (
    "rx_bytes",
    "rx_packets",
    "rx_errors",
    "rx_dropped",
    "tx_bytes",
    "tx_packets",
    "tx_errors",
    "tx_dropped",
)
_PLACES = (0, 1, 2, 3, 8, 9, 10, 11)


def network_counters(pid: int) -> dict[str, dict[str, int]]:
    """Per interface but lo, from /proc/PID/net/dev (proc_pid_net(5)); nothing for the host's namespace."""
    if os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
        return {}
    counters: dict[str, dict[str, int]] = {}
    with open(f"/proc/{pid}/net/dev") as file:
        for line in file.readlines()[2:]:
            name, _, rest = line.partition(":")
            values = rest.split()
            if name.strip() != "lo":
                counters[name.strip()] = {c: int(values[p]) for c, p in zip(_COLUMNS, _PLACES, strict=True)}
    return counters
