"""The one thread that talks to the kernel's networking, so that the event loop never waits for it.

Jobs run in the order of submission. That order is relied on: an address or port released on the loop may
be given out again at once, since the job that clears it stands before the job that sets it anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)


class Worker:
    """A thread with a queue."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a job and wait for its result. A cancelled waiter does not cancel a job under way."""
        return await asyncio.wrap_future(self._executor.submit(job, *args, **kwargs))

    def later(self, job: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a job that nobody waits for; a failure is logged."""
        self._executor.submit(job, *args, **kwargs).add_done_callback(_report)

    def close(self) -> None:
        """Finish what is queued, then end the thread."""
        self._executor.shutdown(wait=True)


def _report(future: Future[object]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("network: background job failed", exc_info=error)
