"""`pyd exec`: one more process in a running container."""

from __future__ import annotations

import contextlib
from typing import Any

from client.commands.run import detach_keys
from client.creation.validators import environment, read_pairs
from client.errors import ClientError
from client.options import Command, Parsed
from client.session import Session
from client.terminal import converse, following_size, is_terminal, parse_detach_keys, require_terminal, size

FLAGS = """
d|detach|bool||Run in the background
 |detach-keys|string||Keys that detach from the process
e|env|list:env||Set environment variables
 |env-file|list||Read environment variables from a file
i|interactive|bool||Keep STDIN open even if not attached
 |privileged|bool||Give extended privileges to the process
t|tty|bool||Give the process a terminal
u|user|string||User name or ID (<name|uid>[:<group|gid>])
w|workdir|string||Working directory
"""


def build_exec(parsed: Parsed, command: list[str], keys: str) -> dict[str, Any]:
    """The body of POST /containers/{id}/exec."""
    attached = not parsed.on("detach")
    pairs = [pair for path in parsed.items("env-file") for pair in read_pairs(path, from_environment=True)]
    body: dict[str, Any] = {
        "User": parsed.text("user"),
        "Privileged": parsed.on("privileged"),
        "Tty": parsed.on("tty"),
        "AttachStdin": attached and parsed.on("interactive"),
        "AttachStderr": attached,
        "AttachStdout": attached,
        "DetachKeys": keys,
        "Env": pairs + parsed.items("env") or None,
        "WorkingDir": parsed.text("workdir"),
        "Cmd": command,
    }
    rows, columns = size()
    if body["Tty"] and rows:
        body["ConsoleSize"] = [rows, columns]
    return body


def execute(session: Session, parsed: Parsed) -> int:
    name, *command = parsed.arguments
    keys = detach_keys(session, parsed)
    sequence = parse_detach_keys(keys)
    body = build_exec(parsed, command, parsed.text("detach-keys"))
    api = session.api
    tty, stdin = body["Tty"], body["AttachStdin"]
    require_terminal(tty=tty, stdin=stdin)
    identifier = api.json("POST", f"/containers/{name}/exec", json=body)["Id"]
    start: dict[str, Any] = {"Detach": parsed.on("detach"), "Tty": tty}
    if "ConsoleSize" in body:
        start["ConsoleSize"] = body["ConsoleSize"]
    if parsed.on("detach"):
        api.request("POST", f"/exec/{identifier}/start", json=start)
        return 0
    with contextlib.ExitStack() as stack:
        raw = api.hijack(f"/exec/{identifier}/start", json=start)
        stack.callback(raw.close)
        if tty and is_terminal(1):

            def resize(rows: int, columns: int) -> None:
                api.request("POST", f"/exec/{identifier}/resize", query={"h": rows, "w": columns})

            stack.enter_context(following_size(resize))
        if converse(raw, tty=tty, stdin=stdin, keys=sequence):
            raise ClientError("read escape sequence")
    code = api.json("GET", f"/exec/{identifier}/json").get("ExitCode")
    return int(code or 0)


COMMANDS = (
    Command(("exec", "container exec"), "CONTAINER COMMAND [ARG...]", "Execute a command in a running container",
            execute, FLAGS, least=2, interspersed=False, converters={"env": environment}, completes="running"),
)  # fmt: skip
