"""OCI device rules brought into one normal form, the one the v1 kernel keeps:

    a default (everything allowed, or nothing) and exceptions to it: {(type, major, minor): access}

config-linux.md, "Allowed Device list": entries are applied in order, and a later one wins. A rule of
type "a" sets the default and forgets the exceptions (security/device_cgroup.c). An exception with a
wildcard number does not swallow earlier, narrower ones of the other mind: a rule that would need a hole
in a wildcard exception is refused, as runc refuses it, since neither the v1 kernel nor its users mean it.
"""

from __future__ import annotations

from daemon.cgroups.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WILDCARD = -1
ACCESS = frozenset("rwm")

DEFAULT_RULES: tuple[dict[str, Any], ...] = (
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 8, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 9, "access": "rwm"},
    {"allow": True, "type": "c", "major": 5, "minor": 0, "access": "rwm"},
    {"allow": True, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
    {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"},
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
)
"""mknod of anything, which opens nothing; null, zero, full, random, urandom, tty, ptmx, net/tun (which runc
dropped once and brought back in 1.2.4) and pts/*."""


class Device:
    """What an exception is about. `type` is "b" or "c"; a number may be WILDCARD. Compared by value."""

    __slots__ = ("major", "minor", "type")

    def __init__(self, type: str, major: int, minor: int) -> None:
        self.type = type
        self.major = major
        self.minor = minor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash((self.type, self.major, self.minor))

    def __str__(self) -> str:
        major = "*" if self.major == WILDCARD else self.major
        minor = "*" if self.minor == WILDCARD else self.minor
        return f"{self.type} {major}:{minor}"

    __repr__ = __str__


class DevicePolicy:
    """The normal form. `exceptions` are allowed when `allow_all` is false, denied when it is true."""

    __slots__ = ("allow_all", "exceptions")

    def __init__(self, allow_all: bool, exceptions: dict[Device, frozenset[str]]) -> None:
        self.allow_all = allow_all
        self.exceptions = exceptions

    def __repr__(self) -> str:
        return f"DevicePolicy({self.allow_all}, {self.exceptions})"


def policy_of(rules: list[dict[str, Any]]) -> DevicePolicy:
    """Fold OCI rules, then the devices every container may use. Nothing is allowed to begin with."""
    policy = DevicePolicy(False, {})
    for rule in (*rules, *DEFAULT_RULES):
        policy = _apply(policy, rule)
    return policy


def _apply(policy: DevicePolicy, rule: dict[str, Any]) -> DevicePolicy:
    allow = bool(rule.get("allow", False))
    kind = rule.get("type") or "a"
    if kind == "a":
        return DevicePolicy(allow, {})
    device = _device(kind, rule)
    access = frozenset(rule.get("access") or "rwm")
    if not access <= ACCESS:
        raise CgroupError(f"device rule {rule}: access {rule.get('access')!r} is not made of r, w and m")
    if allow == policy.allow_all:
        return _take_back(policy, device, access, rule)
    policy.exceptions[device] = policy.exceptions.get(device, frozenset()) | access
    return policy


def _device(kind: str, rule: dict[str, Any]) -> Device:
    if kind == "u":
        kind = "c"  # an unbuffered character device is a character device to the kernel
    if kind not in ("b", "c"):
        raise CgroupError(f"device rule {rule}: type {kind!r} is not a, b, c or u", value=str(kind))
    numbers = [WILDCARD if rule.get(key) is None else int(rule[key]) for key in ("major", "minor")]
    if min(numbers) < WILDCARD or max(numbers) >= 1 << 32:
        raise CgroupError(f"device rule {rule}: a device number is out of range", value=str(numbers))
    return Device(kind, *numbers)


def _take_back(
    policy: DevicePolicy, device: Device, access: frozenset[str], rule: dict[str, Any]
) -> DevicePolicy:
    """A rule that agrees with the default removes what it covers from the exceptions."""
    for other, held in list(policy.exceptions.items()):
        if not _overlaps(device, other) or not held & access:
            continue
        if not _covers(device, other):
            raise CgroupError(f"device rule {rule} cannot make a hole in the earlier rule for {other}")
        left = held - access
        if left:
            policy.exceptions[other] = left
        else:
            del policy.exceptions[other]
    return policy


def _covers(wide: Device, narrow: Device) -> bool:
    return (
        wide.type == narrow.type
        and wide.major in (WILDCARD, narrow.major)
        and wide.minor in (WILDCARD, narrow.minor)
    )


def _overlaps(one: Device, other: Device) -> bool:
    return (
        one.type == other.type
        and (WILDCARD in (one.major, other.major) or one.major == other.major)
        and (WILDCARD in (one.minor, other.minor) or one.minor == other.minor)
    )


def access_text(access: frozenset[str]) -> str:
    """Access in the kernel's order, `rwm`."""
    return "".join(letter for letter in "rwm" if letter in access)
