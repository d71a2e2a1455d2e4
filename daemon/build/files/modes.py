"""`--chmod`: octal, or symbols (`u=rwX,go+x`) as BuildKit reads them: BSD's setmode(3) with an umask of 0.

A clause is compiled into commands that change a mode one after the other:

    =  takes away what `who` has (its set-ID bit too; without `who` all but the sticky bit), then adds
    t  is for u, g, a or nobody in particular, and makes the sticky bit a part of `who`; `o+t` does nothing
    s  is each class's own set-ID bit
    u, g, o as permissions: what the class has by then
    X  execution for directories, and for what somebody could execute before the first clause
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from storage.errors import InvalidArgument

Change = Callable[[int, bool], int]
"""(mode, whether it is a directory) to the new mode."""

PATTERN = re.compile(r"0?[0-7]{1,4}|[ugoa]*([-+=][rwxXstugo]*)+(,[ugoa]*([-+=][rwxXstugo]*)+)*")
"""Every text that is a mode."""


@dataclass(frozen=True)
class Fixed:
    """An octal mode: whatever there was."""

    mode: int

    def __call__(self, mode: int, directory: bool) -> int:
        return self.mode


_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXstugo]*)+)")
_ACTION = re.compile(r"([-+=])([rwxXstugo]*)")
_CLASSES = {"u": 0o4700, "g": 0o2070, "o": 0o007, "a": 0o6777}
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_LETTERS = {"r": 0o444, "w": 0o222, "x": 0o111}
_EVERYBODY, _STICKY, _OTHERS = 0o6777, 0o1000, 0o007

Command = tuple[str, int]
"""`+`, `-` or `X` and bits; or `=u`, `+g` ... (copy a class) and the classes it goes to."""


@lru_cache(maxsize=256)
def parse(text: str) -> Change:
    """InvalidArgument for what is no mode."""
    if PATTERN.fullmatch(text) is None:
        raise InvalidArgument(f"invalid chmod parameter: '{text}'")
    if text.isdigit():
        return Fixed(int(text, 8))
    commands = [command for part in text.split(",") for command in _commands(part)]

    def change(mode: int, directory: bool) -> int:
        executable = directory or bool(mode & 0o111)
        for kind, bits in commands:
            if kind == "+" or (kind == "X" and executable):
                mode |= bits
            elif kind == "-":
                mode &= ~bits
            elif kind != "X":
                mode = _copied(mode, kind, bits)
        return mode

    return change


def _commands(clause: str) -> Iterator[Command]:
    match = _CLAUSE.fullmatch(clause)
    assert match is not None
    who = 0
    for letter in match[1]:
        who |= _CLASSES[letter]
    for sign, letters in _ACTION.findall(match[2]):
        yield from _action(who, sign, letters)


def _action(who: int, sign: str, letters: str) -> Iterator[Command]:
    bits = execute = 0
    plain = sign == "="
    """Whether `=` has still to take away what there was."""
    for letter in letters:
        if letter in _SHIFTS:
            if bits:
                yield from _set(sign, who, bits)
                bits = 0
            plain = False
            yield sign + letter, who or 0o7777
        elif letter == "X":
            execute = 0o111
        elif letter in "st":
            if who and not who & ~_OTHERS:
                continue
            bits |= 0o6000 if letter == "s" else _STICKY
            who |= _STICKY if letter == "t" else 0
        else:
            bits |= _LETTERS[letter]
    if bits or plain:
        yield from _set(sign, who, bits)
    if execute:
        yield "X", (who or 0o7777) & execute


def _set(sign: str, who: int, bits: int) -> Iterator[Command]:
    if sign == "=":
        yield "-", who or _EVERYBODY
    yield "-" if sign == "-" else "+", (who or 0o7777) & bits


def _copied(mode: int, kind: str, who: int) -> int:
    """`g=u`: the permissions of one class for the classes in `who`."""
    sign, origin = kind[0], kind[1]
    value = mode >> _SHIFTS[origin] & 7
    for shift in _SHIFTS.values():
        if who >> shift & 0o4:
            if sign == "=":
                mode &= ~(7 << shift)
            mode = mode & ~(value << shift) if sign == "-" else mode | value << shift
    return mode
