"""Samples of the machine: /proc's words under BuildKit's names, and not too many of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from daemon.build.attest import usage

STAT = "cpu  200 100 300 4000 50 0 7 1 0 0\ncpu0 1 1 1 1\nctxt 99\nbtime 1\nprocesses 12\nprocs_running 3\n"
MEMORY = "MemTotal:       1000 kB\nMemFree:         500 kB\nSwapTotal:         7 kB\nHugePages_Total:   0\n"
PRESSURE = (
    "some avg10=1.50 avg60=0.00 avg300=0.00 total=123\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4\n"
)


def test_a_sample(tmp_path: Path) -> None:
    (tmp_path / "pressure").mkdir()
    (tmp_path / "stat").write_text(STAT)
    (tmp_path / "meminfo").write_text(MEMORY)
    (tmp_path / "pressure/io").write_text(PRESSURE)
    found = usage.sample(tmp_path)
    assert found["cpuStat"]["user"] == 2.0 and found["cpuStat"]["softirq"] == 0.07
    assert found["procStat"] == {"contextSwitches": 99, "processCreated": 12, "processesRunning": 3}
    assert found["memoryStat"] == {"total": 1000, "free": 500, "swap": 7}
    assert found["ioPressure"]["some"] == {"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 123}
    assert "cpuPressure" not in found


async def test_a_long_build_has_no_more_samples_than_a_short_one() -> None:
    watched = usage.Usage(interval=0.0001)
    await asyncio.sleep(0.5)
    samples = await watched.samples()
    await watched.close()
    assert 10 <= len(samples) <= usage.MOST + 1
    stamps = [each["timestamp"] for each in samples]
    assert stamps == sorted(stamps)
