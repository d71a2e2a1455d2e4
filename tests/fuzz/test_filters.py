"""Filters of lists and events: any text is refused or means something, and never breaks the daemon."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import strategies as st

from api.query import parse_filters
from daemon.clock import parse_timestamp
from daemon.events import matches, message
from storage.errors import InvalidArgument
from tests.fuzz.running import all_night, once
from tests.fuzz.test_http import send
from tests.system.host import Host

KEYS = st.sampled_from(
    [
        *("id", "name", "label", "exited", "status", "ancestor", "before", "since", "volume", "network"),
        *("publish", "expose", "health", "is-task", "dangling", "reference", "until", "driver", "scope"),
        *("type", "event", "container", "image", "daemon", "label!", "isolation", ""),
    ]
)
VALUES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            *("c1", "a=b", "running", "true", "80/tcp", "1-70000", "99999999999999999999", "[", "(?P<", "**"),
            *("^/c", "\\", "24h", "-1", "busybox", "sha256:", "\x00"),
        ]
    ),
)
WANTED = st.dictionaries(
    KEYS,
    st.one_of(st.lists(VALUES, max_size=3), st.dictionaries(VALUES, st.booleans(), max_size=3)),
    max_size=3,
)
LISTS = st.sampled_from(
    [
        *("/containers/json?all=1&", "/images/json?", "/networks?", "/volumes?", "/events?since=1&until=2&"),
    ]
)
EVENTS = st.builds(
    message,
    st.sampled_from(["container", "image", "network", "volume"]),
    st.sampled_from(["create", "exec_create: a", "health_status: healthy"]),
    st.text(max_size=8),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)


def check_text(text: str) -> None:
    try:
        filters = parse_filters(text)
    except InvalidArgument:
        return
    assert all(isinstance(v, str) for values in filters.values() for v in values)


def check_match(event: dict[str, Any], filters: dict[str, list[str]]) -> None:
    """More keys never match more; a type that is not the event's never matches."""
    for key in filters:
        fewer = {k: v for k, v in filters.items() if k != key}
        assert not matches(event, filters) or matches(event, fewer)
    assert not matches(event, {"type": ["no such type"]})
    assert matches(event, {})


def check_timestamp(text: str) -> None:
    try:
        parse_timestamp(text, what="since")
    except InvalidArgument:
        return


def test_texts() -> None:
    json_like = WANTED.map(json.dumps)
    once(check_text, 300, text=st.one_of(st.text(max_size=30), json_like))
    once(check_timestamp, 300, text=st.one_of(st.text("0123456789.-+:TZe", max_size=32), st.text(max_size=8)))


@pytest.mark.parametrize("text", ["\u00b9", "\u0662", "1.\u00b9", "--1", "1" * 30])
def test_found_in_timestamps(text: str) -> None:
    """Digits to str.isdigit, but not to int."""
    with pytest.raises(InvalidArgument, match="failed to parse"):
        parse_timestamp(text, what="since")


def test_events() -> None:
    once(
        check_match,
        300,
        event=EVENTS,
        filters=st.dictionaries(KEYS, st.lists(VALUES, max_size=3), max_size=3),
    )


class Lists:
    def __init__(self, host: Host) -> None:
        self._host = host

    def check(self, where: str, wanted: Any) -> None:
        target = f"{where}filters={quote(json.dumps(wanted), safe='')}"
        answer = send(
            self._host.socket, f"GET {target} HTTP/1.1\r\nHost: pyd\r\nConnection: close\r\n\r\n".encode()
        )
        status = answer[9:12]
        assert status in (b"200", b"400", b"404"), (target, answer[:400])


def test_lists(host: Host) -> None:
    host.docker("run", "-d", "--name", "c1", "-p", "80", "--label", "a=b", "busybox", "sleep", "1000")
    once(Lists(host).check, 80, where=LISTS, wanted=WANTED)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_lists_all_night(host: Host) -> None:
    host.docker("run", "-d", "--name", "c1", "-p", "80", "--label", "a=b", "busybox", "sleep", "1000")
    all_night(Lists(host).check, where=LISTS, wanted=WANTED)
