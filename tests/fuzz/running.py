"""How fuzz tests run: seconds in CI, minutes at night, always with new examples; what was found stays as a test.

    @fuzz(text=st.text())
    def test_something(text: str) -> None: ...

makes `test_something`, and a `nightly` one in which it goes on for NIGHT seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NIGHT = 150.0
"""Four files of them make ten minutes."""


def once(check: Callable[..., None], examples: int, **strategies: st.SearchStrategy[Any]) -> None:
    """Runs `check` on that many examples; hypothesis shows the smallest that fails."""

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(**strategies)
    def run(**arguments: Any) -> None:
        check(**arguments)

    run()


def all_night(check: Callable[..., None], **strategies: st.SearchStrategy[Any]) -> None:
    end = time.monotonic() + NIGHT
    while time.monotonic() < end:
        once(check, 200, **strategies)
