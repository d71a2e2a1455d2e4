"""`pyd rm` and `pyd container prune`."""

from __future__ import annotations

from client.errors import ApiError, Exit
from client.options import Command, Parsed
from client.render.units import human_size
from client.session import Session, confirm, each, filters_json, say, warn

REMOVE_FLAGS = """
f|force|bool||Kill a running container first
l|link|bool||Remove the link, not the container
v|volumes|bool||Remove the container's anonymous volumes
"""
PRUNE_FLAGS = """
 |filter|filter||What to remove ("until=<timestamp>", "label=<key>=<value>")
f|force|bool||Do not ask
"""


def remove(session: Session, parsed: Parsed) -> int:
    query = {
        "force": parsed.on("force") or None,
        "link": parsed.on("link") or None,
        "v": parsed.on("volumes") or None,
    }

    def one(name: str) -> None:
        try:
            session.api.request("DELETE", f"/containers/{name.strip('/')}", query=query)
        except ApiError as error:
            if error.status != 404 or not parsed.on("force"):
                raise
            warn(error)  # with --force one that is not there is told of but no failure, as docker has it
        else:
            say(name)

    return each(parsed.arguments, one, report=False)


def ask(parsed: Parsed, warning: str) -> None:
    """Leave with docker's code when the user does not agree."""
    if not parsed.on("force") and not confirm(f"WARNING! {warning}\nAre you sure you want to continue?"):
        raise Exit(0)


def prune(session: Session, parsed: Parsed) -> int:
    ask(parsed, "This will remove all stopped containers.")
    answer = session.api.json(
        "POST", "/containers/prune", query={"filters": filters_json(parsed.items("filter"))}
    )
    if names := answer.get("ContainersDeleted"):
        say("Deleted Containers:\n" + "\n".join(names) + "\n")
    say(f"Total reclaimed space: {human_size(answer.get('SpaceReclaimed', 0))}")
    return 0


COMMANDS = (
    Command(("rm", "container rm", "container remove"), "CONTAINER [CONTAINER...]", "Remove one or more containers",
            remove, REMOVE_FLAGS, least=1, completes="containers"),
    Command(("container prune",), "", "Remove all stopped containers", prune, PRUNE_FLAGS, most=0),
)  # fmt: skip
