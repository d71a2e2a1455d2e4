"""`pyd start`, with or without attaching."""

from __future__ import annotations

import contextlib

from client.commands.run import detach_keys
from client.errors import ApiError, ClientError
from client.options import Command, Parsed
from client.session import Session, say, warn
from client.unsupported import refuse_unsupported

FLAGS = """
a|attach|bool||Attach STDOUT and STDERR, and hand signals on
 |!checkpoint|string||Restore from this checkpoint
 |!checkpoint-dir|string||Where checkpoints are
 |detach-keys|string||Keys that detach from the container
i|interactive|bool||Attach STDIN
"""


def start(session: Session, parsed: Parsed) -> int:
    refuse_unsupported(parsed)
    if parsed.on("attach") or parsed.on("interactive"):
        if len(parsed.arguments) > 1:
            raise ClientError("you cannot start and attach multiple containers at once")
        return _attached(session, parsed, parsed.arguments[0])
    failed = []
    for name in parsed.arguments:
        try:
            session.api.request("POST", f"/containers/{name}/start")
            say(name)
        except ClientError as error:
            warn(error)
            failed.append(name)
    if failed:
        raise ClientError(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _attached(session: Session, parsed: Parsed, name: str) -> int:
    from client.commands.attach import attach_streams
    from client.commands.run import _exit_code
    from client.terminal import require_terminal

    api = session.api
    container = api.json("GET", f"/containers/{name}/json")
    identifier, config = container["Id"], container["Config"]
    stdin = parsed.on("interactive") and bool(config["OpenStdin"])
    require_terminal(tty=config["Tty"], stdin=stdin)
    condition = "removed" if container["HostConfig"].get("AutoRemove") else "next-exit"
    with contextlib.ExitStack() as stack:
        waiting = stack.enter_context(
            api.stream("POST", f"/containers/{identifier}/wait", query={"condition": condition})
        )

        def begin() -> None:
            try:
                api.request("POST", f"/containers/{identifier}/start")
            except ApiError as error:
                warn(error)
                raise ClientError(f"Error: failed to start containers: {name}") from None

        keys = detach_keys(session, parsed)
        if attach_streams(
            session, identifier, tty=config["Tty"], stdin=stdin, keys=keys, signals=True, begin=begin
        ):
            return 0
        return _exit_code(waiting.read())


COMMANDS = (
    Command(("start", "container start"), "CONTAINER [CONTAINER...]", "Start one or more stopped containers", start,
            FLAGS, least=1, completes="containers"),
)  # fmt: skip
