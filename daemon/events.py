"""What happened, in order: Docker's event messages, live to subscribers and kept in a journal.

The journal lives in the records, so `since`/`until` reach back over daemon restarts; it keeps the newest
ten thousand. Shapes: moby api/types/events.Message.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from daemon.clock import SECOND, now_ns
from daemon.labels import has_label
from storage.errors import PydError
from storage.records import Append, Records, Trim

log = logging.getLogger("pyd.events")

Event = dict[str, Any]
JOURNAL = "events"
KEPT = 10_000
TRIM_EVERY = 1_000
PAGE = 50
SUBSCRIBER_LIMIT = 4096
GATHER = 0.005
"""Seconds that an event waits for others: a container's start publishes half a dozen, and each commit costs as much as
all of them together."""
_LEGACY_TYPES = ("container", "image")


def message(kind: str, action: str, actor: str, attributes: dict[str, str]) -> Event:
    """One event; `status`, `id` and `from` are the pre-1.22 fields that clients still read."""
    at = now_ns()
    event: Event = {}
    if kind in _LEGACY_TYPES:
        event["status"] = action
        event["id"] = actor
        if kind == "container":
            event["from"] = attributes.get("image", "")
    event |= {
        "Type": kind,
        "Action": action,
        "Actor": {"ID": actor, "Attributes": attributes},
        "scope": "local",
        "time": at // SECOND,
        "timeNano": at,
    }
    return event


def matches(event: Event, filters: dict[str, list[str]]) -> bool:
    """Docker's event filters: values of one key are alternatives, keys must all hold."""
    return all(_matches_key(event, key, values) for key, values in filters.items() if values)


def _matches_key(event: Event, key: str, values: list[str]) -> bool:
    attributes = event["Actor"]["Attributes"]
    match key:
        case "event":
            action = event["Action"]
            return any(action == v or action.startswith(f"{v}:") for v in values)
        case "type":
            return event["Type"] in values
        case "scope":
            return event["scope"] in values
        case "label":
            return all(has_label(attributes, v) for v in values)
        case "image":
            name = attributes.get("image" if event["Type"] == "container" else "name", "")
            known = {event["Actor"]["ID"], name, name.partition(":")[0]}
            return any(v in known for v in values)
        case _:
            if event["Type"] != key:
                return False
            names = (event["Actor"]["ID"], attributes.get("name", ""))
            return any(name.startswith(v) for v in values for name in names)


class EventLog:
    """Publishes events and replays them. One per daemon; used on the event loop only.

    `publish` never waits: what is published within GATHER is committed together, and goes to subscribers once
    committed, so nobody was ever told of an event that a restart forgets. Who reads the journal waits for that.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._subscribers: set[asyncio.Queue[Event | None]] = set()
        self._pending: list[Event] = []
        self._flusher: asyncio.Task[None] | None = None
        self._since_trim = TRIM_EVERY
        """The first ones trim: a daemon that never lives long must not let the journal grow for ever."""
        self._last = self._committed = 0
        """Times of the last event that was published, and of the last that went to the journal."""
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        """Who waits for the journal to have what was published up to a time."""

    def publish(self, kind: str, action: str, actor: str, attributes: dict[str, str]) -> None:
        event = message(kind, action, actor, attributes)
        if event["timeNano"] <= self._last:  # the clock was set back: order is what replay relies on
            event["timeNano"] = self._last + 1
        self._last = event["timeNano"]
        self._pending.append(event)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        while self._pending:
            await asyncio.sleep(GATHER)
            events, self._pending = self._pending, []
            mutations: list[Append | Trim] = [Append(JOURNAL, e["timeNano"], e) for e in events]
            self._since_trim += len(events)
            if self._since_trim >= TRIM_EVERY:
                self._since_trim = 0
                mutations.append(Trim(JOURNAL, KEPT))
            try:
                await self._records.write(mutations)
            except PydError as error:
                log.error("events were not kept: %s", error)
            self._settle(events[-1]["timeNano"])
            for event in events:
                self._deliver(event)

    def _settle(self, committed: int) -> None:
        self._committed = committed
        for until, waiter in self._waiting:
            if until <= committed and not waiter.done():
                waiter.set_result(None)
        self._waiting = [waiting for waiting in self._waiting if not waiting[1].done()]

    async def _settled(self) -> None:
        """Return when what is published by now is in the journal."""
        if self._committed < self._last:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((self._last, waiter))
            await waiter

    def _deliver(self, event: Event) -> None:
        for queue in tuple(self._subscribers):
            if queue.qsize() < SUBSCRIBER_LIMIT:
                queue.put_nowait(event)
            else:  # a reader this slow is dropped rather than let grow without bound
                self._subscribers.discard(queue)
                queue.put_nowait(None)

    async def subscribe(
        self, *, since: int | None, until: int | None, filters: dict[str, list[str]]
    ) -> AsyncIterator[Event]:
        """Past events from `since` (ns), then live ones until `until` (ns) or for ever."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._subscribers.add(queue)
        try:
            last = 0
            if since is not None:
                async with contextlib.aclosing(self._past(since, until)) as past:
                    async for event in past:
                        last = event["timeNano"]
                        if matches(event, filters):
                            yield event
            async with contextlib.aclosing(self._live(queue, until)) as live:
                async for event in live:
                    if event["timeNano"] > last and matches(event, filters):
                        yield event
        finally:
            self._subscribers.discard(queue)

    async def _past(self, since: int, until: int | None) -> AsyncGenerator[Event, None]:
        """From the journal, a page at a time: a reader that doesn't read holds a page, not ten thousand."""
        await self._settled()
        end = None if until is None else until + 1
        while True:
            page = await asyncio.to_thread(
                self._records.scan, JOURNAL, since_ns=since, until_ns=end, limit=PAGE
            )
            for event in page:
                yield event
            if len(page) < PAGE:
                return
            since = page[-1]["timeNano"] + 1

    async def _live(
        self, queue: asyncio.Queue[Event | None], until: int | None
    ) -> AsyncGenerator[Event, None]:
        while True:
            left = None if until is None else (until - now_ns()) / SECOND
            if left is not None and left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    event = await queue.get()
            except TimeoutError:
                return
            if event is None:
                return
            yield event

    @property
    def listeners(self) -> int:
        return len(self._subscribers)

    async def close(self) -> None:
        """Commits what is pending and ends every subscription."""
        if self._flusher is not None:
            await self._flusher
        for queue in tuple(self._subscribers):
            queue.put_nowait(None)
        self._subscribers.clear()
