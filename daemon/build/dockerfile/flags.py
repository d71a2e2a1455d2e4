"""Flags in front of an instruction's arguments: `--name=value`, or `--name` for a switch.

Source: BuildKit frontend/dockerfile/parser/split_command.go and instructions/bflag.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from daemon.build.dockerfile.source import DockerfileError, nearest

STRING, STRINGS, SWITCH = "string", "strings", "switch"
_BLANK = " \t\v\f\r\n"


def cut(text: str, escape: str) -> tuple[list[str], str]:
    """The words that begin with `--`, and what follows. A lone `--` ends them and is dropped."""
    words: list[str] = []
    at = 0
    while True:
        while at < len(text) and text[at] in _BLANK:
            at += 1
        if not text.startswith("--", at):
            return words, text[at:]
        word, end = _word(text, at, escape)
        if word == "--":
            return words, text[end:].lstrip(_BLANK)
        words.append(word)
        at = end


def _word(text: str, at: int, escape: str) -> tuple[str, int]:
    """One word with its quotes taken off; blanks inside quotes belong to it."""
    out: list[str] = []
    quote = ""
    while at < len(text):
        character = text[at]
        if character == escape and at + 1 < len(text):
            out.append(text[at + 1])
            at += 2
            continue
        if quote:
            quote = "" if character == quote else quote
            if quote:
                out.append(character)
        elif character in "\"'":
            quote = character
        elif character in _BLANK:
            break
        else:
            out.append(character)
        at += 1
    return "".join(out), at


@dataclass(frozen=True)
class Flags:
    """What was given, checked against what an instruction knows."""

    strings: Mapping[str, str]
    lists: Mapping[str, tuple[str, ...]]
    switches: Mapping[str, bool]

    def text(self, name: str) -> str:
        return self.strings.get(name, "")

    def all(self, name: str) -> tuple[str, ...]:
        return self.lists.get(name, ())

    def on(self, name: str) -> bool:
        return self.switches.get(name, False)


def read(words: list[str], known: Mapping[str, str]) -> Flags:
    """DockerfileError for one that is unknown, given twice, or without its value."""
    strings: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    switches: dict[str, bool] = {}
    for word in words:
        name, equals, value = word[2:].partition("=")
        kind = known.get(name)
        if kind is None:
            raise DockerfileError(f"unknown flag: --{name}{nearest(name, tuple(known))}")
        if name in strings or name in switches:
            raise DockerfileError(f"duplicate flag specified: --{name}")
        if kind == SWITCH:
            if value.lower() not in ("", "true", "false") or (equals and not value):
                raise DockerfileError(f"expecting boolean value for flag --{name}, not: {value}")
            switches[name] = value.lower() != "false"
        elif not equals:
            raise DockerfileError(f"missing a value on flag: --{name}")
        elif kind == STRINGS:
            lists[name] = (*lists.get(name, ()), value)
        else:
            strings[name] = value
    return Flags(strings, lists, switches)
