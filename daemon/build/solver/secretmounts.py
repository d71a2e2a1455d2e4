"""RUN --mount=type=secret and type=ssh: what only the client has, for as long as the step runs.

Secrets come with the request (the classic door) or from the client's sessions, agents from sessions alone. Neither
ever touches the data root: secrets are files of the runtime's memory file system, or variables.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from daemon.build.bench import Job
from daemon.build.graph import ExecMount
from daemon.build.session import asking
from storage.errors import InvalidArgument, NotFound

SOCKET_VARIABLE = "SSH_AUTH_SOCK"
SECRET_MODE, SOCKET_MODE = 0o400, 0o600


async def secret(job: Job, mount: ExecMount) -> bytes | None:
    """None when there is none, and the step does without. NotFound otherwise, in BuildKit's words."""
    if not mount.id:
        raise InvalidArgument("secret ID missing from mount options")
    found = job.secrets.get(mount.id)
    if found is None:
        found = await asking.secret(job.sessions, mount.id)
    if found is None and mount.required:
        raise NotFound(f"secret {mount.id}: not found")
    return found


def store(data: bytes, mount: ExecMount, path: Path) -> None:
    """The secret's file, for the user and with the mode that the mount names."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    with open(fd, "wb") as file:
        file.write(data)
        os.fchown(file.fileno(), mount.uid, mount.gid)
        os.fchmod(file.fileno(), SECRET_MODE if mount.mode is None else mount.mode & 0o777)


async def agent(job: Job, mount: ExecMount) -> tuple[Path, Callable[[], Awaitable[None]]] | None:
    """A socket to be mounted, and what closes it; None when there is none, and the step does without."""
    if not job.sessions:
        if mount.required:
            raise InvalidArgument(f"unset ssh forward key {mount.id or 'default'}")
        return None
    mode = SOCKET_MODE if mount.mode is None else mount.mode & 0o777
    try:
        return await asking.agent(job.sessions, mount.id, uid=mount.uid, gid=mount.gid, mode=mode)
    except NotFound:
        if mount.required:
            raise
        return None
