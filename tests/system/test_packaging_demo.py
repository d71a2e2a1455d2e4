"""`make demo` and `make stop`, as a newcomer runs them: on the machine's own default roots."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from daemon.undo import mounts_below
from tests.system.host import ENVIRONMENT, REPOSITORY

DEFAULTS = [
    Path(name) for name in ("/run/pyd", "/var/lib/pyd", "/run/pyd.sock", "/run/pyd.pid", "/var/log/pydd.log")
]


def demo(*arguments: str) -> str:
    result = subprocess.run(
        [REPOSITORY / "docs" / "demo", *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_demo_twice_then_stop_leaves_nothing() -> None:
    if any(path.exists() for path in DEFAULTS):
        pytest.skip("somebody's own pydd with the default roots is on this machine")
    try:
        first = demo()
        assert "Hello from a container." in first
        assert "isolated: pid 1, host demo," in first and "memory 64 MiB" in first
        start = time.monotonic()
        second = demo()
        assert time.monotonic() - start < 30
        assert "Hello from a container." in second
    finally:
        assert "pyd is stopped and gone" in demo("stop")
    assert [path for path in DEFAULTS if path.exists()] == []
    assert [point for path in DEFAULTS for point in mounts_below(path)] == []
    assert list(Path("/sys/fs/cgroup").glob("*/pyd")) == []
    assert "pyd0" not in os.listdir("/sys/class/net")
    assert "gone" in demo("stop"), "stop is idempotent"


def test_make_alone_lists_the_targets() -> None:
    shown = subprocess.run(["make"], capture_output=True, text=True, cwd=REPOSITORY, check=True).stdout
    for target in ("setup", "demo", "stop", "test", "bench", "install"):
        assert f"make {target} " in shown
