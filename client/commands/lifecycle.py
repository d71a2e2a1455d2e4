"""Verbs on containers that change their state and print their names: stop, restart, kill, pause, wait, rename ..."""

from __future__ import annotations

from collections.abc import Callable

from client.errors import ClientError
from client.options import Command, Parsed
from client.session import Session, each, say

STOP_FLAGS = """
s|signal|string||Signal to send to the container
 |!time|int|0|Seconds to wait before killing the container
t|timeout|int|0|Seconds to wait before killing the container
"""


def _stop_query(parsed: Parsed) -> dict[str, str | int | bool | list[str] | None]:
    given = next((name for name in ("timeout", "time") if name in parsed.changed), None)
    return {"t": parsed.number(given) if given else None, "signal": parsed.text("signal") or None}


def _stopping(verb: str) -> Callable[[Session, Parsed], int]:
    def act(session: Session, parsed: Parsed) -> int:
        query = _stop_query(parsed)
        return each(parsed.arguments,
                    lambda name: session.api.request("POST", f"/containers/{name}/{verb}", query=query))  # fmt: skip

    return act


def kill(session: Session, parsed: Parsed) -> int:
    query = {"signal": parsed.text("signal") or None}
    return each(parsed.arguments,
                lambda name: session.api.request("POST", f"/containers/{name}/kill", query=query))  # fmt: skip


def _plain(verb: str) -> Callable[[Session, Parsed], int]:
    def act(session: Session, parsed: Parsed) -> int:
        return each(parsed.arguments, lambda name: session.api.request("POST", f"/containers/{name}/{verb}"))

    return act


def wait(session: Session, parsed: Parsed) -> int:
    def one(name: str) -> None:
        answer = session.api.json("POST", f"/containers/{name}/wait")
        if problem := (answer.get("Error") or {}).get("Message"):
            raise ClientError(problem)
        say(answer["StatusCode"])

    return each(parsed.arguments, one, report=False)


def rename(session: Session, parsed: Parsed) -> int:
    old, new = (text.strip() for text in parsed.arguments)
    if not old or not new:
        raise ClientError("Error: Neither old nor new names may be empty")
    session.api.request("POST", f"/containers/{old}/rename", query={"name": new})
    return 0


_MANY = "CONTAINER [CONTAINER...]"
COMMANDS = (
    Command(("stop", "container stop"), _MANY, "Stop one or more running containers", _stopping("stop"),
            STOP_FLAGS, least=1, completes="running"),
    Command(("restart", "container restart"), _MANY, "Restart one or more containers", _stopping("restart"),
            STOP_FLAGS, least=1, completes="containers"),
    Command(("kill", "container kill"), _MANY, "Kill one or more running containers", kill,
            "s|signal|string||Signal to send to the container", least=1, completes="running"),
    Command(("pause", "container pause"), _MANY, "Pause all processes within one or more containers",
            _plain("pause"), least=1, completes="running"),
    Command(("unpause", "container unpause"), _MANY, "Unpause all processes within one or more containers",
            _plain("unpause"), least=1, completes="containers"),
    Command(("wait", "container wait"), _MANY, "Block until one or more containers stop, then print their exit codes",
            wait, least=1, completes="containers"),
    Command(("rename", "container rename"), "CONTAINER NEW_NAME", "Rename a container", rename, least=2, most=2,
            completes="containers"),
)  # fmt: skip
