"""Many containers at once: how fast they come, what they cost while they sleep."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.cases import Setting
from benchmarks.engines import Engine
from benchmarks.measure import Row, processor_seconds, proportional, resident, seconds

AT_ONCE = 10
WATCHED = 10.0


def idle(setting: Setting) -> Iterator[Row]:
    for side in setting.sides:
        side.docker("ps")
    used = [resident(side.processes()) for side in setting.sides]
    yield Row.of("memory, no container (RSS of all processes)", "MB", used, limit=90)
    used = [proportional(side.processes()) for side in setting.sides]
    yield Row.of("memory, no container (PSS: shared pages once)", "MB", used, limit=90)


def crowd(setting: Setting) -> Iterator[Row]:
    count = setting.many
    measured = [_crowd_of(side, count) for side in setting.sides]
    rates, costs, loads = zip(*measured, strict=True)
    name = f"containers started a second, {count} in all, {AT_ONCE} at a time"
    yield Row.of(name, "1/s", rates, ratio_limit=3, more_is_better=True)
    yield Row.of(f"memory for each of {count} idle containers (PSS)", "MB", costs, limit=3)
    yield Row.of(f"processor while {count} containers idle", "%", loads, limit=1)


def _crowd_of(side: Engine, count: int) -> tuple[float, float, float]:
    """(containers a second, MB for each, percent of one processor)."""
    before = proportional(side.processes())
    try:
        taken = seconds(lambda: side.run_many(count, AT_ONCE))
        time.sleep(2)
        processes = side.processes()
        cost = (proportional(processes) - before) / count
        before_watch = processor_seconds(processes)
        time.sleep(WATCHED)
        after = processor_seconds(side.processes())
        load = 100 * sum(used - before_watch.get(pid, 0) for pid, used in after.items()) / WATCHED
    finally:
        side.clean()
    return count / taken, cost, load
