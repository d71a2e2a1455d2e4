"""The one thread that talks to the kernel's networking, so that the event loop never waits for it.

Jobs run in the order of submission. That order is relied on: an address or port released on the loop may
be given out again at once, since the job that clears it stands before the job that sets it anew. Idle
jobs (making spares) run when nothing else waits, hence after every job submitted before them too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)
Job = tuple["Future[Any]", Callable[[], Any]]


class Worker:
    """A thread with two queues."""

    def __init__(self, name: str = "network") -> None:
        self._due: deque[Job] = deque()
        self._idle: deque[Job] = deque()
        self._ready = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a job and wait for its result. A cancelled waiter does not cancel a job under way."""
        return await asyncio.wrap_future(self._submit(self._due, partial(job, *args, **kwargs)))

    async def run_idle(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same when there is nothing better to do."""
        return await asyncio.wrap_future(self._submit(self._idle, partial(job, *args, **kwargs)))

    def later(self, job: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a job that nobody waits for; a failure is logged."""
        self._submit(self._due, partial(job, *args, **kwargs)).add_done_callback(_report)

    def close(self) -> None:
        """Finish what is queued, then end the thread."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join()

    def _submit(self, queue: deque[Job], job: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._ready:
            if self._closing:
                raise RuntimeError("the network thread has ended")
            queue.append((future, job))
            self._ready.notify()
        return future

    def _work(self) -> None:
        while True:
            with self._ready:
                while not (self._due or self._idle):
                    if self._closing:
                        return
                    self._ready.wait()
                future, job = self._due.popleft() if self._due else self._idle.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)


def _report(future: Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("network: background job failed", exc_info=error)
