"""A request of the parity test, and how its answer is compared.

EXACT after taking out IDs, times and paths; SHAPE by names and types of its members; FRAMES as a multiplexed stream;
NAMES by the containers' names in a list; STATUS by status and media type alone.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

EXACT, SHAPE, FRAMES, STATUS, NAMES = "exact", "shape", "frames", "status", "names"


@dataclass(frozen=True)
class Step:
    method: str
    path: str
    body: Any = None
    how: str = EXACT
    headers: dict[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def name(self) -> str:
        text = f"{self.method} {self.path}"
        return f"{text} [{self.note}]" if self.note else text


def filters(**wanted: list[str]) -> str:
    return quote(json.dumps({key.replace("_", "-"): values for key, values in wanted.items()}))


def archive(name: str, data: bytes = b"data\n", link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        if link:
            entry.type, entry.linkname = tarfile.SYMTYPE, link
        entry.size = 0 if link else len(data)
        tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def create(name: str, note: str = "", **members: Any) -> Step:
    body = {"Image": "busybox", "Cmd": ["true"], **members}
    return Step("POST", f"/containers/create?name={name}", body, note=note)


def refused(note: str, host: dict[str, Any] | None = None, **members: Any) -> Step:
    """A create request that fails, or not: its answer tells."""
    body = {"Image": "busybox", "Cmd": ["true"], **members}
    if host is not None:
        body["HostConfig"] = host
    return Step("POST", f"/containers/create?name=x-{note.replace(' ', '-')}", body, note=note)
