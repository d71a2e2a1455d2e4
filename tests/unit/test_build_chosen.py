"""Filters of the history: BuildKit's grammar, upon records of builds that are over."""

from __future__ import annotations

import base64
import time

import pytest

from daemon.build.doors.chosen import chosen
from daemon.build.doors.history import Past
from daemon.build.proto.rpc_pb2 import Status
from storage.errors import InvalidArgument

SECOND = 10**9
NOW = time.time_ns()


def past(ref: str, age: int, length: float, error: str = "", **attrs: str) -> Past:
    """`age`: seconds since it began."""
    created = NOW - age * SECOND
    failed = base64.b64encode(Status(code=2, message=error).SerializeToString()).decode() if error else ""
    made = Past(ref, attrs=dict(attrs), created=created, completed=created + int(length * SECOND))
    made.error = failed
    return made


RECORDS = [
    past("old", 7200, 90, **{"vcs:source": "https://example.org/a.git"}),
    past("broken", 600, 1, "exit code: 1", context="https://github.com/x/y.git#main"),
    past("stopped", 300, 2, "context canceled", context="/home/me"),
    past("new", 10, 0.5),
]


def refs(*filters: str, limit: int = 0) -> list[str]:
    return [each.ref for each in chosen(RECORDS, filters, limit)]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((), ["old", "broken", "stopped", "new"]),
        (("status==completed",), ["old", "new"]),
        (("status==error",), ["broken"]),
        (("status==canceled",), ["stopped"]),
        (("status!=completed",), ["broken", "stopped"]),
        (("status==error", "status==canceled"), ["broken", "stopped"]),  # any of them
        (("status==completed,startedAt>1h",), ["new"]),  # all of its terms
        (("startedAt<=1h",), ["old"]),
        (("startedAt>2000-01-01T00:00:00Z",), ["old", "broken", "stopped", "new"]),
        (("completedAt<30m",), ["old"]),
        (("duration>=2s",), ["old", "stopped"]),
        (("duration<600ms",), ["new"]),
        (("ref~=^o",), ["old"]),
        (("repository~=example",), ["old"]),
        (("repository==https://github.com/x/y.git",), ["broken"]),
        (("repository",), ["old", "broken"]),
        (("nothing==x",), []),
    ],
)
def test_filters(filters: tuple[str, ...], expected: list[str]) -> None:
    assert refs(*filters) == expected


def test_a_limit_takes_the_newest() -> None:
    assert refs(limit=2) == ["new", "stopped"]
    assert refs("status==completed", limit=1) == ["new"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("duration>x", "invalid duration x"),
        ("startedAt>x", "invalid time x"),
        ("ref~=(", "failed to parse history filters"),
        ("a b", "failed to parse history filters"),
    ],
)
def test_filters_of_no_sense(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        refs(text)
    with pytest.raises(InvalidArgument, match="invalid limit -1"):
        refs(limit=-1)
