"""A definition to vertices."""

from __future__ import annotations

from typing import Any

from daemon.build.graph import Output
from storage.errors import NotImplementedYet


class Decoder:
    def __init__(self, definition: Any, known: Any) -> None:
        self._definition, self._known = definition, known

    def run(self) -> Output | None:
        raise NotImplementedYet("definitions of LLB")
