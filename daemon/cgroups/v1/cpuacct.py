"""The v1 cpuacct controller: accounting only (Documentation/admin-guide/cgroup-v1/cpuacct.rst)."""

from __future__ import annotations

import os

from daemon.cgroups import files

_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def usage(directory: str) -> tuple[int, int, int, tuple[int, ...]]:
    """Total, user and system nanoseconds, and the total by processor.

    `cpuacct.usage_all` (Linux 4.7) has nanoseconds by processor and mode; before it, `cpuacct.stat` has
    user and system in clock ticks only.
    """
    total = files.read_int(f"{directory}/cpuacct.usage")
    table = files.read_optional(f"{directory}/cpuacct.usage_all")
    if table is not None:
        rows = [line.split() for line in table.splitlines()[1:]]
        user = tuple(int(row[1]) for row in rows)
        system = tuple(int(row[2]) for row in rows)
        return total, sum(user), sum(system), tuple(u + s for u, s in zip(user, system, strict=True))
    stat = files.read_keyed(f"{directory}/cpuacct.stat")
    per_cpu = (files.read_optional(f"{directory}/cpuacct.usage_percpu") or "").split()
    return (
        total,
        stat.get("user", 0) * _NS_PER_TICK,
        stat.get("system", 0) * _NS_PER_TICK,
        tuple(int(value) for value in per_cpu),
    )
