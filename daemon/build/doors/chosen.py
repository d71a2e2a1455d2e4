"""Which records of builds a client wants to see: BuildKit's filters of the history, and how many. Pure.

    status==completed,startedAt>2h     all terms of one filter, any of several filters
    ref, repository, status            with ==, != and ~= (a regular expression), or alone: that there is one
    startedAt, completedAt             with <, <=, >, >=: a time, or how long ago
    duration                           the same

Source: BuildKit solver/llbsolver/history.go (filterHistoryEvents, parseFilter), containerd pkg/filters.
"""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from daemon.build.steps import CANCELED
from daemon.build.upkeep.cache import duration
from storage.errors import InvalidArgument

if TYPE_CHECKING:
    from daemon.build.doors.history import Past

Match = Callable[["Past"], bool]
_SECOND = 1_000_000_000
_TIMED = re.compile(r"(startedAt|completedAt|duration)(>=|<=|>|<)(.*)", re.DOTALL)
_TERM = re.compile(r"\s*([A-Za-z]+)\s*(?:(==|!=|~=)\s*(.*?)\s*)?", re.DOTALL)
_COMPARED: dict[str, Callable[[int, int], bool]] = {
    ">=": lambda value, wanted: value >= wanted,
    "<=": lambda value, wanted: value <= wanted,
    ">": lambda value, wanted: value > wanted,
    "<": lambda value, wanted: value < wanted,
}
_LENGTH = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h))+")
_LONGEST = 500


def chosen(records: Iterable[Past], filters: Sequence[str], limit: int) -> list[Past]:
    """Of builds that are over; with a limit the newest first. InvalidArgument for a filter of no sense."""
    if limit < 0:
        raise InvalidArgument(f"invalid limit {limit}")
    wanted = [_terms(text) for text in filters]
    found = [past for past in records if not wanted or any(all(t(past) for t in terms) for terms in wanted)]
    return sorted(found, key=lambda past: -past.created)[:limit] if limit else found


def _terms(text: str) -> list[Match]:
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise InvalidArgument(f"failed to parse history filters [{text}]: {error}") from None
    return [_timed(field) or _term(field, text) for field in fields]


def _timed(text: str) -> Match | None:
    found = _TIMED.fullmatch(text)
    if found is None:
        return None
    name, operator, value = found.groups()
    compare = _COMPARED[operator]
    if name == "duration":
        length = _duration(value)
        if length is None:
            raise InvalidArgument(f"invalid duration {value}")
        return lambda past: compare(past.completed - past.created if past.completed else 0, length)
    limit = _moment(value)
    if name == "startedAt":
        return lambda past: compare(past.created // _SECOND, limit)
    return lambda past: compare(past.completed // _SECOND, limit)


def _duration(text: str) -> int | None:
    return duration(text) if _LENGTH.fullmatch(text) else None


def _moment(text: str) -> int:
    """Seconds since 1970 of a time, or of so long ago."""
    if (ago := _duration(text)) is not None:
        return (time.time_ns() - ago) // _SECOND
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        raise InvalidArgument(f"invalid time {text}") from None


def _term(field: str, whole: str) -> Match:
    found = _TERM.fullmatch(field)
    if found is None:
        raise InvalidArgument(f"failed to parse history filters [{whole}]: invalid filter")
    shown, operator, value = _SHOWN.get(found[1], _nothing), found[2], (found[3] or "").strip("\"'")
    if operator is None:
        return lambda past: bool(shown(past))
    if operator == "~=":
        try:
            pattern = re.compile(value[:_LONGEST])
        except (re.error, RecursionError) as error:
            raise InvalidArgument(f"failed to parse history filters [{whole}]: {error}") from None
        return lambda past: pattern.search(shown(past)) is not None
    if operator == "!=":
        return lambda past: shown(past) != value
    return lambda past: shown(past) == value


def _nothing(past: Past) -> str:
    return ""


def _status(past: Past) -> str:
    if not past.completed:
        return "running"
    if not past.error:
        return "completed"
    return "canceled" if CANCELED.encode() in past.failure else "error"


def _repository(past: Past) -> str:
    from daemon.build.sources import gitrefs

    if source := past.attrs.get("vcs:source"):
        return source
    try:
        git = gitrefs.parse(past.attrs.get("context", ""), context=True)
    except InvalidArgument:
        return ""
    return git.remote if git else ""


_SHOWN: dict[str, Callable[[Past], str]] = {
    "ref": lambda past: past.ref,
    "status": _status,
    "repository": _repository,
}
