"""`.dockerignore`: which paths of a context don't travel and cannot be copied.

Rules of moby/patternmatcher: patterns are cleaned and matched from the context's root; `*` and `?` don't
cross `/`, `**` crosses any number of directories, `[a-z]` is a class, `\\` escapes; a pattern that matches a
directory matches all beneath it; `!` makes an exception; the last pattern that matches decides. Lines that
begin with `#` are comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from storage.errors import InvalidArgument

MAX_PATTERNS = 100_000
_STAR, _ANYTHING, _ANY_DIRECTORIES = "[^/]*", ".*", "(?:.*/)?"
_REPEATS = (_STAR, _ANYTHING, _ANY_DIRECTORIES)
_FEW = 3
"""Stars up to which `re` may backtrack."""


class Matcher(Protocol):
    def fullmatch(self, string: str, /) -> object | None: ...


@dataclass(frozen=True)
class Pattern:
    text: str
    exclusion: bool
    """`!`: takes paths back in."""
    regex: Matcher

    def matches(self, path: str) -> bool:
        return self.regex.fullmatch(path) is not None


class Ignore:
    """All patterns of a file, in order."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """InvalidArgument for a pattern that is none. Empty ones are passed over."""
        self.patterns = tuple(_pattern(text) for text in patterns if text.strip())
        self.has_exclusions = any(pattern.exclusion for pattern in self.patterns)

    @classmethod
    def of(cls, text: str) -> Ignore:
        return cls(lines(text))

    def ignored(self, path: str) -> bool:
        """A relative path with `/`; a parent that is ignored takes it along (patternmatcher.MatchesOrParentMatches)."""
        result = False
        parents = _parents(path)
        for pattern in self.patterns:
            if pattern.exclusion != result:
                continue  # it would change nothing
            if pattern.matches(path) or any(pattern.matches(parent) for parent in parents):
                result = not pattern.exclusion
        return result

    def prunes(self, directory: str) -> bool:
        """Whether all beneath an ignored directory is ignored too, so that nobody need look."""
        if not self.ignored(directory):
            return False
        if not self.has_exclusions:
            return True
        inside = directory + "/"
        for pattern in self.patterns:
            if pattern.exclusion:
                literal = re.split(r"[*?\[\\]", pattern.text, maxsplit=1)[0]
                wild = literal != pattern.text
                if (
                    (pattern.text + "/").startswith(inside)
                    or (wild and inside.startswith(literal))
                    or (wild and literal.startswith(inside))
                ):
                    return False
        return True


def lines(text: str) -> list[str]:
    """The patterns of a file, cleaned (patternmatcher/ignorefile.ReadAll)."""
    found = []
    for line in text.removeprefix("\ufeff").split("\n"):
        if line.startswith("#"):
            continue
        pattern = line.strip()
        if not pattern:
            continue
        negated = pattern.startswith("!")
        if negated:
            pattern = pattern[1:].strip()
        if pattern:
            pattern = _clean(pattern)
            if len(pattern) > 1 and pattern.startswith("/"):
                pattern = pattern[1:]
        found.append(("!" if negated else "") + pattern)
        if len(found) > MAX_PATTERNS:
            raise InvalidArgument(f".dockerignore has more than {MAX_PATTERNS} patterns")
    return found


def _clean(path: str) -> str:
    """Go's path.Clean."""
    parts: list[str] = []
    rooted = path.startswith("/")
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            if parts and parts[-1] != "..":
                parts.pop()
                continue
            if rooted:
                continue
        parts.append(part)
    return ("/" if rooted else "") + "/".join(parts) or "."


def _parents(path: str) -> list[str]:
    found = []
    at = path.find("/")
    while at >= 0:
        found.append(path[:at])
        at = path.find("/", at + 1)
    return found


def _pattern(text: str) -> Pattern:
    text = text.strip()
    exclusion = text.startswith("!")
    body = text[1:].strip() if exclusion else text
    if not body:
        raise InvalidArgument(f'illegal exclusion pattern: "{text}"')
    body = _clean(body)  # one that begins with a slash matches nothing here: lines() takes it off
    return Pattern(body, exclusion, compile_glob(body))


@lru_cache(maxsize=4096)
def _tokens(pattern: str) -> tuple[str, ...]:
    """Regular expressions that a pattern is the sequence of."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "*":
            end = at
            while end < len(pattern) and pattern[end] == "*":
                end += 1
            if end - at == 1:
                out.append(_STAR)
            else:
                slash = pattern[end : end + 1] == "/"
                end += slash
                out.append(_ANY_DIRECTORIES if slash and end < len(pattern) else _ANYTHING)
            at = end
            continue
        if character == "[":
            piece, at = _class(pattern, at)
            out.append(piece)
            continue
        if character == "?":
            out.append("[^/]")
        elif character == "\\":
            at += 1
            if at >= len(pattern):
                raise InvalidArgument(f"syntax error in pattern: {pattern}")
            out.append(re.escape(pattern[at]))
        else:
            out.append(re.escape(character))
        at += 1
    return tuple(out)


@lru_cache(maxsize=4096)
def compile_glob(pattern: str) -> Matcher:
    """What fullmatch()es a path. With many stars it is an automaton, since `re` backtracks."""
    tokens = _tokens(pattern)
    try:
        if sum(token in _REPEATS for token in tokens) <= _FEW:
            return re.compile("".join(tokens), re.DOTALL)
        return Automaton(tokens)
    except (re.error, OverflowError, RecursionError):
        raise InvalidArgument(f"syntax error in pattern: {pattern}") from None


class Automaton:
    """All states side by side: time is the path's length times the pattern's, whatever they are."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self._tokens = tokens
        self._single = [None if t in _REPEATS else re.compile(t, re.DOTALL) for t in tokens]

    def fullmatch(self, path: str) -> object | None:
        states = self._closure({0}, True)
        for character in path:
            moved: set[int] = set()
            for state in states:
                if state == len(self._tokens):
                    continue
                token, single = self._tokens[state], self._single[state]
                if single is not None:
                    if single.fullmatch(character):
                        moved.add(state + 1)
                elif token != _STAR or character != "/":
                    moved.add(state)
            if not moved:
                return None
            states = self._closure(moved, character == "/")
        return True if len(self._tokens) in states else None

    def _closure(self, states: set[int], at_directory: bool) -> set[int]:
        """Repeats may be left at any time, `**/` only where a name begins."""
        todo = list(states)
        while todo:
            state = todo.pop()
            if state == len(self._tokens) or self._tokens[state] not in _REPEATS or state + 1 in states:
                continue
            if self._tokens[state] != _ANY_DIRECTORIES or at_directory:
                states.add(state + 1)
                todo.append(state + 1)
        return states


def _class(pattern: str, at: int) -> tuple[str, int]:
    """`[a-z]`, `[^a-z]`; never a `/`."""
    end = at + 1
    negated = pattern[end : end + 1] == "^"
    end += negated
    body: list[str] = []
    first = True
    while end < len(pattern) and (pattern[end] != "]" or first):
        if pattern[end] == "\\":
            end += 1
            if end >= len(pattern):
                break
            body.append(re.escape(pattern[end]))
        else:
            body.append(pattern[end] if pattern[end] == "-" and not first else re.escape(pattern[end]))
        first = False
        end += 1
    if end >= len(pattern) or not body:
        raise InvalidArgument(f"syntax error in pattern: {pattern}")
    return f"(?:(?!/)[{'^' if negated else ''}{''.join(body)}])", end + 1


def match_any(patterns: Sequence[str], path: str) -> bool:
    return Ignore(patterns).ignored(path)
