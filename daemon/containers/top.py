"""`top`: the container's processes, by `ps` on the host filtered to its cgroup (moby daemon/top_unix.go)."""

from __future__ import annotations

import asyncio
import re
import shlex
from typing import Any

from daemon.containers.context import Context
from storage.errors import Conflict, Internal, InvalidArgument

DEFAULT_ARGUMENTS = "-ef"


async def top(ctx: Context, ref: str, ps_args: str) -> dict[str, Any]:
    """`{"Titles", "Processes"}`. Raises NotFound, Conflict, InvalidArgument for what ps refuses."""
    container = ctx.registry.find(ref)
    if not container.state.alive:
        raise Conflict(f"container {container.id} is not running")
    if container.state.restarting:
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    arguments = shlex.split(ps_args or DEFAULT_ARGUMENTS)
    _check(arguments)
    pids = set(await ctx.runtime.pids(container.id))
    process = await asyncio.create_subprocess_exec(
        "ps", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, complaint = await process.communicate()
    if process.returncode:
        raise Internal(f"Error running ps: {complaint.decode(errors='replace').strip()}")
    result = parse(output.decode(errors="replace"), pids)
    ctx.publish(container, "top")
    return result


def _check(arguments: list[str]) -> None:
    """Moby's rule: no unicode blanks, no `pid` column without a `PID` header."""
    for argument in arguments:
        if not argument.isascii():
            raise InvalidArgument(f"invalid ps argument: {argument!r}")
        if re.search(r"\bpid=(?!PID\b)", argument):
            raise InvalidArgument("error: ps arguments must not hide or rename the PID column")


def parse(output: str, pids: set[int]) -> dict[str, Any]:
    """Rows of ps whose PID is one of `pids`; the last column keeps its blanks."""
    header, *lines = output.splitlines() or [""]
    titles = header.split()
    if "PID" not in titles:
        raise Internal("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows = []
    for line in lines:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            rows.append(fields)
    return {"Titles": titles, "Processes": rows}
