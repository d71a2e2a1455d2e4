"""What steps may have beyond a container's usual means: the user must ask (--allow), the daemon must grant.

    network.host       RUN --network=host                       granted unless configured otherwise
    security.insecure  RUN --security=insecure: privileged      refused unless configured otherwise
    device             RUN --device=...                         refused: dockerd 28.5 has no setting for it, either

Source: BuildKit util/entitlements; dockerd's daemon.json, builder.entitlements.
"""

from __future__ import annotations

from collections.abc import Set

from daemon.build.graph import Exec
from storage.errors import Forbidden, InvalidArgument

NETWORK_HOST, INSECURE = "network.host", "security.insecure"
DEVICE = "device"
KNOWN = (NETWORK_HOST, INSECURE, DEVICE)


def granted(asked: Set[str], allowed: Set[str]) -> frozenset[str]:
    """Forbidden in BuildKit's words for what the configuration does not allow."""
    for name in sorted(asked):
        if name.startswith(f"{DEVICE}="):
            name = DEVICE
        if name not in KNOWN:
            raise InvalidArgument(f"unknown entitlement {name}")
        if name not in allowed:
            raise Forbidden(f"granting entitlement {name} is not allowed by build daemon configuration")
    return frozenset(asked)


def check(process: Exec, held: Set[str]) -> None:
    """Forbidden for a step that needs what the build does not hold."""
    needs = {INSECURE: process.security == "insecure", NETWORK_HOST: process.network == "host"}
    for name, needed in needs.items():
        if needed and name not in held:
            raise Forbidden(f"{name} is not allowed")
