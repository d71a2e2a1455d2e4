"""Options that docker's client has and no Linux daemon serves; refused with docker's words."""

from __future__ import annotations

from client.errors import ClientError
from client.options import Parsed

WINDOWS = ("cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops")
EXPERIMENTAL = ("checkpoint", "checkpoint-dir")


def refuse_unsupported(parsed: Parsed) -> None:
    """ClientError if one of them is given; docker reads the same from the daemon's ping."""
    for name in WINDOWS:
        if name in parsed.changed:
            raise ClientError(
                f'"--{name}" is only supported on a Docker daemon running on windows, '
                "but the Docker daemon is running on linux"
            )
    for name in EXPERIMENTAL:
        if name in parsed.changed:
            raise ClientError(
                f'"--{name}" is only supported on a Docker daemon with experimental features enabled'
            )
