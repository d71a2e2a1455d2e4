"""`pyd system df` and `pyd system prune`."""

from __future__ import annotations

from typing import Any

from client.commands import images as image_command
from client.commands import ps as container_command
from client.commands.remove import ask
from client.options import Command, Parsed
from client.render.listing import check_template, show
from client.render.table import table
from client.render.units import ago, human_size, parse_time, short_id
from client.session import Session, filters_json, say

DF_FLAGS = """
 |format|string||'table', 'table TEMPLATE', 'json' or a Go template
v|verbose|bool||Show every image, container and volume
"""
PRUNE_FLAGS = """
a|all|bool||Remove all unused images, not only those without a name
 |filter|filter||What to remove ("label=<key>=<value>")
f|force|bool||Do not ask
 |volumes|bool||Remove anonymous volumes too
"""
COLUMNS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}


def _line(
    kind: str, total: int, active: int, size: int, reclaimable: int, *, share: bool = True
) -> dict[str, str]:
    percent = f" ({reclaimable * 100 // size}%)" if share and size > 0 else ""
    return {"Type": kind, "TotalCount": str(total), "Active": str(active), "Size": human_size(size),
            "Reclaimable": human_size(reclaimable) + percent}  # fmt: skip


def summary(usage: dict[str, Any]) -> list[dict[str, str]]:
    """The four lines of `system df`."""
    images, containers = usage.get("Images") or [], usage.get("Containers") or []
    volumes, cache = usage.get("Volumes") or [], usage.get("BuildCache") or []
    layers = usage.get("LayersSize") or 0
    used = sum(i["Size"] - max(i.get("SharedSize", 0), 0) for i in images if i.get("Containers", 0) > 0)
    running = [
        c for c in containers if any(word in c["State"] for word in ("running", "paused", "restarting"))
    ]
    sizes = sum(c.get("SizeRw") or 0 for c in containers)
    idle = sum(c.get("SizeRw") or 0 for c in containers if c not in running)

    def volume(entry: dict[str, Any], key: str) -> int:
        return int((entry.get("UsageData") or {}).get(key, 0))

    referenced = [v for v in volumes if volume(v, "RefCount") > 0]
    held = sum(max(volume(v, "Size"), 0) for v in volumes)
    free = sum(max(volume(v, "Size"), 0) for v in volumes if volume(v, "RefCount") == 0)
    cached = sum(c["Size"] for c in cache if not c.get("Shared"))
    spare = sum(c["Size"] for c in cache if not c.get("Shared") and not c.get("InUse"))
    return [
        _line("Images", len(images), sum(i.get("Containers", 0) > 0 for i in images), layers, layers - used),
        _line("Containers", len(containers), len(running), sizes, idle),
        _line("Local Volumes", len(volumes), len(referenced), held, free),
        _line(
            "Build Cache", len(cache), sum(bool(c.get("InUse")) for c in cache), cached, spare, share=False
        ),
    ]


def _verbose(usage: dict[str, Any]) -> None:
    names = ("Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers")
    rows = [row for image in usage.get("Images") or []
            for row in image_command.rows_of(image, short=True, digests=False)]  # fmt: skip
    say("Images space usage:\n")
    say(
        table(
            [image_command.COLUMNS[name] for name in names], [[row[name] for name in names] for row in rows]
        )
    )
    say("\nContainers space usage:\n")
    names = ("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names")
    containers = [{**container_command.row(entry, short=True), "Size": human_size(entry.get("SizeRw") or 0)}
                  for entry in usage.get("Containers") or []]  # fmt: skip
    say(table([container_command.COLUMNS[name] for name in names],
              [[row[name] for name in names] for row in containers]))  # fmt: skip
    say("\nLocal Volumes space usage:\n")
    volumes = []
    for volume in usage.get("Volumes") or []:
        data = volume.get("UsageData") or {}
        volumes.append(
            [volume["Name"], str(data.get("RefCount", 0)), human_size(max(data.get("Size", 0), 0))]
        )
    say(table(("VOLUME NAME", "LINKS", "SIZE"), volumes))
    cache = usage.get("BuildCache") or []
    say(
        f"\nBuild cache usage: {human_size(sum(entry['Size'] for entry in cache if not entry.get('Shared')))}\n"
    )
    entries = []
    for entry in cache:
        created, used = parse_time(entry.get("CreatedAt", "")), parse_time(entry.get("LastUsedAt") or "")
        entries.append([short_id(entry["ID"]), entry.get("Type", ""), human_size(entry["Size"]),
                        ago(created) if created else "", ago(used) if used else "", str(entry.get("UsageCount", 0)),
                        str(bool(entry.get("Shared"))).lower()])  # fmt: skip
    say(table(("CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED"), entries))


def df(session: Session, parsed: Parsed) -> int:
    text = parsed.text("format")
    check_template(text)
    usage = session.api.json("GET", "/system/df")
    if parsed.on("verbose") and not text:
        _verbose(usage)
        return 0
    show(summary(usage), COLUMNS, tuple(COLUMNS), text, kind="*formatter.diskUsageContext")
    return 0


def prune(session: Session, parsed: Parsed) -> int:
    everything, volumes = parsed.on("all"), parsed.on("volumes")
    filters = parsed.items("filter")
    what = ["all stopped containers", "all networks not used by at least one container"]
    if volumes:
        what.append("all anonymous volumes not used by at least one container")
    what.append("all images without at least one container associated to them" if everything
                else "all dangling images")  # fmt: skip
    what.append("all build cache" if everything else "unused build cache")
    listed = "This will remove:\n" + "".join(f"  - {item}\n" for item in what)
    if filters:
        listed += "\n  Items to be pruned will be filtered with:\n" + "".join(
            f"  - {key}={value}\n" for key, value in filters)  # fmt: skip
    ask(parsed, listed)
    freed = 0
    api, plain = session.api, filters_json(filters)
    for path, key, title in (("/containers/prune", "ContainersDeleted", "Deleted Containers:"),
                             ("/networks/prune", "NetworksDeleted", "Deleted Networks:"),
                             ("/volumes/prune", "VolumesDeleted", "Deleted Volumes:")):  # fmt: skip
        if key == "VolumesDeleted" and not volumes:
            continue
        answer = api.json("POST", path, query={"filters": plain})
        freed += answer.get("SpaceReclaimed") or 0
        _list(title, answer.get(key) or [])
    images = filters_json([*filters, ("dangling", "false" if everything else "true")])
    answer = api.json("POST", "/images/prune", query={"filters": images})
    freed += answer.get("SpaceReclaimed") or 0
    _list("Deleted Images:", [f"{kind.lower()}: {name}" for entry in answer.get("ImagesDeleted") or []
                              for kind, name in entry.items()])  # fmt: skip
    freed += _prune_cache(session, everything=everything)
    say(f"Total reclaimed space: {human_size(freed)}")
    return 0


def _list(title: str, names: list[str]) -> None:
    if names:
        say("\n".join([title, *names, ""]))


def _prune_cache(session: Session, *, everything: bool) -> int:
    """The build cache; a daemon that does not build has none to prune."""
    from client.errors import ApiError

    try:
        answer = session.api.json("POST", "/build/prune", query={"all": 1 if everything else None})
    except ApiError as error:
        if error.status in (404, 501):
            return 0
        raise
    _list("Deleted build cache objects:", (answer or {}).get("CachesDeleted") or [])
    return int((answer or {}).get("SpaceReclaimed") or 0)


COMMANDS = (
    Command(("system df",), "", "Show disk usage", df, DF_FLAGS, most=0),
    Command(("system prune",), "", "Remove unused data", prune, PRUNE_FLAGS, most=0),
)
