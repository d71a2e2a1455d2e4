"""A directory as a build's context: the tar that is sent.

.dockerignore's meaning is the daemon's business, which applies it whole. What it names plainly, and nothing
takes back with `!`, is not even read here: `node_modules` and `.git` are what people write it for.
"""

from __future__ import annotations

import io
import os
import secrets
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from client.errors import ClientError

_CHUNK = 1 << 18
_WILD = frozenset("*?[\\")


@dataclass(frozen=True)
class Context:
    """What to send, and the Dockerfile's name in it."""

    chunks: Iterator[bytes]
    dockerfile: str


def of_directory(directory: str, dockerfile: str, content: bytes | None) -> Context:
    """`content`: a Dockerfile that is not in the context (another place, stdin)."""
    root = Path(directory)
    if not root.is_dir():
        raise ClientError(f'unable to prepare context: path "{directory}" not found')
    extra: dict[str, bytes] = {}
    if content is not None:
        dockerfile = f".dockerfile.{secrets.token_hex(10)}"
        extra[dockerfile] = content
        ignore = _text(root / ".dockerignore")
        extra[".dockerignore"] = ignore + f"\n{dockerfile}\n.dockerignore\n".encode() if ignore else b""
    elif not (root / (dockerfile or "Dockerfile")).exists():
        raise ClientError(
            f"unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat "
            f"{root / (dockerfile or 'Dockerfile')}: no such file or directory"
        )
    return Context(_pack(root, _plainly_ignored(root, dockerfile), extra), dockerfile)


def locate(directory: str, given: str) -> tuple[str, bytes | None]:
    """-f's file: its name inside the context, or its content when it lies elsewhere."""
    if not given:
        return "", None
    path = Path(given)
    if not path.exists() and not path.is_absolute():
        path = Path(directory, given)
    try:
        inside = os.path.relpath(os.path.realpath(path), os.path.realpath(directory))
        if not inside.startswith(".."):
            return inside, None
        return "", path.read_bytes()
    except OSError as error:
        message = (error.strerror or "").lower()
        raise ClientError(f"unable to prepare context: open {given}: {message}") from None


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _plainly_ignored(root: Path, dockerfile: str) -> frozenset[str]:
    text = _text(root / f"{dockerfile or 'Dockerfile'}.dockerignore") or _text(root / ".dockerignore")
    lines = [
        line.strip() for line in text.decode("utf-8", "replace").splitlines() if not line.startswith("#")
    ]
    if any(line.startswith("!") for line in lines):
        return frozenset()
    named = {line.strip("/").removeprefix("./") for line in lines if line and not _WILD & set(line)}
    needed = {dockerfile or "Dockerfile", ".dockerignore", f"{dockerfile or 'Dockerfile'}.dockerignore"}
    return frozenset(name for name in named - needed if ".." not in name.split("/"))


def _pack(root: Path, ignored: frozenset[str], extra: dict[str, bytes]) -> Iterator[bytes]:
    read_end, write_end = os.pipe()
    problem: list[OSError] = []

    def keep(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if entry.name in ignored or entry.name in extra:
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    def write() -> None:
        try:
            with os.fdopen(write_end, "wb") as out, tarfile.open(fileobj=out, mode="w|") as tar:
                for name in sorted(os.listdir(root)):
                    tar.add(root / name, arcname=name, filter=keep)
                for name, data in extra.items():
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
        except BrokenPipeError:
            pass
        except OSError as error:
            problem.append(error)

    threading.Thread(target=write, daemon=True).start()
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        while data := pipe.read(_CHUNK):
            yield data
    if problem:
        raise ClientError(f"unable to prepare context: {problem[0]}")
