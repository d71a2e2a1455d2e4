"""The event loop of supervisor and keeper: epoll, callbacks and the few timers there ever are.

    add(fd, events, callback)   level-triggered; `callback(events)` is called with what is ready
    modify / remove
    later(seconds, callback)    a timer; `cancel()` on what it returns
    defer(callback)             after the callbacks of this turn

A callback does a bounded piece of work and returns; level triggering brings the rest round again after
everybody else had a turn. With nothing to do the process sleeps without a timeout. EPOLLHUP and EPOLLERR
are reported whatever was asked for, so a descriptor that must be ignored has to be removed.
"""

from __future__ import annotations

import heapq
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

IN, OUT, HUP, ERR = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP, select.EPOLLERR
RDHUP = select.EPOLLRDHUP


class Timer:
    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when


class Loop:
    __slots__ = ("_callbacks", "_deferred", "_epoll", "_events", "_running", "_timers")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._events: dict[int, int] = {}
        self._timers: list[Timer] = []
        self._deferred: list[Callable[[], None]] = []
        self._running = False

    def add(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback
        self._events[fd] = events

    def modify(self, fd: int, events: int) -> None:
        if self._events[fd] != events:
            self._epoll.modify(fd, events)
            self._events[fd] = events

    def remove(self, fd: int) -> None:
        """Harmless when `fd` is not watched. Must come before the close: a duplicate elsewhere would
        keep the registration alive."""
        if self._callbacks.pop(fd, None) is not None:
            del self._events[fd]
            self._epoll.unregister(fd)

    def watching(self, fd: int) -> bool:
        return fd in self._callbacks

    def later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def defer(self, callback: Callable[[], None]) -> None:
        self._deferred.append(callback)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        self._running = True
        while self._running:
            self.turn(self._timeout())

    def turn(self, timeout: float) -> int:
        """Waits for something to happen and deals with it once; how many descriptors were ready."""
        ready = self._epoll.poll(timeout)
        for fd, events in ready:
            callback = self._callbacks.get(fd)
            if callback is not None:
                try:
                    callback(events)
                except Exception:
                    report()
        self._expire()
        while self._deferred:
            deferred, self._deferred = self._deferred, []
            for call in deferred:
                guarded(call)
        return len(ready)

    def _timeout(self) -> float:
        timers = self._timers
        while timers and timers[0].callback is None:
            heapq.heappop(timers)
        return max(0.0, timers[0].when - time.monotonic()) if timers else -1

    def _expire(self) -> None:
        timers = self._timers
        if not timers:
            return
        now = time.monotonic()
        while timers and timers[0].when <= now:
            callback = heapq.heappop(timers).callback
            if callback is not None:
                guarded(callback)


def report() -> None:
    """An unforeseen exception must not take all containers' keeper down: it is printed, and the loop goes on.

    By the interpreter itself: the module `traceback` costs supervisor and keeper 0.4 MB each."""
    sys.excepthook(*sys.exc_info())
    sys.stderr.flush()


def guarded(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        report()
