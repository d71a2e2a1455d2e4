"""`--chmod`: octal, or chmod(1)'s symbols (`u=rwX,go+x`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from storage.errors import InvalidArgument

Change = Callable[[int, bool], int]
"""(mode, whether it is a directory) to the new mode."""


@dataclass(frozen=True)
class Fixed:
    """An octal mode: whatever there was."""

    mode: int

    def __call__(self, mode: int, directory: bool) -> int:
        return self.mode


_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXstugo]*)+)")
_ACTION = re.compile(r"([-+=])([rwxXstugo]*)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}


@lru_cache(maxsize=256)
def parse(text: str) -> Change:
    if re.fullmatch(r"0?[0-7]{1,4}", text):
        return Fixed(int(text, 8))
    clauses = []
    for part in text.split(","):
        match = _CLAUSE.fullmatch(part)
        if match is None:
            raise InvalidArgument(f"invalid chmod parameter: '{text}'")
        clauses.append((match[1] or "a", _ACTION.findall(match[2])))

    def change(mode: int, directory: bool) -> int:
        for who, actions in clauses:
            for sign, letters in actions:
                mode = _apply(mode, who, sign, letters, directory=directory)
        return mode

    return change


def _apply(mode: int, who: str, sign: str, letters: str, *, directory: bool) -> int:
    everyone = "a" in who
    classes = "ugo" if everyone else who
    bits = special = 0
    for letter in letters:
        if letter in "ugo":
            bits |= mode >> _SHIFTS[letter] & 7
        elif letter == "s":
            special |= (0o4000 if "u" in classes else 0) | (0o2000 if "g" in classes else 0)
        elif letter == "t":
            special |= 0o1000 if everyone or "o" in classes else 0
        elif letter != "X" or directory or mode & 0o111:
            bits |= {"r": 4, "w": 2, "x": 1, "X": 1}[letter]
    mask = value = 0
    for each in set(classes):
        mask |= 7 << _SHIFTS[each]
        value |= bits << _SHIFTS[each]
    if sign == "+":
        return mode | value | special
    if sign == "-":
        return mode & ~(value | special)
    return mode & ~mask | value | special
