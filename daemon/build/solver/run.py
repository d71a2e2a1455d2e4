"""RUN: a process (processes.py) in the active snapshot that becomes the step's layer; its output is the step's log."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

from daemon.build.bench import Bench, Job, Result
from daemon.build.graph import Exec
from daemon.build.solver import entitlements, runmounts
from daemon.build.solver.processes import Ended, Process, ProcessFailed, Stdio, frames
from daemon.build.steps import Progress

STUBS = ("/etc/resolv.conf", "/etc/hosts")


async def run(
    bench: Bench,
    job: Job,
    operation: Exec,
    inputs: list[Result],
    key: str,
    progress: Progress,
    outputs: Mapping[int, str],
) -> list[str]:
    """Runs the process in the active snapshot `key`; returns the paths that were made only to mount upon.

    `outputs`: active snapshots of the mounts that are the step's outputs, by their numbers. ProcessFailed when it
    ends with a status that is not among the valid ones. Cancelling kills it; nothing is left either way.
    """
    held = job.entitlements | ({entitlements.NETWORK_HOST} if job.limits.host_network else frozenset())
    entitlements.check(operation, held)
    process = Process(bench, job, operation, key)
    process.directory.mkdir()
    try:
        process.mounted = await runmounts.prepare(
            bench, job, operation, inputs, process.directory, process.private, outputs
        )
        status, killed = await _logged(process, inputs[0], progress)
    finally:
        await asyncio.shield(process.clean())
    progress.exit_code = status
    if status not in (operation.valid_codes or (0,)):
        progress_reason = "exit code: 137 (out of memory)" if killed else ""
        raise ProcessFailed(operation.args, status, progress_reason)
    return [*STUBS, *process.mounted.targets]


async def _logged(process: Process, parent: Result, progress: Progress) -> Ended:
    """To its end, and to the end of what it says."""
    ours, theirs = socket.socketpair()
    reading = asyncio.ensure_future(frames(ours, progress.log))
    try:
        async with process.running(parent, [Stdio(theirs)]) as ended:
            status = await asyncio.shield(ended)  # or cancelling us would make it look ended
            await asyncio.wait_for(reading, timeout=10)
            return status
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        ours.close()
        theirs.close()
