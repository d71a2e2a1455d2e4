"""`pyd events`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from client.options import Command, Parsed
from client.render.listing import to_json, unescape
from client.session import Session, filters_json, say
from client.times import timestamp

FLAGS = """
f|filter|filter||Show only what fits these conditions
 |format|string||'json' or a Go template
 |since|string||Show what happened since this time or age
 |until|string||Stop at this time
"""


def event_line(event: dict[str, Any]) -> str:
    """`2026-11-24T22:16:46.948105864Z image pull NAME (name=NAME)`."""
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    nanoseconds = event.get("timeNano") or event.get("time", 0) * 10**9
    moment = datetime.fromtimestamp(nanoseconds // 10**9).astimezone()
    zone = moment.strftime("%z")
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    stamp = f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9:09d}{zone}"
    extra = ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes))
    return f"{stamp} {event['Type']} {event['Action']} {actor.get('ID', '')}" + (
        f" ({extra})" if extra else ""
    )


def for_template(event: dict[str, Any]) -> dict[str, Any]:
    """Go's field names beside the JSON's."""
    return {**event, "Time": event.get("time"), "TimeNano": event.get("timeNano"), "Scope": event.get("scope"),
            "Status": event.get("status", ""), "ID": event.get("id", ""), "From": event.get("from", "")}  # fmt: skip


def events(session: Session, parsed: Parsed) -> int:
    text = parsed.text("format")
    template = None
    if text and text != "json":
        from client.templates import Template

        template = Template(unescape(text))
    query = {
        "since": timestamp(parsed.text("since")) or None,
        "until": timestamp(parsed.text("until")) or None,
        "filters": filters_json(parsed.items("filter")),
    }
    for event in session.api.messages("GET", "/events", query=query):
        if template:
            say(template.render(for_template(event)))
        else:
            say(to_json(event) if text else event_line(event))
    return 0


COMMANDS = (
    Command(("events", "system events"), "", "Get real time events from the daemon", events, FLAGS, most=0),
)
