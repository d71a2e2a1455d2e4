"""Shared by all tests: the commands of .venv come first, and the machine looks the same after as before."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests import footprint

os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
footprint.watch_directories()

BEFORE = pytest.StashKey[tuple[footprint.Footprint, bool]]()


def _looks(config: pytest.Config) -> bool:
    """Not a process that runs a share of the tests (pytest-xdist): the one that started it looks for all."""
    return os.getuid() == 0 and not hasattr(config, "workerinput")


def pytest_sessionstart(session: pytest.Session) -> None:
    if _looks(session.config):
        session.config.stash[BEFORE] = (footprint.Footprint.take(), footprint.crowd())


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Processes, mounts, network namespaces and devices, cgroups, firewall tables: all gone at the end."""
    if BEFORE not in session.config.stash:
        return
    before, crowded = session.config.stash[BEFORE]
    leftovers = before.left_since(alone=not (crowded or footprint.crowd()))
    if leftovers:
        print("\nleft behind by the tests:\n  " + "\n  ".join(map(str, leftovers)), flush=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
