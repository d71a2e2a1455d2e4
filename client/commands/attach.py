"""`pyd attach`: this terminal on a running container's streams."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from client.commands.run import _resize, _signal, detach_keys
from client.errors import ClientError
from client.options import Command, Parsed
from client.session import Session
from client.terminal import (
    converse,
    following_size,
    forwarding_signals,
    is_terminal,
    parse_detach_keys,
    require_terminal,
    size,
)

FLAGS = """
 |detach-keys|string||Keys that detach from the container
 |no-stdin|bool||Do not attach STDIN
 |sig-proxy|bool|true|Hand signals on to the container
"""


def attach_streams(session: Session, identifier: str, *, tty: bool, stdin: bool, keys: str, signals: bool,
                   begin: Callable[[], None] = lambda: None) -> bool:  # fmt: skip
    """Attach, call `begin` (which may start the container) and copy until the end; true when detached."""
    sequence = parse_detach_keys(keys)
    query = {"stream": 1, "stdin": 1 if stdin else None, "stdout": 1, "stderr": 1, "detachKeys": keys}
    with contextlib.ExitStack() as stack:
        raw = session.api.hijack(f"/containers/{identifier}/attach", query=query)
        stack.callback(raw.close)
        if signals and not tty:
            stack.enter_context(forwarding_signals(lambda name: _signal(session, identifier, name)))
        begin()
        if tty and is_terminal(1):
            stack.enter_context(
                following_size(lambda rows, columns: _resize(session, identifier, rows, columns))
            )
        return converse(raw, tty=tty, stdin=stdin, keys=sequence)


def _provoke_prompt(session: Session, identifier: str) -> None:
    """A shell draws its prompt when its terminal's size changes; so change it, `following_size` puts it right."""
    rows, columns = size()
    if rows and columns:
        with contextlib.suppress(ClientError):
            _resize(session, identifier, rows + 1, columns + 1)


def attach(session: Session, parsed: Parsed) -> int:
    name = parsed.arguments[0]
    container = session.api.json("GET", f"/containers/{name}/json")
    state, config, identifier = container["State"], container["Config"], container["Id"]
    if not state["Running"]:
        raise ClientError("You cannot attach to a stopped container, start it first")
    if state["Paused"]:
        raise ClientError("You cannot attach to a paused container, unpause it first")
    if state["Restarting"]:
        raise ClientError("You cannot attach to a restarting container, wait until it is running")
    if config["Tty"]:
        _provoke_prompt(session, identifier)
    stdin = not parsed.on("no-stdin") and bool(config["OpenStdin"])
    require_terminal(tty=config["Tty"], stdin=stdin)
    detached = attach_streams(session, identifier, tty=config["Tty"], stdin=stdin, keys=detach_keys(session, parsed),
                              signals=parsed.on("sig-proxy"))  # fmt: skip
    if detached:
        raise ClientError("read escape sequence")
    answer = session.api.json("POST", f"/containers/{identifier}/wait")
    return int(answer["StatusCode"])


COMMANDS = (
    Command(("attach", "container attach"), "CONTAINER", "Attach this terminal's streams to a running container",
            attach, FLAGS, least=1, most=1, completes="running"),
)  # fmt: skip
