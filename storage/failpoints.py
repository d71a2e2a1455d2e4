"""Named points where a test may make the real code fail, switched by one environment variable.

A point is a call `hit("content.commit")` placed where a crash or an error would hurt most. It does
nothing (one truth test of an empty dictionary) unless a rule names it. The idea and the shape of the rule
language are those of FreeBSD's fail(9), which containerd's internal/failpoint follows as well:

    PYD_FAILPOINTS = rule [; rule ...]
    rule  = point "=" term ["->" term ...]       terms are used up from left to right
    term  = [count "*"] action                   without a count the term lasts for ever
    action = off | kill | error(ERRNO) | sleep(SECONDS) | raise(TEXT)

    PYD_FAILPOINTS='content.commit=2*off->kill'        the third commit kills the process with SIGKILL
    PYD_FAILPOINTS='records.write=1*error(ENOSPC)'     one write fails, those after it succeed

The variable is inherited, so worker processes fail as well. Tests inside one process use `armed`.
Whoever adds a point names it DOMAIN.VERB.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

VARIABLE = "PYD_FAILPOINTS"

_TERM = re.compile(r"(?:(?P<count>\d+)\*)?(?P<action>off|kill|error|sleep|raise)(?:\((?P<argument>[^)]*)\))?")


@dataclass(slots=True)
class Term:
    """One action and how often it still applies; `remaining` is None for ever."""

    action: str
    argument: str
    remaining: int | None

    def act(self, point: str) -> None:
        match self.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "error":
                code = getattr(errno, self.argument)
                raise OSError(code, f"{os.strerror(code)} (failpoint {point})")
            case "sleep":
                time.sleep(float(self.argument))
            case "raise":
                raise RuntimeError(self.argument or f"failpoint {point}")


def parse(rules: str) -> dict[str, list[Term]]:
    """Rules to terms by point; ValueError names the part that is not understood."""
    points: dict[str, list[Term]] = {}
    for rule in filter(None, (part.strip() for part in rules.split(";"))):
        name, equals, terms = rule.partition("=")
        if not equals:
            raise ValueError(f"failpoint rule {rule!r} has no '='")
        points[name.strip()] = [_parse_term(term.strip()) for term in terms.split("->")]
    return points


def _parse_term(text: str) -> Term:
    match = _TERM.fullmatch(text)
    if match is None:
        raise ValueError(
            f"failpoint term {text!r} is not [COUNT*]off|kill|error(X)|sleep(SECONDS)|raise(TEXT)"
        )
    action, argument = match["action"], match["argument"] or ""
    if action == "error" and not hasattr(errno, argument):
        raise ValueError(f"failpoint term {text!r}: no such errno")
    if action == "sleep":
        float(argument)
    return Term(action, argument, int(match["count"]) if match["count"] else None)


_points: dict[str, list[Term]] = parse(os.environ.get(VARIABLE, ""))
_lock = threading.Lock()


def hit(point: str) -> None:
    """Does what the rules say for `point`: nothing, in production."""
    if _points:
        _hit(point)


def _hit(point: str) -> None:
    with _lock:
        term = next((t for t in _points.get(point, ()) if t.remaining != 0), None)
        if term is None:
            return
        if term.remaining is not None:
            term.remaining -= 1
    term.act(point)


@contextmanager
def armed(rules: str) -> Iterator[None]:
    """Adds rules for the duration of a `with` block, in this process only."""
    global _points
    before = _points
    _points = {**before, **parse(rules)}
    try:
        yield
    finally:
        _points = before
