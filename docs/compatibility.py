"""The generated table of docs/compatibility.md, from the operations that the API serves.

python docs/compatibility.py           print the page as it should be
python docs/compatibility.py --write   write it; tests/unit/test_docs.py fails when it is out of date
"""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "compatibility.md"
BEGIN, END = "<!-- operations: generated, see docs/compatibility.py -->", "<!-- /operations -->"
sys.path.insert(0, str(REPOSITORY))

from api.operation import Operation  # noqa: E402
from api.routes import OPERATIONS  # noqa: E402
from api.routes.absent import NO_SUCH_PLUGIN, NOT_YET, SWARM  # noqa: E402

ABSENT = {
    **{row[2]: "as an engine outside a swarm" for row in SWARM},
    "SwarmLeave": "as an engine outside a swarm",
    "VolumeUpdate": "as an engine outside a swarm",
    **{row[2]: "as an engine without plugins" for row in NO_SUCH_PLUGIN},
    "PluginList": "as an engine without plugins",
    **{row[2]: f"501: {row[3]}" for row in NOT_YET},
}


def answered(operation: Operation) -> str:
    if operation.id in ABSENT:
        return ABSENT[operation.id]
    if 501 in operation.errors:
        return "yes; 501 for the options named below"
    return "yes"


def path(operation: Operation) -> str:
    return re.sub(r"\{(\w+):\w+\}", r"{\1}", operation.path)


def table() -> str:
    lines = []
    for tag, operations in groupby(OPERATIONS, key=lambda operation: operation.tag):
        lines += [f"### {tag}", "", "| operation | request | answered |", "|---|---|---|"]
        for operation in operations:
            lines.append(
                f"| {operation.id} | `{operation.method} {path(operation)}` | {answered(operation)} |"
            )
        lines.append("")
    done = sum(operation.id not in ABSENT for operation in OPERATIONS)
    return f"{done} of {len(OPERATIONS)} operations are acted on.\n\n" + "\n".join(lines)


def page(current: str) -> str:
    before, rest = current.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}{END}{after}"


def main(arguments: list[str]) -> None:
    text = page(PAGE.read_text())
    if "--write" in arguments:
        PAGE.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main(sys.argv[1:])
