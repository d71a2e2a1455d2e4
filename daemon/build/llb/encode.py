"""Vertices to a definition."""

from __future__ import annotations

from typing import Any

from daemon.build.graph import Output
from storage.errors import NotImplementedYet


class Encoder:
    def __init__(self, known: Any) -> None:
        self._known = known

    def run(self, output: Output | None) -> Any:
        raise NotImplementedYet("definitions of LLB")
