"""Images from and to files: load, save, import."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from client.errors import ClientError
from client.options import Command, Parsed
from client.references import parse_reference
from client.render.progress import display
from client.session import Session
from client.streams import write_all
from client.terminal import is_terminal

_CHUNK = 1 << 20
LOAD_FLAGS = """
i|input|string||Read from this tar archive, not from stdin
 |platform|list||Load these platforms only
q|quiet|bool||Do not show progress
"""
SAVE_FLAGS = """
o|output|string||Write to this file, not to stdout
 |platform|list||Save these platforms only
"""
IMPORT_FLAGS = """
c|change|list||Apply a Dockerfile instruction to the image
m|message|string||Commit message of the image
 |platform|string||Platform of the image
"""


def read_file(path: str) -> Iterator[bytes]:
    """A file in chunks; empty or `-` is stdin."""
    try:
        descriptor = 0 if path in ("", "-") else os.open(path, os.O_RDONLY)
    except OSError as error:
        raise ClientError(f"open {path}: {(error.strerror or '').lower()}") from None
    try:
        while data := os.read(descriptor, _CHUNK):
            yield data
    finally:
        if descriptor:
            os.close(descriptor)


def save_to(path: str, chunks: Iterator[bytes]) -> None:
    """Write to stdout, or to a file that appears only when it is whole."""
    if not path:
        for chunk in chunks:
            write_all(1, chunk)
        return
    target = Path(path)
    if not target.parent.is_dir():
        raise ClientError(f'invalid output path: directory "{target.parent}" does not exist')
    if target.exists() and not target.is_file():
        for chunk in chunks:
            with target.open("ab") as device:
                device.write(chunk)
        return
    aside = target.with_name(f".tmp-{target.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def platform_query(platforms: list[str]) -> list[str] | None:
    """--platform values in the API's form, one JSON object each."""
    import json

    documents = []
    for text in platforms:
        names = ("os", "architecture", "variant")
        documents.append(json.dumps(dict(zip(names, text.split("/"), strict=False))))
    return documents or None


def load(session: Session, parsed: Parsed) -> int:
    path = parsed.text("input")
    if not path and is_terminal(0):
        raise ClientError("requested load from stdin, but stdin is empty")
    if path and not Path(path).exists():
        raise ClientError(f"open {path}: no such file or directory")
    quiet = parsed.on("quiet") or not is_terminal(1)
    query = {"quiet": 1 if quiet else 0, "platform": platform_query(parsed.items("platform"))}
    headers = {"Content-Type": "application/x-tar"}
    messages = session.api.messages(
        "POST", "/images/load", query=query, content=read_file(path), headers=headers
    )
    display(messages, sys.stdout)
    return 0


def save(session: Session, parsed: Parsed) -> int:
    path = parsed.text("output")
    if not path and is_terminal(1):
        raise ClientError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    query = {"names": parsed.arguments, "platform": platform_query(parsed.items("platform"))}
    with session.api.stream("GET", "/images/get", query=query) as response:
        save_to(path, response.iter_bytes())
    return 0


def import_image(session: Session, parsed: Parsed) -> int:
    source, *rest = parsed.arguments
    if rest:
        parse_reference(rest[0])
    remote = source.startswith(("http://", "https://"))
    query = {
        "fromSrc": source if remote else "-",
        "repo": rest[0] if rest else None,
        "message": parsed.text("message") or None,
        "changes": parsed.items("change") or None,
        "platform": parsed.text("platform") or None,
    }
    if not remote and source != "-" and not Path(source).exists():
        raise ClientError(f"open {source}: no such file or directory")
    content = None if remote else read_file(source)
    messages = session.api.messages("POST", "/images/create", query=query, content=content)
    display(messages, sys.stdout)
    return 0


COMMANDS = (
    Command(("load", "image load"), "", "Load an image from a tar archive or stdin", load, LOAD_FLAGS, most=0),
    Command(("save", "image save"), "IMAGE [IMAGE...]", "Save one or more images to a tar archive", save, SAVE_FLAGS,
            least=1, completes="images"),
    Command(("import", "image import"), "file|URL|- [REPOSITORY[:TAG]]",
            "Make an image of a file system's tar archive", import_image, IMPORT_FLAGS, least=1, most=2),
)  # fmt: skip
