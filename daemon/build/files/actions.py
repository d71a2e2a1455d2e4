"""A File vertex's actions, one after the other upon a tree."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from daemon.build.dockerfile.ignore import Ignore
from daemon.build.files import modes, owners
from daemon.build.files.copying import Copier, explained, make_directories
from daemon.build.files.sources import Found, find, is_wild
from daemon.images.transfer.compression import Decompressed
from storage import trees
from storage.archive import ExtractOptions, Root, Whiteouts, extract
from storage.errors import DataCorrupted, InvalidArgument, NotFound, PydError

_TAR_BLOCK = 512


def run(
    actions: Sequence[Mapping[str, Any]],
    target: Root,
    inputs: Sequence[Root | None],
    linkable: Sequence[bool] = (),
    ahead: Callable[[int, str], Path | None] | None = None,
) -> list[Copied]:
    """`actions` in graph.describe()'s form. `inputs[n]` is the tree that a copy's input n names.

    `linkable[n]`: its files may become the target's by a link (see direct.py). `ahead`: takes links of all that is
    in a directory of an input which were made before, if there are any. Returns what was copied.
    """
    copied: list[Copied] = []
    for action in actions:
        try:
            if action["kind"] == "CopyFiles":
                number = action["input"]
                link = number < len(linkable) and linkable[number]
                copied += _copy(action, target, inputs, link=link, ahead=ahead)
            else:
                _ACTIONS[action["kind"]](action, target, inputs)
        except PydError:
            raise
        except OSError as error:
            raise explained(error, str(action.get("path") or action.get("target") or "")) from None
    return copied


@dataclass(frozen=True)
class Copied:
    """One source of a copy."""

    input: int
    path: str
    """Links followed."""
    target: str | None
    """Where all that is in it lies now, as it is there; None where it is not a directory or not all as it is."""


def _mkdir(action: Mapping[str, Any], target: Root, inputs: Sequence[Root | None]) -> None:
    owner = owners.resolve(action["owner"], target)
    path, when = action["path"], action["time"]
    parent = path.rstrip("/").rpartition("/")[0] or "/"
    if not action["parents"] and not _is_there(target, parent):
        raise InvalidArgument(f"mkdir {path}: no such file or directory")
    new = when >= 0 and not _is_there(target, path)
    try:
        fd = make_directories(target, path, owner, None, bits=action["mode"])
    except InvalidArgument:
        raise InvalidArgument(f"mkdir {path}: not a directory") from None
    try:
        if new:
            os.utime(fd, ns=(when, when))
    finally:
        os.close(fd)


def _is_there(root: Root, path: str) -> bool:
    try:
        root.stat(path)
    except OSError:
        return False
    return True


def _mkfile(action: Mapping[str, Any], target: Root, inputs: Sequence[Root | None]) -> None:
    parent, _, name = action["path"].rpartition("/")
    owner = owners.resolve(action["owner"], target) or (0, 0)
    directory = make_directories(target, parent or "/", owner, None)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        with open(fd, "wb") as file:
            file.write(action["data"].encode("utf-8", "surrogateescape"))
            os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), action["mode"])
            file.flush()
            if action["time"] >= 0:
                os.utime(file.fileno(), ns=(action["time"], action["time"]))
    finally:
        os.close(directory)


def _symlink(action: Mapping[str, Any], target: Root, inputs: Sequence[Root | None]) -> None:
    parent, _, name = action["path"].rpartition("/")
    owner = owners.resolve(action["owner"], target) or (0, 0)
    directory = target.open(parent or "/", os.O_PATH | os.O_DIRECTORY)
    try:
        os.symlink(action["target"], name, dir_fd=directory)
        os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
        if action["time"] >= 0:
            os.utime(name, ns=(action["time"],) * 2, dir_fd=directory, follow_symlinks=False)
    finally:
        os.close(directory)


def _remove(action: Mapping[str, Any], target: Root, inputs: Sequence[Root | None]) -> None:
    try:
        found = find(target, action["path"], wildcard=action["wildcard"], parents=False)
    except NotFound:
        if action["missing_ok"]:
            return
        raise
    for each in found:
        parent, _, name = each.name.rpartition("/")
        directory = target.open(parent or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            trees.remove(name, dir_fd=directory)
        finally:
            os.close(directory)


def _copy(
    action: Mapping[str, Any],
    target: Root,
    inputs: Sequence[Root | None],
    *,
    link: bool,
    ahead: Callable[[int, str], Path | None] | None,
) -> Iterator[Copied]:
    source = inputs[action["input"]]
    owner = owners.resolve(action["owner"], target)
    mode = modes.parse(action["mode"]) if action["mode"] else None
    excludes = Ignore(action["excludes"]) if action["excludes"] else None
    includes = Ignore(action["includes"]) if action["includes"] else None
    when = action["time"] if action["time"] >= 0 else None
    into = action["target"]
    if not action["create"] and not _is_there(target, into.rstrip("/").rpartition("/")[0] or "/"):
        raise InvalidArgument(f"failed to stat {into}: no such file or directory")
    for path in action["sources"]:
        if source is None:
            raise NotFound(f'"{path}": not found')
        found = find(
            source, path, wildcard=action["wildcard"], parents=action["parents"], follow=action["follow"]
        )
        if action["required"] and not found:
            raise NotFound(f"{path} not found")
        for each in found:
            if action["unpack"] and _unpack(source, each, target, into, owner):
                yield Copied(action["input"], each.path, None)
                continue
            copier = Copier(source, target, owner, mode, excludes, link, includes=includes, when=when)
            copier.contents = action["contents"]
            if ahead is not None:
                copier.ahead = partial(ahead, action["input"], each.path)
            copier.named = not (action["wildcard"] and is_wild(path))
            copier.copy(each, into)
            yield Copied(action["input"], each.path, copier.mirrored)


def _unpack(source: Root, found: Found, target: Root, into: str, owner: tuple[int, int] | None) -> bool:
    """Whether it is an archive, and then unpacks it. As ADD has it: what is in it decides, not its name."""
    if not stat.S_ISREG(source.lstat(found.path).st_mode):
        return False
    fd = source.open(found.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb", buffering=0) as file:
        if not _is_archive(file):
            return False
        file.seek(0)
        os.close(make_directories(target, into, owner, None))
        options = ExtractOptions(
            whiteouts=Whiteouts.LITERAL,
            owner=(lambda uid, gid: owner) if owner else None,
            unlisted=lambda uid, gid: (0, 0),
        )
        extract(Decompressed(file), target.fd, options, into=into)
    return True


def _is_archive(file: Any) -> bool:
    try:
        block = b""
        plain = Decompressed(file)
        while len(block) < _TAR_BLOCK and (more := plain.read(_TAR_BLOCK - len(block))):
            block += more
    except (DataCorrupted, OSError):
        return False
    return is_tar_header(block)


def is_tar_header(block: bytes) -> bool:
    """By the header's checksum, which even the oldest archives have."""
    if len(block) < _TAR_BLOCK or not any(block):
        return False
    try:
        stated = int(block[148:156].strip(b" \0") or b"-1", 8)
    except ValueError:
        return False
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    return stated == total


_ACTIONS = {
    "Mkdir": _mkdir,
    "Mkfile": _mkfile,
    "Symlink": _symlink,
    "Remove": _remove,
}
