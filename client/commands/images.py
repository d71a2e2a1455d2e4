"""`pyd images`."""

from __future__ import annotations

from typing import Any

from client.commands.ps import chosen_format
from client.errors import ClientError
from client.options import Command, Parsed
from client.render.listing import check_template, show
from client.render.units import ago, go_time, human_size, short_id
from client.session import Session, filters_json, say

FLAGS = """
a|all|bool||Show intermediate images too
 |digests|bool||Show digests
f|filter|filter||Show only what fits these conditions
 |format|string||'table', 'table TEMPLATE', 'json' or a Go template
 |no-trunc|bool||Do not shorten
q|quiet|bool||Show IDs only
 |tree|bool||List the platforms of multi-platform images as a tree
"""
COLUMNS = {
    "ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT", "Size": "SIZE", "Containers": "CONTAINERS", "VirtualSize": "SIZE",
    "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
}  # fmt: skip
_NONE = "<none>"


def _split_tag(name: str) -> tuple[str, str]:
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, _NONE)


def names_of(image: dict[str, Any], *, digests: bool) -> list[tuple[str, str, str]]:
    """(repository, tag, digest) rows of one image; an image without names has one row of <none>."""
    by_repository = {}
    for entry in image.get("RepoDigests") or []:
        repository, _, digest = entry.partition("@")
        if repository != _NONE:
            by_repository[repository] = digest
    rows = []
    tagged = [_split_tag(name) for name in image.get("RepoTags") or [] if name != "<none>:<none>"]
    for repository, tag in tagged:
        rows.append((repository, tag, by_repository.get(repository, _NONE)))
    untagged = by_repository.keys() - {repository for repository, _ in tagged}
    rows += [(repository, _NONE, by_repository[repository]) for repository in sorted(untagged)]
    if not digests:
        rows = list(dict.fromkeys((repository, tag, _NONE) for repository, tag, _ in rows))
    return rows or [(_NONE, _NONE, _NONE)]


def rows_of(image: dict[str, Any], *, short: bool, digests: bool) -> list[dict[str, Any]]:
    def size(name: str) -> str:
        value = image.get(name, -1)
        return "N/A" if value is None or value == -1 else human_size(value)

    shared, whole, count = image.get("SharedSize", -1), image.get("Size", 0), image.get("Containers", -1)
    common = {
        "ID": short_id(image["Id"]) if short else image["Id"],
        "CreatedSince": ago(image["Created"]) if image["Created"] > 0 else "N/A",
        "CreatedAt": go_time(image["Created"]),
        "Size": human_size(whole, 3),
        "VirtualSize": human_size(whole),
        "SharedSize": size("SharedSize"),
        "UniqueSize": "N/A" if shared in (-1, None) else human_size(whole - shared),
        "Containers": "N/A" if count in (-1, None) else str(count),
    }
    return [{**common, "Repository": repository, "Tag": tag, "Digest": digest}
            for repository, tag, digest in names_of(image, digests=digests)]  # fmt: skip


def images(session: Session, parsed: Parsed) -> int:
    if parsed.on("tree"):
        raise ClientError("--tree is not supported yet")
    text = chosen_format(session, parsed, "imagesFormat")
    check_template(text)
    filters = parsed.items("filter")
    if parsed.arguments:
        filters.append(("reference", parsed.arguments[0]))
    query = {"all": 1 if parsed.on("all") else None, "filters": filters_json(filters)}
    found = session.api.json("GET", "/images/json", query=query)
    found.sort(key=lambda image: -image["Created"])
    short, digests = not parsed.on("no-trunc"), parsed.on("digests") or ".Digest" in text
    rows = [row for image in found for row in rows_of(image, short=short, digests=digests)]
    if parsed.on("quiet") and not text:
        for row in rows:
            say(row["ID"])
        return 0
    default = ["Repository", "Tag", "ID", "CreatedSince", "Size"]
    if parsed.on("digests"):
        default.insert(2, "Digest")
    show(rows, COLUMNS, default, text, kind="*formatter.imageContext")
    return 0


COMMANDS = (
    Command(("images", "image ls", "image list"), "[REPOSITORY[:TAG]]", "List images", images, FLAGS, most=1,
            completes="images"),
)  # fmt: skip
