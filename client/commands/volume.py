"""`pyd volume`: ls, create, rm, prune, update."""

from __future__ import annotations

from typing import Any

from client.commands.ps import chosen_format
from client.commands.remove import ask
from client.creation.validators import label, to_map
from client.errors import ClientError
from client.options import Command, Parsed
from client.render.listing import check_template, show
from client.render.units import human_size
from client.session import Session, each, filters_json, say, warn

LIST_FLAGS = """
f|filter|filter||Show only what fits these conditions
 |format|string||'table', 'table TEMPLATE', 'json' or a Go template
q|quiet|bool||Show names only
"""
CREATE_FLAGS = """
d|driver|string|local|Driver of the volume
 |label|list:label||Set metadata
 |!name|string||Name of the volume
o|opt|map||Options of the driver
"""
PRUNE_FLAGS = """
a|all|bool||Remove all unused volumes, not only anonymous ones
 |filter|filter||What to remove ("label=<label>")
f|force|bool||Do not ask
"""
COLUMNS = {"Name": "VOLUME NAME", "Driver": "DRIVER", "Scope": "SCOPE", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS",
           "Links": "LINKS", "Size": "SIZE", "Label": "", "Group": "GROUP", "Availability": "AVAILABILITY",
           "Status": "STATUS"}  # fmt: skip


def _row(volume: dict[str, Any]) -> dict[str, Any]:
    labels: dict[str, str] = volume.get("Labels") or {}
    usage = volume.get("UsageData")
    return {
        "Name": volume["Name"],
        "Driver": volume["Driver"],
        "Scope": volume.get("Scope", "local"),
        "Mountpoint": volume.get("Mountpoint", ""),
        "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        "Links": str(usage["RefCount"]) if usage else "N/A",
        "Size": human_size(usage["Size"]) if usage else "N/A",
        "Label": lambda name: labels.get(name, ""),
        "Group": "N/A",
        "Availability": "N/A",
        "Status": "N/A",
    }


def list_volumes(session: Session, parsed: Parsed) -> int:
    text = chosen_format(session, parsed, "volumesFormat")
    check_template(text)
    answer = session.api.json("GET", "/volumes", query={"filters": filters_json(parsed.items("filter"))})
    rows = sorted(map(_row, answer.get("Volumes") or []), key=lambda row: str(row["Name"]))
    if parsed.on("quiet") and not text:
        for row in rows:
            say(row["Name"])
        return 0
    show(rows, COLUMNS, ("Driver", "Name"), text, kind="*formatter.volumeContext")
    return 0


def create(session: Session, parsed: Parsed) -> int:
    name = parsed.text("name")
    if parsed.arguments:
        if name:
            raise ClientError("conflicting options: cannot specify a volume-name through both --name and as a "
                              "positional arg")  # fmt: skip
        name = parsed.arguments[0]
    body = {"Name": name, "Driver": parsed.text("driver"), "DriverOpts": dict(parsed.items("opt")),
            "Labels": to_map(parsed.items("label"))}  # fmt: skip
    say(session.api.json("POST", "/volumes/create", json={k: v for k, v in body.items() if v})["Name"])
    return 0


def remove(session: Session, parsed: Parsed) -> int:
    query = {"force": 1 if parsed.on("force") else None}
    return each(parsed.arguments, lambda name: session.api.request("DELETE", f"/volumes/{name}", query=query))


def prune(session: Session, parsed: Parsed) -> int:
    everything = parsed.on("all")
    kind = "all local volumes" if everything else "anonymous local volumes"
    ask(parsed, f"This will remove {kind} not used by at least one container.")
    filters = parsed.items("filter") + ([("all", "1")] if everything else [])
    answer = session.api.json("POST", "/volumes/prune", query={"filters": filters_json(filters)})
    if names := answer.get("VolumesDeleted"):
        say("\n".join(["Deleted Volumes:", *names, ""]))
    say(f"Total reclaimed space: {human_size(answer.get('SpaceReclaimed') or 0)}")
    return 0


def update(session: Session, parsed: Parsed) -> int:
    warn("pyd: cluster volumes exist only in a swarm, and this engine is not in one")
    return 1


COMMANDS = (
    Command(("volume ls", "volume list"), "", "List volumes", list_volumes, LIST_FLAGS, most=0),
    Command(("volume create",), "[VOLUME]", "Create a volume", create, CREATE_FLAGS, most=1,
            converters={"label": label}),
    Command(("volume rm", "volume remove"), "VOLUME [VOLUME...]", "Remove one or more volumes", remove,
            "f|force|bool||Remove even if the driver fails", least=1, completes="volumes"),
    Command(("volume prune",), "", "Remove unused local volumes", prune, PRUNE_FLAGS, most=0),
    Command(("volume update",), "VOLUME", "Update a cluster volume", update,
            " |availability|string|active|Availability of the cluster volume", least=1, most=1),
)  # fmt: skip
