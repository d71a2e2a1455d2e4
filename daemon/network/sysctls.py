"""Kernel parameters of one endpoint's interface: the driver option `com.docker.network.endpoint.sysctls`.

A comma-separated list of `net.X.Y.IFNAME.Z=V`, where IFNAME stands for the interface, whatever it is called in
the container. Rules and texts are libnetwork's (osl/interface_linux.go, daemon/container_operations.go).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from daemon.containers.wire import EndpointSettings
from daemon.network import namespaces
from storage.errors import Internal

OPTION = "com.docker.network.endpoint.sysctls"
_FAMILIES = ("ipv4", "ipv6", "mpls")
_WORDS = 5


def asked(settings: EndpointSettings) -> list[str]:
    text = (settings.get("DriverOpts") or {}).get(OPTION)
    return [] if text is None else text.split(",")


def problems(settings: EndpointSettings) -> Iterator[str]:
    """What can never be a parameter of an interface; clients may write `ifname` in lower case."""
    for each in asked(settings):
        words = each.split(".", _WORDS - 1)
        if len(words) == _WORDS and words[1] in _FAMILIES and words[3] in ("IFNAME", "ifname"):
            continue
        yield (
            f"unrecognised network interface sysctl '{each}'; represent 'net.X.Y.ethN.Z=V' as "
            "'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
        )


def apply(netns: int, interface: str, wanted: list[str]) -> None:
    """Blocking, in the thread of the network's worker. Raises Internal, naming the first that fails."""
    with namespaces.entered(netns):
        for each in wanted:
            _set(interface, each)


def _set(interface: str, wanted: str) -> None:
    key, sign, value = wanted.partition("=")
    if not sign:
        raise Internal(f"expected sysctl '{wanted}' to have format name=value")
    words = key.split(".")
    if len(words) != _WORDS or "/" in key:
        raise Internal(f"expected sysctl '{wanted}' to have format net.X.Y.IFNAME.Z")
    path = "/".join(("/proc/sys", *words[:3], interface, words[4]))
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        regular = False
    if not regular or not path.startswith("/proc/sys/net/"):
        raise Internal(f"{path} is not a sysctl file")
    with contextlib.suppress(OSError), open(path) as file:
        if file.read().strip() == value:
            return
    try:
        with open(path, "w") as file:
            file.write(value)
    except OSError as error:
        why = (error.strerror or "").lower()
        raise Internal(f"unable to write to '{path}': write {path}: {why}") from None
