"""`pyd run`: create, attach, wait and start in the order that loses nothing.

Attach comes before start, so that the first output is not missed; wait comes before start, so that the exit code
of a container that removes itself is not missed.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

from client import PROGRAM
from client.commands.create import as_daemon_failure, check_image, make_container
from client.creation.body import build_body
from client.creation.flags import CONTAINER_FLAGS, CONVERTERS
from client.errors import ApiError, ClientError
from client.options import Command, Parsed
from client.session import Session, say
from client.terminal import (
    DEFAULT_DETACH_KEYS,
    converse,
    following_size,
    forwarding_signals,
    is_terminal,
    parse_detach_keys,
    require_terminal,
    size,
)

if TYPE_CHECKING:
    from client.http import Query

RUN_FLAGS = """
d|detach|bool||Run in the background and print the container's ID
 |detach-keys|string||Keys that detach from the container
 |sig-proxy|bool|true|Hand signals on to the container
"""
_NOT_FOUND = (
    "executable file not found",
    "no such file or directory",
    "system cannot find the file specified",
)
_NOT_EXECUTABLE = ("permission denied", "is a directory")


def start_failure_code(message: str) -> int:
    """docker's code for a command that could not be started: 127 not found, 126 not executable, else 125."""
    text = message.lower()
    if any(words in text for words in _NOT_FOUND):
        return 127
    return 126 if any(words in text for words in _NOT_EXECUTABLE) else 125


def detach_keys(session: Session, parsed: Parsed) -> str:
    if parsed.text("detach-keys"):
        return parsed.text("detach-keys")
    if (session.config_directory / "config.json").exists():
        return session.config.text("detachKeys") or DEFAULT_DETACH_KEYS
    return DEFAULT_DETACH_KEYS


def run(session: Session, parsed: Parsed) -> int:
    image, *command = parsed.arguments
    detached = parsed.on("detach")
    try:
        body = build_body(parsed, image, command)
        check_image(image)
        if detached:
            _detach_body(parsed, body)
        elif body["Tty"] or body["AttachStdin"]:
            require_terminal(tty=body["Tty"], stdin=body["AttachStdin"])
        body["HostConfig"]["ConsoleSize"] = list(size())
        keys = detach_keys(session, parsed)
        parse_detach_keys(keys)
    except ClientError as error:
        if str(error) == "the input device is not a TTY":
            raise
        raise as_daemon_failure(error, "run") from None
    try:
        identifier = make_container(session, parsed, body)
    except ClientError as error:
        raise as_daemon_failure(error, "run", start_failure_code(str(error))) from None
    if detached:
        _start(session, identifier)
        say(identifier)
        return 0
    return _foreground(session, parsed, body, identifier, keys)


def _detach_body(parsed: Parsed, body: dict[str, Any]) -> None:
    if parsed.items("attach"):
        raise ClientError("conflicting options: cannot specify both --attach and --detach")
    body.update(AttachStdin=False, AttachStdout=False, AttachStderr=False, StdinOnce=False)


def _start(session: Session, identifier: str) -> None:
    try:
        session.api.request("POST", f"/containers/{identifier}/start")
    except ApiError as error:
        code = start_failure_code(error.detail)
        text = re.sub(r": unknown$", "", str(error))
        suffix = f"\n\nRun '{PROGRAM} run --help' for more information"
        raise ClientError(f"{PROGRAM}: {text}{suffix}", code) from None


def _foreground(session: Session, parsed: Parsed, body: dict[str, Any], identifier: str, keys: str) -> int:
    """The attached run; its exit code is the container's."""
    api, tty, stdin = session.api, body["Tty"], body["AttachStdin"]
    streams = {"stdin": stdin, "stdout": body["AttachStdout"], "stderr": body["AttachStderr"]}
    condition = "removed" if body["HostConfig"]["AutoRemove"] else "next-exit"
    with contextlib.ExitStack() as stack:
        raw = None
        if any(streams.values()):
            wanted: dict[str, int] = {name: 1 for name, on in streams.items() if on}
            query: Query = {"stream": 1, "detachKeys": keys, **wanted}
            raw = api.hijack(f"/containers/{identifier}/attach", query=query)
            stack.callback(raw.close)
        waiting = stack.enter_context(
            api.stream("POST", f"/containers/{identifier}/wait", query={"condition": condition})
        )
        if parsed.on("sig-proxy") and not tty:
            stack.enter_context(forwarding_signals(lambda name: _signal(session, identifier, name)))
        try:
            _start(session, identifier)
        except ClientError:
            if body["HostConfig"]["AutoRemove"]:
                with contextlib.suppress(ClientError):
                    waiting.read()
            raise
        if tty and is_terminal(1):
            stack.enter_context(
                following_size(lambda rows, columns: _resize(session, identifier, rows, columns))
            )
        if raw is None:
            say(identifier)
        elif converse(raw, tty=tty, stdin=stdin, keys=parse_detach_keys(keys)):
            return 0
        return _exit_code(waiting.read())


def _exit_code(content: bytes) -> int:
    answer = json.loads(content)
    problem = (answer.get("Error") or {}).get("Message")
    if problem:
        raise ClientError(f"Error waiting for container: {problem}", 125)
    return int(answer["StatusCode"])


def _signal(session: Session, identifier: str, name: str) -> None:
    session.api.request("POST", f"/containers/{identifier}/kill", query={"signal": name})


def _resize(session: Session, identifier: str, rows: int, columns: int) -> None:
    session.api.request("POST", f"/containers/{identifier}/resize", query={"h": rows, "w": columns})


COMMANDS = (
    Command(("run", "container run"), "IMAGE [COMMAND] [ARG...]", "Create and run a new container from an image", run,
            CONTAINER_FLAGS + RUN_FLAGS.lstrip("\n"), least=1, interspersed=False, converters=CONVERTERS,
            completes="images"),
)  # fmt: skip
