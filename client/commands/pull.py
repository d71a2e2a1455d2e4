"""`pyd pull` and `pyd push`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from client.errors import ClientError
from client.options import Command, Parsed
from client.references import Reference, parse_reference
from client.render.progress import display, drain
from client.session import Session, say, warn

PULL_FLAGS = """
a|all-tags|bool||Pull every tag of the repository
 |disable-content-trust|bool|true|Skip image verification
 |platform|string||Platform of the image
q|quiet|bool||Do not show progress
"""
PUSH_FLAGS = """
a|all-tags|bool||Push every tag of the repository
 |disable-content-trust|bool|true|Skip image signing
 |platform|string||Push one platform of a multi-platform image
q|quiet|bool||Do not show progress
"""


def pull_messages(
    session: Session, image: str, platform: str, *, all_tags: bool = False
) -> Iterator[dict[str, Any]]:
    """The daemon's progress messages of one pull."""
    reference = parse_reference(image)
    if not all_tags:
        reference = reference.tagged()
    query = {
        "fromImage": reference.full_name,
        "tag": reference.digest or reference.tag or None,
        "platform": platform or None,
    }
    headers = session.registry_auth(reference.registry)
    return session.api.messages("POST", "/images/create", query=query, headers=headers)


def _full_name(reference: Reference) -> str:
    return reference.full_name + (f":{reference.tag}" if reference.tag else "") + (
        f"@{reference.digest}" if reference.digest else "")  # fmt: skip


def pull(session: Session, parsed: Parsed) -> int:
    reference = parse_reference(parsed.arguments[0])
    quiet, all_tags = parsed.on("quiet"), parsed.on("all-tags")
    if all_tags and (reference.tag or reference.digest):
        raise ClientError("tag can't be used with --all-tags/-a")
    if not all_tags and reference != reference.tagged():
        reference = reference.tagged()
        if not quiet:
            say(f"Using default tag: {reference.tag}")
    messages = pull_messages(session, parsed.arguments[0], parsed.text("platform"), all_tags=all_tags)
    if quiet:
        drain(messages)
    else:
        display(messages, sys.stdout)
    say(_full_name(reference))
    return 0


def push(session: Session, parsed: Parsed) -> int:
    reference = parse_reference(parsed.arguments[0])
    quiet, all_tags = parsed.on("quiet"), parsed.on("all-tags")
    if all_tags and (reference.tag or reference.digest):
        raise ClientError("tag can't be used with --all-tags/-a")
    if not all_tags and not reference.tag:
        reference = reference.tagged()
        if not quiet:
            say(f"Using default tag: {reference.tag}")
    query = {"tag": None if all_tags else reference.tag, "platform": parsed.text("platform") or None}
    headers = session.registry_auth(reference.registry)
    messages = session.api.messages(
        "POST", f"/images/{reference.full_name}/push", query=query, headers=headers
    )
    if quiet:
        drain(messages)
        say(_full_name(reference))
        return 0
    for note in display(messages, sys.stdout):
        if isinstance(note, dict) and "NotFound" in str(note):
            warn(note)
    return 0


COMMANDS = (
    Command(("pull", "image pull"), "NAME[:TAG|@DIGEST]", "Download an image from a registry", pull, PULL_FLAGS,
            least=1, most=1, completes="images"),
    Command(("push", "image push"), "NAME[:TAG]", "Upload an image to a registry", push, PUSH_FLAGS, least=1, most=1,
            completes="images"),
)  # fmt: skip
