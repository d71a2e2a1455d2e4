"""What a measurement is: medians of alternating runs, memory and processor time read from /proc.

Alternating (ours, theirs, ours ...) makes a busy moment of the machine fall on both.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

Action = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table. `limit` is pyd's promise in `unit`; `ratio_limit` the promise relative to the peer."""

    name: str
    unit: str
    ours: float
    theirs: float | None = None
    limit: float | None = None
    ratio_limit: float | None = None
    more_is_better: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        unit: str,
        values: Sequence[float],
        *,
        limit: float | None = None,
        ratio_limit: float | None = None,
        more_is_better: bool = False,
    ) -> Row:
        """`values` of pyd and, where there is one, of the peer."""
        return cls(name, unit, values[0], [*values, None][1], limit, ratio_limit, more_is_better)

    @property
    def ratio(self) -> float | None:
        """Ours by theirs."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def target(self) -> str:
        sign = "≥" if self.more_is_better else "≤"
        parts = []
        if self.limit is not None:
            parts.append(f"{sign} {number(self.limit)} {self.unit}")
        if self.ratio_limit is not None:
            parts.append(f"{sign} {number(self.ratio_limit)} x")
        return " or ".join(parts)

    @property
    def met(self) -> bool | None:
        """None without a target, or without the peer that it is relative to. Either of two targets is enough."""
        checks = []
        if self.limit is not None:
            checks.append(self._within(self.ours, self.limit))
        if self.ratio_limit is not None and self.ratio is not None:
            checks.append(self._within(self.ratio, self.ratio_limit))
        return any(checks) if checks else None

    def _within(self, value: float, limit: float) -> bool:
        return value >= limit if self.more_is_better else value <= limit


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def seconds(action: Action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def alternate(actions: Sequence[Action], rounds: int, *, warm: int = 1) -> list[float]:
    """Medians in milliseconds, one for each action."""
    for _ in range(warm):
        for action in actions:
            action()
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for action, taken in zip(actions, times, strict=True):
            taken.append(seconds(action) * 1000)
    return [statistics.median(taken) for taken in times]


def resident(pids: Iterable[int]) -> float:
    """Their resident memory in MB, pages that they share counted for each (VmRSS)."""
    return sum(_field(pid, "status", "VmRSS") for pid in pids) / 1024


def proportional(pids: Iterable[int]) -> float:
    """Their memory in MB, pages that several processes share counted once in all (Pss)."""
    return sum(_field(pid, "smaps_rollup", "Pss") for pid in pids) / 1024


def _field(pid: int, file: str, name: str) -> int:
    """A field in kB; 0 for a process that has ended."""
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:")), 0)


def processor_seconds(pids: Iterable[int]) -> dict[int, float]:
    """User and system time that each has used: fields 14 and 15 of proc_pid_stat(5)."""
    used = {}
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        used[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def family(pids: Iterable[int]) -> list[int]:
    """These processes and all their descendants, containers' processes left out by the caller."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(
                    Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1]
                )
            except OSError:
                continue
    found = list(pids)
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid and child not in found]
    return found
