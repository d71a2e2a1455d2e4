"""`pyd top`: the processes of a container, as ps on the host shows them."""

from __future__ import annotations

from client.options import Command, Parsed
from client.session import Session, say


def top(session: Session, parsed: Parsed) -> int:
    from client.render.table import align

    name, *options = parsed.arguments
    query = {"ps_args": " ".join(options)} if options else None
    answer = session.api.json("GET", f"/containers/{name}/top", query=query)
    rows = [answer["Titles"], *(answer["Processes"] or [])]
    say("\n".join(align(["\t".join(row) for row in rows], least=20)))
    return 0


COMMANDS = (
    Command(("top", "container top"), "CONTAINER [ps OPTIONS]", "Display the running processes of a container", top,
            least=1, interspersed=False, completes="running"),
)  # fmt: skip
