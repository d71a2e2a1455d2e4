"""`pyd diff`: what changed in a container's file system since its image."""

from __future__ import annotations

from client.options import Command, Parsed
from client.render.listing import check_template, show
from client.session import Session, say

_KINDS = ("C", "A", "D")


def diff(session: Session, parsed: Parsed) -> int:
    text = parsed.text("format")
    check_template(text)
    changes = session.api.json("GET", f"/containers/{parsed.arguments[0]}/changes") or []
    rows = [{"Type": _KINDS[change["Kind"]], "Path": change["Path"]} for change in changes]
    if not text:
        for row in rows:
            say(f"{row['Type']} {row['Path']}")
        return 0
    show(rows, {"Type": "CHANGE TYPE", "Path": "PATH"}, ("Type", "Path"), text, kind="*container.diffContext")
    return 0


COMMANDS = (
    Command(("diff", "container diff"), "CONTAINER", "Inspect changes on a container's file system", diff,
            " |!format|string||'table', 'json' or a Go template", least=1, most=1, completes="containers"),
)  # fmt: skip
