"""The tests' own guard notices leaks, and blames nobody else's daemons."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from daemon.config import DaemonConfig
from tests import footprint
from tests.footprint import Footprint, Thing, provably_ours


def test_a_child_left_running_is_found_until_it_is_gone() -> None:
    before = Footprint.take()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert str(child.pid) in [thing.name for thing in before.left_since(0, alone=False)]
    finally:
        child.kill()
        child.wait()
    assert str(child.pid) not in [thing.name for thing in before.left_since(5, alone=False)]


def test_what_lies_in_or_is_named_after_our_directories_is_ours() -> None:
    with tempfile.TemporaryDirectory(prefix="pyd-") as directory:
        identity = DaemonConfig(data_root=Path(directory, "data"), exec_root=Path(directory, "run")).identity
    ours = [
        Thing("mount", f"{directory}/run/netns/abc"),
        Thing("process", "4194304", f"python supervisor.py --exec-root {directory}/run"),
        Thing("cgroup", f"/sys/fs/cgroup/memory/{identity}"),
        Thing("network device", f"{identity}0"),
        Thing("firewall", f"table inet {identity}"),
    ]
    assert [thing for thing in ours if not provably_ours(thing, set())] == []


def test_another_daemons_things_are_not() -> None:
    with tempfile.TemporaryDirectory(prefix="pyd-") as directory:
        pass
    theirs = [
        Thing("mount", f"{directory}-other/run"),
        Thing("process", str(os.getppid()), "python -m api.serve --exec-root /tmp/other/run"),
        Thing("cgroup", "/sys/fs/cgroup/memory/pyd"),
        Thing("network device", "pyd00000000"),
        Thing("firewall", "table inet pyd"),
    ]
    assert [thing for thing in theirs if provably_ours(thing, footprint.descendants())] == []
