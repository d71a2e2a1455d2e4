"""`pyd logs`."""

from __future__ import annotations

from client.options import Command, Parsed
from client.session import Session
from client.streams import copy_output

FLAGS = """
 |details|bool||Show the extra attributes of each line
f|follow|bool||Go on with new output
 |since|string||Show what came after this time ("2013-01-02T13:23:37Z") or age ("42m")
n|tail|string|all|How many lines from the end
t|timestamps|bool||Show the time of each line
 |until|string||Show what came before this time or age
"""


def logs(session: Session, parsed: Parsed) -> int:
    from client.times import timestamp

    name = parsed.arguments[0]
    container = session.api.json("GET", f"/containers/{name}/json")
    query = {
        "stdout": 1,
        "stderr": 1,
        "follow": 1 if parsed.on("follow") else None,
        "since": timestamp(parsed.text("since"), "since") or None,
        "until": timestamp(parsed.text("until"), "until") or None,
        "timestamps": 1 if parsed.on("timestamps") else None,
        "details": 1 if parsed.on("details") else None,
        "tail": parsed.text("tail"),
    }
    with session.api.stream("GET", f"/containers/{container['Id']}/logs", query=query) as response:
        copy_output(response.iter_bytes(), framed=not container["Config"]["Tty"])
    return 0


COMMANDS = (
    Command(("logs", "container logs"), "CONTAINER", "Fetch the logs of a container", logs, FLAGS, least=1, most=1,
            completes="containers"),
)  # fmt: skip
