"""Coroutines on the supervisor's loop: `async def` without asyncio, whose import alone costs 8 MB.

future = Future()                      something that will be known: `set`, `fail`
value = await future                   in a coroutine
start(coroutine)                       runs it up to its first wait, then goes on as futures are set
"""

from __future__ import annotations

from daemon.runtime.loop import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from typing import Any


class Future:
    """A value that is set once; later settings are ignored."""

    __slots__ = ("_callbacks", "_error", "_value", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[], None]] = []

    def set(self, value: Any = None) -> None:
        self._settle(value, None)

    def fail(self, error: BaseException) -> None:
        self._settle(None, error)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        if self.done:
            return
        self.done, self._value, self._error = True, value, error
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def when_done(self, callback: Callable[[], None]) -> None:
        if self.done:
            callback()
        else:
            self._callbacks.append(callback)

    def __await__(self) -> Generator[Future, None, Any]:
        if not self.done:
            yield self
        if self._error is not None:
            raise self._error
        return self._value


def start(coroutine: Coroutine[Future, None, Any]) -> None:
    """Runs a coroutine to its end, in steps. An exception that it lets out is printed."""

    def step() -> None:
        try:
            waits_for = coroutine.send(None)
        except StopIteration:
            return
        except Exception:
            report()
            return
        waits_for.when_done(step)

    step()
