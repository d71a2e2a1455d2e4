"""The stages of a Dockerfile while they are followed, each FROM another: bounded memory, however many there are.

The last stage that is FROM another takes over its variables and its configuration, and of a stage that none is to be
FROM any more its files are kept alone: a chain of thousands copies nothing. What is copied beside that is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from daemon.build import imageconfig
from daemon.build.dockerfile.source import DockerfileError
from daemon.build.frontend.site import StageState

MAX_COPIED = 1_000_000
"""Variables, labels and history entries that all stages under way may have copied; each is some 100 bytes."""


class Lineage:
    def __init__(self, bases: Iterable[int | None], target: int) -> None:
        """`bases`: of each stage in the file, the number of the one that it is FROM."""
        self._target = target
        self._children = Counter(base for base in bases if base is not None)
        """How many stages are still to begin FROM another."""
        self._states: dict[int, StageState] = {}
        self._over: set[int] = set()
        self._arguments: dict[int, dict[str, str]] = {}
        self._copied = 0

    def __contains__(self, number: int) -> bool:
        """Whether it has begun."""
        return number in self._states

    def __getitem__(self, number: int) -> StageState:
        """Its output and platform; all of it while it is followed, and of the target."""
        return self._states[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._states)

    def begin(self, number: int, state: StageState) -> None:
        self._states[number] = state

    def is_over(self, number: int) -> bool:
        return number in self._over

    def end(self, number: int, *remembered: str) -> None:
        """All its instructions are followed. `remembered`: names of ARGs that are asked for later."""
        self._over.add(number)
        arguments = self._states[number].arguments
        self._arguments[number] = {name: arguments[name] for name in remembered if name in arguments}
        if not self._children[number] and number != self._target:
            self._copied = max(0, self._copied - self._states[number].weight())
            self._forget(number)

    def argument(self, number: int, name: str) -> str | None:
        """A remembered one."""
        return self._arguments[number].get(name)

    def child(self, number: int) -> StageState:
        """What a stage FROM this one begins with. DockerfileError where all together become too many things."""
        state = self._states[number]
        self._children[number] -= 1
        if not self._children[number] and number != self._target:
            self._forget(number)
            return state.child(last=True)
        self._copied += state.weight()
        if self._copied > MAX_COPIED:
            raise DockerfileError("the stages' variables, labels and history together are too many")
        return state.child(last=False)

    def _forget(self, number: int) -> None:
        state = self._states[number]
        bare = imageconfig.empty("")
        self._states[number] = StageState(state.output, bare, platform=state.platform)
