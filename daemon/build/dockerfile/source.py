"""Positions in a Dockerfile, excerpts of it, and the error that points there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from storage.errors import InvalidArgument

MAX_SIZE = 16 << 20
"""Bytes of a Dockerfile. Real ones have kilobytes; beyond this it is an attack on our memory."""

RULE = "-" * 20


@dataclass(frozen=True, slots=True)
class Span:
    """Lines of the file, counted from 1, both ends included."""

    first: int
    last: int


NOWHERE = Span(0, 0)


@dataclass(frozen=True, slots=True)
class Source:
    """A Dockerfile's name and its lines without their ends."""

    name: str
    lines: tuple[str, ...] = field(repr=False)
    returns: frozenset[int] = field(default=frozenset(), repr=False)
    """Numbers of the lines that end in a carriage return, which heredocs keep."""

    def excerpt(self, *spans: Span) -> str:
        """The lines with their neighbours, marked; as BuildKit's clients show it (solver/errdefs/source.go)."""
        spans = tuple(span for span in spans if span.first)
        if not spans:
            return ""
        start, end = min(s.first for s in spans), max(s.last for s in spans)
        if start > len(self.lines):
            return ""
        end = min(end, len(self.lines))
        start, end = self._padded(start, end)
        rows = [f"{self.name}:{min(s.first for s in spans)}", RULE]
        for number in range(start, end + 1):
            mark = ">>>" if any(s.first <= number <= s.last for s in spans) else "   "
            rows.append(f" {number:3d} | {mark} {self.lines[number - 1][:400]}")
        return "\n".join([*rows, RULE])

    def _padded(self, start: int, end: int) -> tuple[int, int]:
        wanted, given = (4 if start == end else 2), 0
        while given < wanted:
            if start > 1:
                start, given = start - 1, given + 1
            if end != len(self.lines):
                end, given = end + 1, given + 1
            given += 1
        return start, end


class DockerfileError(InvalidArgument):
    """What is wrong with a Dockerfile. `str()` is the sentence and the excerpt."""

    def __init__(self, sentence: str, source: Source | None = None, spans: Sequence[Span] = ()) -> None:
        self.sentence, self.source, self.spans = sentence, source, tuple(spans)
        excerpt = source.excerpt(*spans) if source else ""
        shown = f"{sentence}\n{excerpt}" if excerpt else sentence
        super().__init__(shown.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))

    def at(self, source: Source, *spans: Span) -> DockerfileError:
        """The same error with a place, unless it has one."""
        return self if self.source else type(self)(self.sentence, source, spans)


class SyntaxProblem(DockerfileError):
    """One that BuildKit finds before it knows instructions, or after: not said to be a parse error on a line."""


def locate(error: Exception, source: Source, *spans: Span) -> None:
    """Notes where in a Dockerfile an error of any kind comes from, unless that is known."""
    if place_of(error) is None:
        setattr(error, _PLACE, (source, spans))


def place_of(error: BaseException) -> tuple[Source, tuple[Span, ...]] | None:
    if isinstance(error, DockerfileError) and error.source is not None:
        return error.source, error.spans
    found: tuple[Source, tuple[Span, ...]] | None = getattr(error, _PLACE, None)
    return found


_PLACE = "place_in_dockerfile"


def nearest(word: str, known: Sequence[str], *, fold: bool = True) -> str:
    """` (did you mean X?)` for the closest known word within two edits, else nothing."""
    asked = word.lower() if fold else word
    best, distance = "", 3
    for candidate in known:
        compared = candidate.lower() if fold else candidate
        if compared == asked:
            return ""
        if abs(len(compared) - len(asked)) < distance:
            found = _edits(asked, compared)
            if found < distance:
                best, distance = candidate, found
    return f" (did you mean {best}?)" if best else ""


def _edits(one: str, other: str) -> int:
    """Levenshtein's distance. Both are short: callers compare lengths first, known words are."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]
