"""Which paths a COPY's sources mean in their tree: wildcards, links followed, nothing outside the root."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from daemon.build.dockerfile.ignore import compile_glob
from storage.archive import Root
from storage.errors import InvalidArgument, NotFound

MAX_MATCHES = 1_000_000
_WILD = frozenset("*?[")


@dataclass(frozen=True)
class Found:
    """One source: as it was asked for (below its tree's root), and where it really is."""

    name: str
    """The path as written, a wildcard replaced by what it matched; no leading slash."""
    path: str
    """Links followed."""
    kept: str = ""
    """--parents: the part of the path that is kept in the target."""


def find(root: Root, source: str, *, wildcard: bool, parents: bool, follow: bool = True) -> list[Found]:
    """NotFound, worded as BuildKit has it, for a plain name that is not there; a wildcard may match nothing."""
    pivot = ""
    if "/./" in source:
        before, _, after = source.partition("/./")
        pivot, source = before.strip("/"), f"{before}/{after}"
    parts = [part for part in source.split("/") if part]
    if not wildcard or not is_wild(source):
        name = "/".join(_plain(part) if wildcard else part for part in parts)
        matched: Iterator[str] = iter([name])
    else:
        matched = _matches(root, parts)
    found = []
    for name in matched:
        try:
            path = root.realpath("/" + name) if follow else _itself(root, name)
            root.lstat(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise NotFound(f'"/{name}": not found') from None
            raise InvalidArgument(f'"/{name}": {error.strerror}') from None
        kept = name[len(pivot) :].strip("/") if parents else ""
        found.append(Found(name, path, kept))
        if len(found) > MAX_MATCHES:
            raise InvalidArgument(f"{source} matches more than {MAX_MATCHES} paths")
    return found


def is_wild(source: str) -> bool:
    """Whether it is a pattern, or would be one without its escapes."""
    return not _WILD.isdisjoint(source)


def _itself(root: Root, name: str) -> str:
    """The last component not followed."""
    parent, _, last = name.strip("/").rpartition("/")
    return f"{root.realpath('/' + parent).rstrip('/')}/{last}"


def _plain(part: str) -> str:
    """A name without wildcards, its escapes taken off."""
    out = []
    escaped = False
    for character in part:
        if character == "\\" and not escaped:
            escaped = True
            continue
        out.append(character)
        escaped = False
    return "".join(out)


def _matches(root: Root, parts: Sequence[str]) -> Iterator[str]:
    """Names in order; `**` crosses directories."""
    stack: list[tuple[str, int]] = [("", 0)]
    seen: set[str] = set()
    while stack:
        name, at = stack.pop()
        if at == len(parts):
            if name and name not in seen:
                seen.add(name)
                yield name
            continue
        part = parts[at]
        if part == "**":
            children = [(c, at) for c in _children(root, name, directories=True)]
            stack += [*reversed(children), (name, at + 1)]
        elif not _WILD & set(part):
            below = f"{name}/{_plain(part)}" if name else _plain(part)
            if _exists(root, below):
                stack.append((below, at + 1))
        else:
            pattern = compile_glob(part)
            last = at + 1 == len(parts)
            names = _children(root, name, directories=not last)
            stack += [(c, at + 1) for c in reversed(names) if pattern.fullmatch(c.rpartition("/")[2])]


def _exists(root: Root, name: str) -> bool:
    try:
        root.lstat("/" + name)
    except OSError:
        return False
    return True


def _children(root: Root, name: str, *, directories: bool) -> list[str]:
    try:
        fd = root.open("/" + name if name else ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        found = []
        for child in sorted(os.listdir(fd)):
            if directories and stat.S_ISREG(os.stat(child, dir_fd=fd, follow_symlinks=False).st_mode):
                continue
            found.append(f"{name}/{child}" if name else child)
        return found
    finally:
        os.close(fd)
