"""A tree, or a part of one, into a tar (signatures; being filled)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Writable(Protocol):
    """Where archives go: write(data) takes all of it."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True, slots=True)
class CreateOptions:
    owner: Callable[[int, int], tuple[int, int]] | None = None
    """(uid, gid) on disk to (uid, gid) in the archive."""
    select: Callable[[str], bool] | None = None
    """Called with each path relative to the top (`a/b`); False leaves it out, and all beneath it."""


def create(
    out: Writable,
    root: int | Path,
    path: str = "/",
    *,
    name: str = "",
    options: CreateOptions | None = None,
) -> None:
    """Writes the file or tree at `path`, resolved inside `root`, as a tar whose bytes depend on it alone.

    `name` is the top entry's name: for `docker cp` the path's last component or the name asked for
    (Docker's "rebase"). With an empty name the top directory itself is left out and its children
    stand at the archive's root: `docker export`. A final symlink is archived, not followed, unless `path`
    ends in "/" or "/.". Safe against a tree that is being changed, also by an adversary.
    """
    raise NotImplementedError
