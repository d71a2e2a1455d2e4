"""kill -9 at random under random work: nothing that was acknowledged is lost, nothing is left behind.

`PYD_CHAOS_SEED` repeats a run's choices; the time of things is never the same.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.chaos import engine
from tests.system.host import Host


def seed() -> int:
    return int(os.environ.get("PYD_CHAOS_SEED") or random.randrange(1 << 32))


def chaos(host: Host, seconds: float) -> None:
    world = engine.run(host, seconds, seed())
    assert world.requests > 5 * seconds / 2, "too little happened to mean anything"
    assert sum(world.kills.values()) >= seconds / 6
    assert any(known.started for known in world.containers)
    engine.check(world)


@pytest.mark.slow
def test_twenty_seconds(own_host: Host) -> None:
    chaos(own_host, 20)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_ten_minutes(own_host: Host) -> None:
    chaos(own_host, 600)
