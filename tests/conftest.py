"""Shared by all tests: the machine must look the same after the run as before it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.footprint import Footprint


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Processes, mounts, network namespaces and devices, cgroups, firewall tables: all gone at the end."""
    if os.getuid() != 0:
        yield
        return
    before = Footprint.take()
    yield
    leftovers = Footprint.settled_since(before)
    assert not leftovers, "left behind after the tests:\n  " + "\n  ".join(leftovers)
