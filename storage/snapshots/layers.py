"""Looking into a stack of layers as overlay does, without mounting it.

Layers are committed and so never change: they may be read by path. What lies on top of them may be a living
container's and is read by descriptor only (changes.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from storage.archive.options import is_opaque, is_whiteout


class Found(NamedTuple):
    """What a name is in the stack, and, for a directory, the directories that together make it up."""

    stat: os.stat_result
    path: str
    directories: list[str]


def lookup(directories: list[str], name: str, attribute: str) -> Found | None:
    """One name in a merged directory, given as its layers' directories topmost first.

    The topmost entry counts. Below a directory others shine through, until one is opaque, whited out or
    no directory.
    """
    top: Found | None = None
    for directory in directories:
        path = f"{directory}/{name}"
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if is_whiteout(found):
            break
        is_directory = stat.S_ISDIR(found.st_mode)
        if top is None:
            top = Found(found, path, [path] if is_directory else [])
        elif is_directory:
            top.directories.append(path)
        if not is_directory or not top.directories or is_opaque(path, attribute):
            break
    return top


def names(directories: list[str]) -> Iterator[str]:
    """Every name in a merged directory, hidden ones too (lookup tells), sorted."""
    found: set[str] = set()
    for directory in directories:
        found.update(os.listdir(directory))
    return iter(sorted(found))
