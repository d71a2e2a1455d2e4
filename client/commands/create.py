"""`pyd create`, and the making of a container that `run` shares with it."""

from __future__ import annotations

import os
import sys
from typing import Any

from client import PROGRAM
from client.creation.body import build_body
from client.creation.flags import CONTAINER_FLAGS, CONVERTERS
from client.errors import ApiError, ClientError
from client.options import Command, Parsed
from client.session import Session, say, warn
from client.unsupported import refuse_unsupported


def as_daemon_failure(error: ClientError, name: str, code: int = 125) -> ClientError:
    """docker ends `run` and `create` with 125 whatever went wrong before the container's command ran."""
    return ClientError(f"{PROGRAM}: {error}\n\nRun '{PROGRAM} {name} --help' for more information", code)


def pull_image(session: Session, image: str, platform: str, *, quiet: bool) -> None:
    """Pull to make a container; progress goes to stderr, because stdout is the container's."""
    from client.commands.pull import pull_messages
    from client.render.progress import display, drain

    messages = pull_messages(session, image, platform)
    if quiet:
        drain(messages)
    else:
        display(messages, sys.stderr)


class CidFile:
    """--cidfile: made before the container, so that it can be refused; removed when there is no container."""

    def __init__(self, path: str) -> None:
        self.path = path
        if not path:
            return
        if os.path.exists(path):
            raise ClientError(
                "container ID file found, make sure the other container isn't running or delete " + path
            )
        try:
            open(path, "x").close()
        except OSError as error:
            raise ClientError(f"failed to create the container ID file: open {path}: "
                              f"{(error.strerror or '').lower()}") from None  # fmt: skip

    def write(self, identifier: str) -> None:
        if self.path:
            with open(self.path, "w") as file:
                file.write(identifier)

    def discard(self) -> None:
        if self.path:
            os.unlink(self.path)


def make_container(session: Session, parsed: Parsed, body: dict[str, Any]) -> str:
    """Create, pulling the image when that is asked for; the container's ID."""
    policy, image = parsed.text("pull"), body["Image"]
    if policy not in ("always", "missing", "never", ""):
        raise ClientError(f'invalid pull option: \'{policy}\': must be one of "always", "missing" or "never"')
    refuse_unsupported(parsed)
    platform, quiet = parsed.text("platform"), parsed.on("quiet")
    credentials = _mount_socket(session, parsed, body)
    file = CidFile(parsed.text("cidfile"))
    query = {"name": parsed.text("name") or None, "platform": platform or None}
    try:
        if policy == "always":
            pull_image(session, image, platform, quiet=quiet)
        try:
            answer = session.api.json("POST", "/containers/create", query=query, json=body)
        except ApiError as error:
            if error.status != 404 or policy != "missing" or "No such image" not in error.detail:
                raise
            if not quiet:
                from client.references import parse_reference

                warn(f"Unable to find image '{parse_reference(image).tagged().familiar}' locally")
            pull_image(session, image, platform, quiet=quiet)
            answer = session.api.json("POST", "/containers/create", query=query, json=body)
    except ClientError:
        file.discard()
        raise
    for warning in answer.get("Warnings") or []:
        warn(f"WARNING: {warning}")
    identifier = str(answer["Id"])
    if credentials:
        session.api.request(
            "PUT", f"/containers/{identifier}/archive", query={"path": "/"}, content=credentials
        )
    file.write(identifier)
    return identifier


def _mount_socket(session: Session, parsed: Parsed, body: dict[str, Any]) -> bytes | None:
    """--use-api-socket; a tar of credentials to unpack in the container, if any."""
    if not parsed.on("use-api-socket"):
        return None
    from client.creation.apisocket import mount_socket

    return mount_socket(session, body)


def check_image(image: str) -> None:
    """An image ID or a reference that has docker's grammar."""
    from client.references import parse_reference

    if not all(c in "0123456789abcdef" for c in image.removeprefix("sha256:")):
        parse_reference(image)


def create(session: Session, parsed: Parsed) -> int:
    image, *command = parsed.arguments
    try:
        body = build_body(parsed, image, command)
    except ClientError as error:
        raise as_daemon_failure(error, "create") from None
    check_image(image)
    try:
        say(make_container(session, parsed, body))
    except ClientError as error:
        raise as_daemon_failure(error, "create") from None
    return 0


COMMANDS = (
    Command(("create", "container create"), "IMAGE [COMMAND] [ARG...]", "Create a new container", create,
            CONTAINER_FLAGS, least=1, interspersed=False, converters=CONVERTERS, completes="images"),
)  # fmt: skip
