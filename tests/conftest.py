"""Shared by all tests: the commands of .venv come first, and the machine looks the same after as before."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import footprint

os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
footprint.watch_directories()


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Processes, mounts, network namespaces and devices, cgroups, firewall tables: all gone at the end."""
    if os.getuid() != 0:
        yield
        return
    crowded = footprint.crowd()
    before = footprint.Footprint.take()
    yield
    leftovers = before.left_since(alone=not (crowded or footprint.crowd()))
    assert not leftovers, "left behind by the tests:\n  " + "\n  ".join(map(str, leftovers))
