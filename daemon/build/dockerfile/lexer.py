r"""From lines to statements: comments and continuation are gone, heredocs are attached.

    RUN apt-get update && \            one statement, lines 1 to 4; the comment and the empty line inside
    # why                              vanish (an empty one is a build check's business)

        apt-get install x
    COPY <<one <<"two" /dir/           two heredocs; quoting the name turns expansion off
    ...
    one

Source: BuildKit frontend/dockerfile/parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from daemon.build.dockerfile.directives import Directives
from daemon.build.dockerfile.source import DockerfileError, Source, Span
from daemon.build.dockerfile.words import Lexer

MAX_LINE = 65535
"""BuildKit's scanner gives up at the same length (bufio.MaxScanTokenSize)."""
MAX_HEREDOCS = 1000
_BLANK = " \t\v\f\r"
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]*)")
_WITH_HEREDOCS = ("ADD", "COPY", "RUN")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """`<<name`. `expand` is off when the name was quoted, `chomp` is `<<-`."""

    name: str
    content: str
    expand: bool = True
    chomp: bool = False
    descriptor: int = 0

    @property
    def text(self) -> str:
        """Without leading tabs when they are to be cut."""
        return re.sub(r"(?m)^\t+", "", self.content) if self.chomp else self.content


@dataclass(frozen=True, slots=True)
class Statement:
    """One logical line: the instruction's name as written, and the rest of it."""

    name: str
    rest: str
    span: Span
    original: str
    """The whole line as written, continuations joined."""
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()
    """Comment lines right above it."""


@dataclass
class Lexed:
    """All statements, and the lines on which a continuation was followed by an empty line."""

    statements: list[Statement] = field(default_factory=list)
    empty_continuations: list[Span] = field(default_factory=list)


def lex(source: Source, directives: Directives) -> Lexed:
    return _Lexing(source, directives.escape).run(directives.seen)


class _Lexing:
    def __init__(self, source: Source, escape: str) -> None:
        self._source, self._lines = source, source.lines
        mark = re.escape(escape)
        self._continues = re.compile(rf"(?:^|(?<=[^{mark}])){mark}[ \t]*$")
        self._at = 0
        self._lexed = Lexed()
        self._comments: list[str] = []

    def run(self, skip: int) -> Lexed:
        self._at = skip
        while self._at < len(self._lines):
            line = self._next().lstrip(_BLANK)
            if line.startswith("#"):
                self._comments.append(line[1:].strip())
            elif not line:
                self._comments.clear()
            else:
                self._statement(line)
        return self._lexed

    def _next(self) -> str:
        line = self._lines[self._at]
        self._at += 1
        if len(line) > MAX_LINE:
            raise self._error(
                f"dockerfile line greater than maximum allowed size of {MAX_LINE}", Span(self._at, self._at)
            )
        return line

    def _error(self, sentence: str, span: Span) -> DockerfileError:
        return DockerfileError(sentence, self._source, [span])

    def _statement(self, line: str) -> None:
        first = self._at
        text, empty_at = self._joined(line)
        span = Span(first, self._at)
        if empty_at:
            last = self._at - (self._at == len(self._lines) and not self._lines[-1])
            self._lexed.empty_continuations.append(Span(last, last))
        original = text.strip(_BLANK)
        name, rest = _split(original)
        heredocs = tuple(self._heredocs(name, rest, span))
        comments, self._comments = tuple(self._comments), []
        if name:
            self._lexed.statements.append(
                Statement(name, rest, Span(first, self._at), original, heredocs, comments)
            )

    def _joined(self, line: str) -> tuple[str, bool]:
        """The logical line that begins with `line`; whether an empty line stood in it."""
        parts: list[str] = []
        empty = False
        while True:
            match = self._continues.search(line)
            if match is None:
                return "".join([*parts, line]), empty
            parts.append(line[: match.start()])
            following = None
            while self._at < len(self._lines):
                candidate = self._next()
                stripped = candidate.strip(_BLANK)
                if stripped.startswith("#"):
                    continue
                if not stripped:
                    empty = True
                    continue
                following = candidate
                break
            if following is None:
                return "".join(parts), empty
            line = following

    def _heredocs(self, name: str, rest: str, span: Span) -> Iterator[Heredoc]:
        verb = name.upper()
        while verb == "ONBUILD":
            verb, rest = _split(rest)
            verb = verb.upper()
        if verb not in _WITH_HEREDOCS or "<<" not in rest:
            return
        for number, found in enumerate(named_heredocs(rest)):
            if number >= MAX_HEREDOCS:
                raise self._error(f"more than {MAX_HEREDOCS} heredocs", span)
            yield self._heredoc(found, span)

    def _heredoc(self, head: Heredoc, span: Span) -> Heredoc:
        content: list[str] = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            self._at += 1
            if (line.lstrip("\t") if head.chomp else line) == head.name:
                return Heredoc(head.name, "".join(content), head.expand, head.chomp, head.descriptor)
            content.append(line + ("\r\n" if self._at in self._source.returns else "\n"))
        raise self._error("unterminated heredoc", Span(span.first, self._at - (self._lines[-1] == "")))


def _split(text: str) -> tuple[str, str]:
    """The first word and the rest."""
    parts = re.split(r"[\t\v\f\r ]+", text, maxsplit=1)
    return parts[0], parts[1].strip(_BLANK) if len(parts) > 1 else ""


def named_heredocs(line: str) -> Iterator[Heredoc]:
    """The heads in a line, without content: words of the form `3<<-NAME`."""
    try:
        words = Lexer(raw_quotes=True, keep_unset=True).words(line, {})
    except DockerfileError:
        return
    for word in words:
        if found := heredoc_head(word):
            yield found


def heredoc_head(word: str) -> Heredoc | None:
    match = _HEREDOC.fullmatch(word)
    if match is None or not match[3]:
        return None
    try:
        names = Lexer().words(match[3], {})
    except DockerfileError:
        return None
    if len(names) != 1 or not names[0]:
        return None
    return Heredoc(names[0], "", names[0] == match[3], match[2] == "-", int(match[1] or 0))
