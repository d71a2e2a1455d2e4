"""`--security-opt`, `--cap-add`, `--privileged`: what the process may do, default-deny.

Parsed at create (bad options are refused there), applied to the OCI spec at start.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from daemon.containers.spec.seccomp_profile import to_oci
from daemon.containers.validate import normalised_capability
from daemon.containers.wire import HostConfig
from daemon.runtime import defaults
from daemon.runtime.capabilities import NUMBERS as CAPABILITIES
from daemon.runtime.seccomp_default import default_seccomp
from storage.errors import InvalidArgument


@dataclass(frozen=True)
class SecurityOptions:
    seccomp: str = "default"
    """`default`, `unconfined`, or a profile's JSON text."""
    no_new_privileges: bool = False
    apparmor: str = ""
    unmask: bool = False
    labels: tuple[str, ...] = ()
    writable_cgroups: bool = False


def parse(options: list[str] | None, *, no_new_privileges: bool = False) -> SecurityOptions:
    """Raises InvalidArgument naming the option and its place, as dockerd."""
    chosen: dict[str, Any] = {"no_new_privileges": no_new_privileges}
    for option in options or []:
        key, _, value = option.partition("=") if "=" in option else option.partition(":")
        match key:
            case "no-new-privileges":
                if value not in ("", "true", "false"):
                    raise InvalidArgument(f"invalid --security-opt 2: {option!r}".replace("'", '"'))
                chosen["no_new_privileges"] = value != "false"
            case "seccomp":
                chosen["seccomp"] = _seccomp(value)
            case "apparmor":
                chosen["apparmor"] = value
            case "label":
                chosen["labels"] = (*chosen.get("labels", ()), value)
            case "systempaths" if value == "unconfined":
                chosen["unmask"] = True
            case "writable-cgroups":
                chosen["writable_cgroups"] = value in ("", "true")
            case _:
                place = 2 if "=" in option or ":" in option else 1
                raise InvalidArgument(f'invalid --security-opt {place}: "{option}"')
    return SecurityOptions(**chosen)


def _seccomp(value: str) -> str:
    if value in ("unconfined", "builtin", "default"):
        return "default" if value == "builtin" else value
    try:
        profile = json.loads(value)
        if not isinstance(profile, dict):
            raise ValueError("a seccomp profile is a JSON object")
    except ValueError as error:
        raise InvalidArgument(f"decoding seccomp profile failed: {error}") from None
    to_oci(profile, frozenset())
    return value


@cache
def available() -> tuple[str, ...]:
    """Capabilities that this daemon could give: those in its own bounding set (moby caps.GetAllCapabilities)."""
    with open("/proc/self/status") as file:
        bounding = next(int(line.split()[1], 16) for line in file if line.startswith("CapBnd"))
    return tuple(name for name, number in CAPABILITIES.items() if bounding >> number & 1)


def capabilities(host: HostConfig) -> list[str]:
    """The process's capabilities, sorted as the kernel numbers them (moby caps.TweakCapabilities)."""
    everything = list(available())
    if host.get("Privileged"):
        return everything
    add = {normalised_capability(c) for c in host.get("CapAdd") or []}
    drop = {normalised_capability(c) for c in host.get("CapDrop") or []}
    if "ALL" in add:
        chosen = set(everything)
    elif "ALL" in drop:
        chosen = set()
    else:
        chosen = set(defaults.CAPABILITIES)
    chosen |= add - {"ALL"}
    if "ALL" not in drop:
        chosen -= drop
    elif "ALL" in add:
        chosen -= drop - {"ALL"}
    return [c for c in everything if c in chosen]


def apply(spec: dict[str, Any], host: HostConfig, options: SecurityOptions) -> None:
    """Fill process.capabilities, seccomp, masks and flags of an OCI spec."""
    privileged = bool(host.get("Privileged"))
    caps = capabilities(host)
    process, linux = spec["process"], spec["linux"]
    process["capabilities"] = {"bounding": caps, "effective": caps, "permitted": caps}
    process["noNewPrivileges"] = options.no_new_privileges
    if options.apparmor and options.apparmor != "unconfined":
        process["apparmorProfile"] = options.apparmor
    linux |= _masks(host, options, privileged)
    if not privileged and options.seccomp == "default":
        linux["seccomp"] = default_seccomp(set(caps))
    elif options.seccomp not in ("default", "unconfined"):
        linux["seccomp"] = to_oci(json.loads(options.seccomp), frozenset(caps))


def _masks(host: HostConfig, options: SecurityOptions, privileged: bool) -> dict[str, list[str]]:
    if privileged or options.unmask:
        return {"maskedPaths": [], "readonlyPaths": []}
    masked, readonly = host.get("MaskedPaths"), host.get("ReadonlyPaths")
    return {
        "maskedPaths": defaults.masked_paths() if masked is None else masked,
        "readonlyPaths": list(defaults.READONLY_PATHS) if readonly is None else readonly,
    }
