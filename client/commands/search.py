"""`pyd search`: images on the public registry, asked by the daemon."""

from __future__ import annotations

from typing import Any

from client.config import HUB
from client.options import Command, Parsed
from client.render.listing import check_template, show
from client.render.units import ellipsis
from client.session import Session, filters_json

FLAGS = """
f|filter|filter||Show only what fits these conditions
 |format|string||'table', 'table TEMPLATE', 'json' or a Go template
 |limit|int||How many results
 |no-trunc|bool||Do not shorten
"""
COLUMNS = {"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL",
           "IsAutomated": "AUTOMATED"}  # fmt: skip


def _row(result: dict[str, Any], *, short: bool) -> dict[str, Any]:
    text = str(result.get("description", "")).replace("\n", " ").replace("\r", "")
    return {
        "Name": result["name"],
        "Description": ellipsis(text, 45) if short else text,
        "StarCount": str(result.get("star_count", 0)),
        "IsOfficial": "[OK]" if result.get("is_official") else "",
        "IsAutomated": "[OK]" if result.get("is_automated") else "",
    }


def search(session: Session, parsed: Parsed) -> int:
    text = parsed.text("format")
    check_template(text)
    query = {"term": parsed.arguments[0], "limit": parsed.number("limit") or None,
             "filters": filters_json(parsed.items("filter"))}  # fmt: skip
    results = session.api.json("GET", "/images/search", query=query, headers=session.registry_auth(HUB))
    rows = [_row(result, short=not parsed.on("no-trunc")) for result in results]
    show(
        rows,
        COLUMNS,
        ("Name", "Description", "StarCount", "IsOfficial"),
        text,
        kind="*formatter.searchContext",
    )
    return 0


COMMANDS = (
    Command(("search",), "TERM", "Search the public registry for images", search, FLAGS, least=1, most=1),
)
