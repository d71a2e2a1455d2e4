"""Every case takes the two sides and gives rows. A case that cannot run raises `Cannot` and says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engines import Engine, Peer, Pyd
from benchmarks.measure import Action, Row, alternate


class Cannot(Exception):
    """This machine lacks what the case needs."""


@dataclass(frozen=True)
class Setting:
    """What all cases share."""

    pyd: Pyd
    peer: Peer | None
    rounds: int
    many: int
    listed: int
    directory: Path

    @property
    def sides(self) -> list[Engine]:
        return [self.pyd, *([self.peer] if self.peer else [])]

    def compare(self, make: Callable[[Engine], Action]) -> tuple[float, float | None]:
        """Medians in milliseconds of pyd and of the peer."""
        medians = alternate([make(side) for side in self.sides], self.rounds)
        return medians[0], medians[1] if self.peer else None


Case = Callable[[Setting], Iterator[Row]]
