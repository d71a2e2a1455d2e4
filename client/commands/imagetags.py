"""Images' names and history: tag, rmi, image prune, history."""

from __future__ import annotations

from typing import Any

from client.commands.remove import ask
from client.errors import ClientError
from client.options import Command, Parsed
from client.references import parse_reference
from client.render.listing import check_template, show
from client.render.units import ago, ellipsis, human_size, short_id
from client.session import Session, filters_json, say, warn

REMOVE_FLAGS = """
f|force|bool||Remove even if containers that are not running use it
 |no-prune|bool||Keep parents that have no name
 |platform|list||Remove these platforms only
"""
PRUNE_FLAGS = """
a|all|bool||Remove every image that no container uses, not only those without a name
 |filter|filter||What to remove ("until=<timestamp>")
f|force|bool||Do not ask
"""
HISTORY_FLAGS = """
 |format|string||'table', 'table TEMPLATE', 'json' or a Go template
H|human|bool|true|Sizes and dates for people
 |no-trunc|bool||Do not shorten
 |platform|string||Show the history of this platform
q|quiet|bool||Show IDs only
"""
COLUMNS = {"ID": "IMAGE", "CreatedAt": "CREATED AT", "CreatedSince": "CREATED", "CreatedBy": "CREATED BY",
           "Size": "SIZE", "Comment": "COMMENT"}  # fmt: skip


def tag(session: Session, parsed: Parsed) -> int:
    source, target = parsed.arguments
    try:
        reference = parse_reference(target)
    except ClientError as error:
        raise ClientError(
            f'Error parsing reference: "{target}" is not a valid repository/tag: {error}'
        ) from None
    if reference.digest:
        raise ClientError("refusing to create a tag with a digest reference")
    query = {"repo": reference.full_name, "tag": reference.tag or "latest"}
    session.api.request("POST", f"/images/{source}/tag", query=query)
    return 0


def print_removed(entries: list[dict[str, str]]) -> None:
    for entry in entries:
        for kind, name in entry.items():
            say(f"{kind}: {name}")


def remove(session: Session, parsed: Parsed) -> int:
    force = parsed.on("force")
    query = {"force": 1 if force else None, "noprune": 1 if parsed.on("no-prune") else None}
    failed = 0
    for name in parsed.arguments:
        try:
            print_removed(session.api.json("DELETE", f"/images/{name}", query=query))
        except ClientError as error:
            warn(error)
            missing = getattr(error, "status", 0) == 404
            failed = failed or int(not (force and missing))
    return failed


def prune(session: Session, parsed: Parsed) -> int:
    everything = parsed.on("all")
    ask(parsed, "This will remove all images without at least one container associated to them." if everything
        else "This will remove all dangling images.")  # fmt: skip
    filters = [*parsed.items("filter"), ("dangling", "false" if everything else "true")]
    answer = session.api.json("POST", "/images/prune", query={"filters": filters_json(filters)})
    if entries := answer.get("ImagesDeleted"):
        say("Deleted Images:")
        for entry in entries:
            for kind, name in entry.items():
                say(f"{kind.lower()}: {name}")
        say()
    say(f"Total reclaimed space: {human_size(answer.get('SpaceReclaimed', 0))}")
    return 0


def history_row(entry: dict[str, Any], *, human: bool, short: bool) -> dict[str, Any]:
    from datetime import datetime

    command = str(entry["CreatedBy"]).replace("\t", " ")
    created = datetime.fromtimestamp(entry["Created"]).astimezone().isoformat()
    created = created.removesuffix("+00:00") + ("Z" if created.endswith("+00:00") else "")
    return {
        "ID": short_id(entry["Id"]) if short else entry["Id"],
        "CreatedAt": created,
        "CreatedSince": (ago(entry["Created"]) if entry["Created"] > 0 else "N/A") if human else created,
        "CreatedBy": ellipsis(command, 45) if short else command,
        "Size": human_size(entry["Size"], 3) if human else str(entry["Size"]),
        "Comment": entry.get("Comment", ""),
    }


def history(session: Session, parsed: Parsed) -> int:
    text = parsed.text("format")
    check_template(text)
    entries = session.api.json("GET", f"/images/{parsed.arguments[0]}/history")
    short, human = not parsed.on("no-trunc"), parsed.on("human")
    rows = [history_row(entry, human=human, short=short) for entry in entries]
    if parsed.on("quiet"):
        for row in rows:
            say(row["ID"])
        return 0
    default = ("ID", "CreatedSince" if human else "CreatedAt", "CreatedBy", "Size", "Comment")
    show(rows, COLUMNS, default, text, kind="*formatter.historyContext")
    return 0


COMMANDS = (
    Command(("tag", "image tag"), "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", "Give an image another name", tag, least=2,
            most=2, completes="images"),
    Command(("rmi", "image rm", "image remove"), "IMAGE [IMAGE...]", "Remove one or more images", remove, REMOVE_FLAGS,
            least=1, completes="images"),
    Command(("image prune",), "", "Remove unused images", prune, PRUNE_FLAGS, most=0),
    Command(("history", "image history"), "IMAGE", "Show the history of an image", history, HISTORY_FLAGS, least=1,
            most=1, completes="images"),
)  # fmt: skip
