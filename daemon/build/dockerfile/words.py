"""Quoting and variables in Dockerfile words, as BuildKit's shell lexer has them (frontend/dockerfile/shell).

    $name ${name}                     the value, or nothing
    ${name:-word} ${name-word}        word when name is unset (or, with colon, empty)
    ${name:+word} ${name+word}        word when name is set (and, with colon, not empty)
    ${name:?word} ${name?word}        an error with that text when unset (or empty)
    ${name#p} ${name##p}              without the shortest, longest prefix matching p
    ${name%p} ${name%%p}              without the shortest, longest suffix
    ${name/p/r} ${name//p/r}          the first, every match of p replaced by r

Patterns know `*`, `?` and the escape character. Results are bounded: a chain of `ENV A=$A$A` doubles with
every line.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from daemon.build.dockerfile.source import DockerfileError

MAX_RESULT = 1 << 20
"""Characters an expanded word may have; Linux's limit for one argument or variable is 128 KiB."""
MAX_DEPTH = 50
"""Nesting of `${a:-${b:-...}}`."""
_SPECIAL = frozenset("@*#?-$!")


class WordError(ValueError):
    """Why a word cannot be read."""


@dataclass(frozen=True)
class Lexer:
    """How words are read. `raw_quotes` keeps quotes and escapes; `keep_unset` leaves unknown variables."""

    escape: str = "\\"
    raw_quotes: bool = False
    keep_unset: bool = False

    def word(self, text: str, values: Mapping[str, str]) -> str:
        """One word: blanks stay. DockerfileError as BuildKit words it."""
        return self._run(text, values).result

    def words(self, text: str, values: Mapping[str, str]) -> list[str]:
        """Split at unquoted blanks after expansion."""
        return self._run(text, values).words()

    def expansion(self, text: str, values: Mapping[str, str]) -> Expansion:
        """The word with the names that were used and those that were not set."""
        run = self._run(text, values)
        return Expansion(run.result, tuple(run.used), tuple(run.unset))

    def names(self, text: str) -> tuple[str, ...]:
        """Variables that are named, inner ones before those around them; up to where the text makes no sense."""
        if "$" not in text:
            return ()
        run = _Run(text, {}, self)
        with contextlib.suppress(WordError):
            run.until("", 0)
        return tuple(run.used)

    def _run(self, text: str, values: Mapping[str, str]) -> _Run:
        if "$" not in text and self.escape not in text and '"' not in text and "'" not in text:
            run = _Run(text, values, self)
            run.plain()
            return run
        run = _Run(text, values, self)
        try:
            run.result = run.until("", 0)
        except WordError as error:
            shown = text if len(text) <= 200 else text[:200] + "..."
            raise DockerfileError(f'failed to process "{_quoted(shown)}": {error}') from None
        return run


@dataclass(frozen=True, slots=True)
class Expansion:
    text: str
    used: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@dataclass
class _Run:
    """One pass over a text."""

    text: str
    values: Mapping[str, str]
    lexer: Lexer
    at: int = 0
    result: str = ""
    used: dict[str, None] = field(default_factory=dict)
    unset: dict[str, None] = field(default_factory=dict)
    pieces: list[tuple[str, bool]] = field(default_factory=list)
    """At the top level only: (text, whether blanks in it separate words)."""

    def plain(self) -> None:
        self.result = self.text
        self.pieces.append((self.text, True))

    def words(self) -> list[str]:
        found: list[str] = []
        current: list[str] | None = None
        for piece, splits in self.pieces:
            if not splits:
                current = [*(current or ()), piece]
                continue
            for position, part in enumerate(re.split(r"[ \t\n\r\f\v]+", piece)):
                if position and current is not None:
                    found.append("".join(current))
                    current = None
                if part:
                    current = [*(current or ()), part]
        if current is not None:
            found.append("".join(current))
        return found

    def until(self, stop: str, depth: int) -> str:
        """Reads up to one of the characters in `stop` at this level, which is left in place."""
        out: list[str] = []
        size = 0
        while self.at < len(self.text):
            character = self.text[self.at]
            if stop and character in stop:
                return "".join(out)
            piece, splits = self._piece(character, depth)
            size += len(piece)
            if size > MAX_RESULT:
                raise WordError(f"the result is longer than {MAX_RESULT} characters")
            out.append(piece)
            if depth == 0:
                self.pieces.append((piece, splits))
        if "}" in stop:
            raise WordError("syntax error: missing '}'")
        return "".join(out)

    def _piece(self, character: str, depth: int) -> tuple[str, bool]:
        if character == "'":
            return self._single(), False
        if character == '"':
            return self._double(depth), False
        if character == "$":
            return self._dollar(depth), True
        if character == self.lexer.escape:
            return self._escaped(), False
        stop = self.at + 1
        while stop < len(self.text) and self.text[stop].isalnum():
            stop += 1
        piece = self.text[self.at : stop]
        self.at = stop
        return piece, True

    def _escaped(self) -> str:
        following = self.text[self.at + 1 : self.at + 2]
        self.at += 2
        if self.lexer.raw_quotes:
            return self.lexer.escape + following
        return following

    def _single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise WordError("unexpected end of statement while looking for matching single-quote")
        inside = self.text[self.at + 1 : end]
        self.at = end + 1
        return f"'{inside}'" if self.lexer.raw_quotes else inside

    def _double(self, depth: int) -> str:
        """Escape only escapes `"`, `$` and itself in here."""
        raw = self.lexer.raw_quotes
        out = ['"'] if raw else []
        self.at += 1
        while self.at < len(self.text):
            character = self.text[self.at]
            if character == '"':
                self.at += 1
                return "".join([*out, '"']) if raw else "".join(out)
            if character == "$":
                out.append(self._dollar(depth))
                continue
            following = self.text[self.at + 1 : self.at + 2]
            if character == self.lexer.escape:
                if not following:
                    break
                kept = raw or following not in ('"', "$", self.lexer.escape)
                out.append(character + following if kept else following)
                self.at += 2
                continue
            out.append(character)
            self.at += 1
        raise WordError("unexpected end of statement while looking for matching double-quote")

    # -- variables

    def _dollar(self, depth: int) -> str:
        start = self.at
        self.at += 1
        following = self.text[self.at : self.at + 1]
        if following != "{":
            name = self._name()
            if not name:
                return "$"
            return self._value(name, self.text[start : self.at])
        if depth >= MAX_DEPTH:
            raise WordError(f"more than {MAX_DEPTH} substitutions in one another")
        self.at += 1
        return self._braced(start, depth + 1)

    def _name(self) -> str:
        """Letters and digits of any script, as Go's unicode package has them; or digits alone; or one sign."""
        start = self.at
        first = self.text[start : start + 1]
        if first in _SPECIAL and first:
            self.at += 1
            return first
        takes = str.isdecimal if first.isdecimal() else _in_name
        while self.at < len(self.text) and takes(self.text[self.at]):
            self.at += 1
        return self.text[start : self.at]

    def _value(self, name: str, written: str) -> str:
        self.used[name] = None
        found = self.values.get(name)
        if found is None:
            self.unset[name] = None
            return written if self.lexer.keep_unset else ""
        return found

    def _braced(self, start: int, depth: int) -> str:
        if self.text[self.at : self.at + 1] in ("", "}", ":"):
            if self.text[self.at : self.at + 1] == "}" or not self.text[self.at :]:
                raise WordError("syntax error: bad substitution")
            raise WordError("syntax error: bad substitution")
        name = self._name()
        following = self.text[self.at : self.at + 1]
        if following == "}":
            self.at += 1
            return self._value(name, self.text[start : self.at])
        if not following:
            raise WordError("syntax error: missing '}'")
        self.at += 1
        if following in "+-?:":
            return self._default(name, following, start, depth)
        if following in "#%":
            return self._strip(name, following, start, depth)
        if following == "/":
            return self._replace(name, start, depth)
        raise WordError(f"unsupported modifier ({following}) in substitution")

    def _default(self, name: str, kind: str, start: int, depth: int) -> str:
        colon = kind == ":"
        if colon:
            kind = self.text[self.at : self.at + 1]
            self.at += 1
        if kind not in ("+", "-", "?"):
            raise WordError(f"unsupported modifier (:{kind}) in substitution")
        word = self._operand("}", depth)
        self.used[name] = None
        value = self.values.get(name)
        there = value is not None and (value != "" or not colon)
        if value is None and kind != "+" and self.lexer.keep_unset:
            return self.text[start : self.at]
        if kind == "+":
            return word if there else ""
        if there:
            return value or ""
        if kind == "-":
            return word
        meaning = word or f"is not allowed to be {'unset' if value is None else 'empty'}"
        raise WordError(f"{name}: {meaning}")

    def _strip(self, name: str, side: str, start: int, depth: int) -> str:
        greedy = self.text[self.at : self.at + 1] == side
        self.at += greedy
        pattern = self._pattern("}", depth)
        value = self._value(name, "")
        if name in self.unset and self.lexer.keep_unset:
            return self.text[start : self.at]
        if side == "#":
            return _without_prefix(value, pattern, greedy=greedy)
        return _without_suffix(value, pattern, greedy=greedy)

    def _replace(self, name: str, start: int, depth: int) -> str:
        everywhere = self.text[self.at : self.at + 1] == "/"
        self.at += everywhere
        pattern = self._pattern("/", depth)
        replacement = self._operand("}", depth)
        value = self._value(name, "")
        if name in self.unset and self.lexer.keep_unset:
            return self.text[start : self.at]
        return _replaced(value, pattern, replacement, everywhere=everywhere)

    def _operand(self, stop: str, depth: int) -> str:
        word = self.until(stop, depth)
        if self.text[self.at : self.at + 1] != stop:
            raise WordError(_missing(stop))
        self.at += 1
        return word

    def _pattern(self, stop: str, depth: int) -> str:
        """A pattern keeps its escapes, which quote `*` and `?`."""
        out: list[str] = []
        while self.at < len(self.text):
            character = self.text[self.at]
            if character == stop:
                self.at += 1
                return "".join(out)
            if character == self.lexer.escape:
                out.append("\\" + self.text[self.at + 1 : self.at + 2])
                self.at += 2
            elif character == "$":
                out.append(self._dollar(depth))
            elif character in "\"'":
                quoted = self._single() if character == "'" else self._double(depth)
                out.append(quoted)
            else:
                out.append(character)
                self.at += 1
        raise WordError(_missing(stop))


# -- patterns: a word of literals, `?` and `*`, matched in time of length × length at most


@lru_cache(maxsize=256)
def _tokens(pattern: str) -> tuple[str, ...]:
    """Literals as they are, `*` and `?` as themselves; an escaped one as two characters."""
    found: list[str] = []
    at = 0
    while at < len(pattern):
        if pattern[at] == "\\" and at + 1 < len(pattern):
            found.append(pattern[at : at + 2])
            at += 2
        else:
            found.append(pattern[at])
            at += 1
    if len(found) > 4096:
        raise WordError("the pattern is longer than 4096 characters")
    return tuple(found)


def _ends(value: str, tokens: tuple[str, ...], begin: int) -> list[int]:
    """Every end of a match that begins at `begin`, ascending: the pattern's states kept side by side."""
    states = _closure({0}, tokens)
    ends = [begin] if len(tokens) in states else []
    for position in range(begin, len(value)):
        character = value[position]
        moved: set[int] = set()
        for state in states:
            if state == len(tokens):
                continue
            token = tokens[state]
            if token == "*":
                moved.add(state)
            elif token == "?" or token[-1] == character:
                moved.add(state + 1)
        if not moved:
            break
        states = _closure(moved, tokens)
        if len(tokens) in states:
            ends.append(position + 1)
    return ends


def _closure(states: set[int], tokens: tuple[str, ...]) -> set[int]:
    todo = list(states)
    while todo:
        state = todo.pop()
        if state < len(tokens) and tokens[state] == "*" and state + 1 not in states:
            states.add(state + 1)
            todo.append(state + 1)
    return states


def _check_cost(value: str, tokens: tuple[str, ...]) -> None:
    if len(value) * max(len(tokens), 1) > 4 << 20:
        raise WordError("the value and the pattern are too long to be matched")


def _missing(stop: str) -> str:
    return f"syntax error: missing '{stop}'{' in ${}' if stop == '/' else ''}"


def _in_name(character: str) -> bool:
    return character.isalpha() or character.isdecimal() or character == "_"


def _without_prefix(value: str, pattern: str, *, greedy: bool) -> str:
    tokens = _tokens(pattern)
    _check_cost(value, tokens)
    ends = _ends(value, tokens, 0)
    return value[ends[-1 if greedy else 0] :] if ends else value


def _without_suffix(value: str, pattern: str, *, greedy: bool) -> str:
    tokens = tuple(reversed(_tokens(pattern)))
    _check_cost(value, tokens)
    ends = _ends(value[::-1], tokens, 0)
    return value[: len(value) - ends[-1 if greedy else 0]] if ends else value


def _replaced(value: str, pattern: str, replacement: str, *, everywhere: bool) -> str:
    tokens = _tokens(pattern)
    if not tokens:
        return value
    if len(value) * len(value) * len(tokens) > 64 << 20:
        raise WordError("the value and the pattern are too long to be matched")
    out: list[str] = []
    at = size = 0
    while at < len(value):
        ends = [end for end in _ends(value, tokens, at) if end > at]
        if not ends:
            out.append(value[at])
            at += 1
            continue
        out.append(replacement)
        size += len(replacement)
        if size > MAX_RESULT:
            raise WordError(f"the result is longer than {MAX_RESULT} characters")
        at = ends[-1]
        if not everywhere:
            break
    return "".join(out) + value[at:]
