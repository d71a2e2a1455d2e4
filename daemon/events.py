"""What happened, in order: Docker's event messages, live to subscribers and kept in a journal.

The journal is two JSON-lines files in the data root (`events.jsonl` and the one before it), so
`since`/`until` reach back over daemon restarts. An event is appended with one write(2) before any
subscriber sees it. Shapes: moby api/types/events.Message.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from daemon.clock import SECOND, now_ns

Event = dict[str, Any]
JOURNAL_LIMIT = 8 << 20
SUBSCRIBER_LIMIT = 4096
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
            return all(_has_label(attributes, v) for v in values)
        case "image":
            name = attributes.get("image" if event["Type"] == "container" else "name", "")
            known = {event["Actor"]["ID"], name, name.partition(":")[0]}
            return any(v in known for v in values)
        case _:
            if event["Type"] != key:
                return False
            actor = event["Actor"]["ID"]
            return any(v == attributes.get("name") or actor.startswith(v) for v in values)


def _has_label(attributes: dict[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in attributes and (not equals or attributes[key] == value)


class EventLog:
    """Publishes events and replays them. One per daemon; used on the event loop only."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "events.jsonl"
        self._previous = directory / "events.1.jsonl"
        self._subscribers: set[asyncio.Queue[Event | None]] = set()
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size

    def publish(self, kind: str, action: str, actor: str, attributes: dict[str, str]) -> None:
        event = message(kind, action, actor, attributes)
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        self._append(line)
        for queue in tuple(self._subscribers):
            if queue.qsize() < SUBSCRIBER_LIMIT:
                queue.put_nowait(event)
            else:  # a reader this slow is dropped rather than let grow without bound
                self._subscribers.discard(queue)
                queue.put_nowait(None)

    def _append(self, line: bytes) -> None:
        if self._size > JOURNAL_LIMIT:
            os.close(self._file)
            self._path.replace(self._previous)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._size = 0
        self._size += os.write(self._file, line)

    async def subscribe(
        self, *, since: int | None, until: int | None, filters: dict[str, list[str]]
    ) -> AsyncIterator[Event]:
        """Past events from `since` (ns), then live ones until `until` (ns) or for ever."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._subscribers.add(queue)
        try:
            last = 0
            if since is not None:
                for event in await asyncio.to_thread(lambda: list(self._replay(since, until))):
                    last = event["timeNano"]
                    if matches(event, filters):
                        yield event
            async for event in self._live(queue, until):
                if event["timeNano"] > last and matches(event, filters):
                    yield event
        finally:
            self._subscribers.discard(queue)

    async def _live(self, queue: asyncio.Queue[Event | None], until: int | None) -> AsyncIterator[Event]:
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

    def _replay(self, since: int, until: int | None) -> Iterator[Event]:
        for path in (self._previous, self._path):
            try:
                lines = path.read_bytes().splitlines()
            except FileNotFoundError:
                continue
            for line in lines:
                try:
                    event: Event = json.loads(line)
                except ValueError:  # the torn last line of a killed daemon
                    continue
                if event["timeNano"] >= since and (until is None or event["timeNano"] <= until):
                    yield event

    def close(self) -> None:
        for queue in tuple(self._subscribers):
            queue.put_nowait(None)
        self._subscribers.clear()
        os.close(self._file)
