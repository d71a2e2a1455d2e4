"""What a cgroup has used: one record for v1, hybrid and v2.

Units are the kernel's smallest in both hierarchies: nanoseconds, bytes, counts. A limit of None means
"no limit" (v1 prints a huge number, v2 prints `max`). The records are NamedTuples and not dataclasses
because the supervisor and `pyd-oci` import this module at each start, and a frozen slotted dataclass
costs about half a millisecond to define.

`to_json` and `from_json` are the way over the supervisor's socket: plain lists and dicts, no pickles.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class CpuStats(NamedTuple):
    """Processor time. `per_cpu_ns` is empty on v2, which does not account by processor."""

    total_ns: int = 0
    user_ns: int = 0
    system_ns: int = 0
    per_cpu_ns: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0


class MemoryStats(NamedTuple):
    """Memory. `by_type` is `memory.stat` as the kernel prints it (names differ between v1 and v2).

    `usage` includes the page cache, which `cache` also gives apart (v1 `cache`, v2 `file`).
    `swap_usage` is swap alone in both (v1's memsw counters are memory plus swap: subtracted here),
    while `swap_limit` is memory plus swap on v1 and swap alone on v2, as the kernel enforces it.
    `failcnt` is how often the limit was hit (v1 `failcnt`, v2 `memory.events` `max`).
    """

    usage: int = 0
    peak: int = 0
    limit: int | None = None
    cache: int = 0
    failcnt: int = 0
    swap_usage: int = 0
    swap_limit: int | None = None
    kernel_usage: int = 0
    oom_kills: int = 0
    by_type: dict[str, int] = {}


class BlkioEntry(NamedTuple):
    """One counter of one device. `op` is Docker's word: read, write, sync, async, discard, total."""

    major: int
    minor: int
    op: str
    value: int


class BlkioStats(NamedTuple):
    """Block I/O, by the names of Docker's `blkio_stats`. v2 and v1's throttle counters fill the first two."""

    service_bytes: tuple[BlkioEntry, ...] = ()
    serviced: tuple[BlkioEntry, ...] = ()
    queued: tuple[BlkioEntry, ...] = ()
    service_time: tuple[BlkioEntry, ...] = ()
    wait_time: tuple[BlkioEntry, ...] = ()
    merged: tuple[BlkioEntry, ...] = ()
    time: tuple[BlkioEntry, ...] = ()
    sectors: tuple[BlkioEntry, ...] = ()


class PidsStats(NamedTuple):
    current: int = 0
    limit: int | None = None


class Stall(NamedTuple):
    """One line of a pressure file: percent over 10, 60, 300 seconds and the total in microseconds."""

    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0
    total_us: int = 0


class Pressure(NamedTuple):
    """Pressure stall information of one resource: `some` tasks stalled, or all (`full`)."""

    some: Stall = Stall()
    full: Stall | None = None


class Stats(NamedTuple):
    """One reading of one cgroup. `version` (1 or 2) says which hierarchy was read, since Docker's JSON
    leaves fields out on v2. `pressure` maps cpu, memory, io to what the kernel has (hybrid and v2)."""

    version: int
    taken_ns: int
    """When it was read: nanoseconds since the epoch."""
    cpu: CpuStats = CpuStats()
    memory: MemoryStats = MemoryStats()
    blkio: BlkioStats = BlkioStats()
    pids: PidsStats = PidsStats()
    pressure: dict[str, Pressure] = {}

    def to_json(self) -> list[Any]:
        """JSON-ready; NamedTuples are lists to JSON already, so this only names the intent."""
        return list(self)

    @classmethod
    def from_json(cls, value: list[Any]) -> Stats:
        """Back from what `json.loads` made of `to_json`."""
        version, taken_ns, cpu, memory, blkio, pids, pressure = value
        return cls(
            version,
            taken_ns,
            CpuStats(*cpu)._replace(per_cpu_ns=tuple(cpu[3])),
            MemoryStats(*memory),
            BlkioStats(*(tuple(BlkioEntry(*entry) for entry in entries) for entries in blkio)),
            PidsStats(*pids),
            {
                name: Pressure(Stall(*some), None if full is None else Stall(*full))
                for name, (some, full) in pressure.items()
            },
        )
