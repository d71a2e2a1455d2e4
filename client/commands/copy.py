"""`pyd cp`: files between a container and this machine, as tar archives over the archive endpoints.

The rules of names are docker's ("docker container cp"): a directory that exists is copied into, anything else is the
new name; a source that ends in `/.` means the directory's contents.
"""

from __future__ import annotations

import base64
import json
import os
import posixpath
import stat
import sys
from dataclasses import dataclass
from typing import Any

from client.archive import Reader, extract, pack
from client.errors import ApiError, ClientError
from client.options import Command, Parsed
from client.render.units import human_size
from client.session import Session
from client.streams import write_all
from client.terminal import is_terminal

FLAGS = """
a|archive|bool||Keep user and group IDs
L|follow-link|bool||Copy what a symbolic link in the source path points to
q|quiet|bool||Say nothing
"""
_GO_DIRECTORY, _GO_SYMLINK = 1 << 31, 1 << 27


@dataclass(frozen=True)
class PathStat:
    """The X-Docker-Container-Path-Stat header; its mode has Go's bits."""

    name: str
    directory: bool
    target: str


def split_argument(text: str) -> tuple[str, str]:
    """(container, path); the container is empty for a path on this machine."""
    if text.startswith("/"):
        return "", text
    container, colon, path = text.partition(":")
    if not colon or container.startswith("."):
        return "", text
    return container, path


def _stat_of(headers: Any) -> PathStat:
    data = json.loads(base64.b64decode(headers["x-docker-container-path-stat"]))
    mode = data["mode"]
    return PathStat(
        data["name"], bool(mode & _GO_DIRECTORY), data["linkTarget"] if mode & _GO_SYMLINK else ""
    )


def stat_path(session: Session, container: str, path: str) -> PathStat:
    response = session.api.request("HEAD", f"/containers/{container}/archive", query={"path": path})
    return _stat_of(response.headers)


def _is_directory(session: Session, container: str, path: str) -> bool:
    try:
        return stat_path(session, container, path).directory
    except ApiError as error:
        if error.status == 404:
            return False
        raise


def _contents_wanted(path: str) -> bool:
    return path.rstrip("/").endswith("/.") or path in (".", "./")


def _resolve_link(path: str, target: str) -> str:
    return target if target.startswith("/") else posixpath.join(posixpath.dirname(path), target)


def copy_from(session: Session, parsed: Parsed, container: str, source: str, target: str) -> int:
    if parsed.on("follow-link"):
        found = stat_path(session, container, source)
        if found.target:
            source = _resolve_link(source, found.target)
    query = {"path": source}
    with session.api.stream("GET", f"/containers/{container}/archive", query=query) as response:
        if target == "-":
            for chunk in response.iter_bytes():
                write_all(1, chunk)
            return 0
        found = _stat_of(response.headers)
        directory, rename = _place_here(target, found, contents=_contents_wanted(source))
        size = extract(Reader(response.iter_bytes()), directory, rename, owners=parsed.on("archive"))
    _report(parsed, size, target)
    return 0


def _place_here(target: str, found: PathStat, *, contents: bool) -> tuple[str, tuple[str, str]]:
    """(directory to unpack in, what `extract` renames)."""
    slash = target.endswith("/")
    first = "." if contents and found.directory else found.name
    if os.path.isdir(target):
        return target, (first, "" if first == "." else first)
    if os.path.exists(target):
        if found.directory:
            raise ClientError("cannot copy directory")
        if slash:
            raise ClientError("not a directory")
    parent, name = os.path.split(target.rstrip("/"))
    if not os.path.isdir(parent or "."):
        raise ClientError(f'invalid output path: directory "{os.path.abspath(parent)}" does not exist')
    if slash and not found.directory:
        raise ClientError("no such directory")
    return parent or ".", (first, name)


def copy_to(session: Session, parsed: Parsed, source: str, container: str, target: str) -> int:
    query = {
        "path": target,
        "noOverwriteDirNonDir": "true",
        "copyUIDGID": 1 if parsed.on("archive") else None,
    }
    if source == "-":
        from client.commands.imagefiles import read_file

        if not _is_directory(session, container, target):
            raise ClientError(f'destination "{container}:{target}" must be a directory')
        session.api.request("PUT", f"/containers/{container}/archive", query=query, content=read_file("-"))
        return 0
    if parsed.on("follow-link"):
        source = os.path.realpath(source) + ("/." if _contents_wanted(source) else "")
    try:
        status = os.lstat(source.rstrip("/") or "/")
    except OSError as error:
        raise ClientError(f"lstat {os.path.abspath(source)}: {(error.strerror or '').lower()}") from None
    directory = stat.S_ISDIR(status.st_mode)
    path, name = _place_there(session, container, target, source, directory=directory)
    query["path"] = path
    session.api.request("PUT", f"/containers/{container}/archive", query=query, content=pack(source, name))
    _report(parsed, _tree_size(source), f"{container}:{target}")
    return 0


def _place_there(
    session: Session, container: str, target: str, source: str, *, directory: bool
) -> tuple[str, str]:
    """(directory in the container, name of the archive's first entry)."""
    own = os.path.basename(os.path.abspath(source))
    try:
        found = stat_path(session, container, target)
        if found.target:
            target = _resolve_link(target, found.target)
            found = stat_path(session, container, target)
    except ApiError as error:
        if error.status != 404:
            raise
        if target.endswith("/") and not directory:
            raise ClientError("no such directory") from None
        parent, name = posixpath.split(target.rstrip("/"))
        return parent or "/", name or own
    if found.directory:
        return target, "." if directory and _contents_wanted(source) else own
    if directory:
        raise ClientError("cannot copy directory")
    parent, name = posixpath.split(target)
    return parent or "/", name


def _tree_size(path: str) -> int:
    if not os.path.isdir(path) or os.path.islink(path):
        return os.lstat(path).st_size
    return sum(
        os.lstat(os.path.join(base, name)).st_size for base, _, names in os.walk(path) for name in names
    )


def _report(parsed: Parsed, size: int, target: str) -> None:
    if not parsed.on("quiet") and is_terminal(2):
        sys.stderr.write(f"Successfully copied {human_size(size, 3)} to {target}\n")


def copy(session: Session, parsed: Parsed) -> int:
    source, target = parsed.arguments
    if not source:
        raise ClientError("source can not be empty")
    if not target:
        raise ClientError("destination can not be empty")
    if target.endswith(":") and not target.startswith(("/", ".")):
        raise ClientError("no such directory")
    source_container, source_path = split_argument(source)
    target_container, target_path = split_argument(target)
    if source_container and target_container:
        raise ClientError("copying between containers is not supported")
    if source_container:
        return copy_from(session, parsed, source_container, source_path, target_path)
    if target_container:
        return copy_to(session, parsed, source_path, target_container, target_path)
    raise ClientError("must specify at least one container source")


COMMANDS = (
    Command(("cp", "container cp"), "CONTAINER:SRC_PATH DEST_PATH|- | SRC_PATH|- CONTAINER:DEST_PATH",
            "Copy files between a container and this machine", copy, FLAGS, least=2, most=2, completes="containers"),
)  # fmt: skip
