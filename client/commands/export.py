"""`pyd export` and `pyd commit`: a container's file system as a tar archive or an image."""

from __future__ import annotations

from client.commands.imagefiles import save_to
from client.errors import ClientError
from client.options import Command, Parsed
from client.references import parse_reference
from client.session import Session, say
from client.terminal import is_terminal

COMMIT_FLAGS = """
a|author|string||Author (e.g. "Ada Lovelace <ada@example.com>")
c|change|list||Apply a Dockerfile instruction to the image
m|message|string||Commit message
p|pause|bool|true|Pause the container meanwhile
"""


def export(session: Session, parsed: Parsed) -> int:
    path = parsed.text("output")
    if not path and is_terminal(1):
        raise ClientError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    with session.api.stream("GET", f"/containers/{parsed.arguments[0]}/export") as response:
        save_to(path, response.iter_bytes())
    return 0


def commit(session: Session, parsed: Parsed) -> int:
    name, *rest = parsed.arguments
    reference = parse_reference(rest[0]) if rest else None
    if reference and reference.digest:
        raise ClientError("refusing to create a tag with a digest reference")
    query = {
        "container": name,
        "repo": reference.full_name if reference else None,
        "tag": (reference.tag or "latest") if reference else None,
        "author": parsed.text("author") or None,
        "comment": parsed.text("message") or None,
        "changes": parsed.items("change") or None,
        "pause": None if parsed.on("pause") else 0,
    }
    say(session.api.json("POST", "/commit", query=query)["Id"])
    return 0


COMMANDS = (
    Command(("export", "container export"), "CONTAINER", "Export a container's file system as a tar archive", export,
            "o|output|string||Write to this file, not to stdout", least=1, most=1, completes="containers"),
    Command(("commit", "container commit"), "CONTAINER [REPOSITORY[:TAG]]",
            "Create a new image from a container's changes", commit, COMMIT_FLAGS, least=1, most=2,
            completes="containers"),
)  # fmt: skip
