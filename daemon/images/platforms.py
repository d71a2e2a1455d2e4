"""Platforms: `os[/architecture[/variant]]`, which of them this machine runs, and in what order of preference.

Source: github.com/containerd/platforms (database.go for the aliases, compare.go for `Only`): a machine
runs its own variant and the lower ones, amd64 runs 386, arm64 runs 32-bit arm.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.errors import InvalidArgument

_ARCHITECTURES = {
    "i386": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
_KNOWN_ARCHITECTURES = frozenset(
    ("386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x", "wasm")
)
_KNOWN_SYSTEMS = frozenset(("darwin", "freebsd", "linux", "netbsd", "openbsd", "windows"))
_COMPONENT = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_ARM_VARIANTS = ("v8", "v7", "v6", "v5")


@dataclass(frozen=True, slots=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @classmethod
    def of(cls, fields: Mapping[str, Any] | None) -> Platform:
        """From an index entry or an image configuration; absent members are empty."""
        fields = fields or {}
        system, architecture, variant = (
            str(fields.get(name) or "") for name in ("os", "architecture", "variant")
        )
        return cls(system, architecture, variant)

    def normalized(self) -> Platform:
        system = self.os.lower().replace("macos", "darwin")
        architecture, variant = self.architecture.lower(), self.variant.lower()
        if architecture in _ARCHITECTURES:
            architecture, implied = _ARCHITECTURES[architecture]
            variant = variant or implied
        if architecture == "arm64" and variant in ("8", "v8", "v8.0"):
            variant = ""
        if architecture == "amd64" and variant == "v1":
            variant = ""
        if architecture == "arm":
            variant = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
        return Platform(system, architecture, variant)


@functools.cache
def local() -> Platform:
    return Platform("linux", os.uname().machine).normalized()


def parse(text: str) -> Platform:
    """What `--platform` takes: a system, an architecture, or both and perhaps a variant."""
    parts = text.split("/")
    if len(parts) > 3:
        raise InvalidArgument(f'"{text}": cannot parse platform specifier: invalid argument')
    if not all(_COMPONENT.fullmatch(part) for part in parts):
        raise InvalidArgument(f'"{text}": unknown operating system or architecture: invalid argument')
    if len(parts) > 1:
        return Platform(*parts).normalized()
    only = Platform(text, text).normalized()
    if only.os in _KNOWN_SYSTEMS:
        return Platform(only.os, local().architecture, local().variant)
    if only.architecture in _KNOWN_ARCHITECTURES:
        return Platform(local().os, only.architecture, only.variant)
    raise InvalidArgument(f'"{text}": unknown operating system or architecture: invalid argument')


def runnable(platform: Platform) -> list[Platform]:
    """What a machine of that platform runs, best first."""
    wanted = platform.normalized()
    system, architecture, variant = wanted.os, wanted.architecture, wanted.variant
    if architecture == "amd64":
        level = int(variant[1:]) if re.fullmatch(r"v[2-9]", variant) else 1
        levels = [Platform(system, "amd64", f"v{n}") for n in range(level, 1, -1)]
        return [*levels, Platform(system, "amd64"), Platform(system, "386")]
    if architecture == "arm64":
        newer = [wanted] if variant else []
        return [*newer, Platform(system, "arm64"), *(Platform(system, "arm", v) for v in _ARM_VARIANTS)]
    if architecture == "arm" and variant in _ARM_VARIANTS:
        return [Platform(system, "arm", v) for v in _ARM_VARIANTS[_ARM_VARIANTS.index(variant) :]]
    return [wanted]


def rank(wanted: Platform, offered: Platform) -> int | None:
    """Position of what is offered in the order of preference; None when it does not run."""
    order = runnable(wanted)
    try:
        return order.index(offered.normalized())
    except ValueError:
        return None


def satisfies(wanted: Platform, config: Mapping[str, Any]) -> bool:
    """Whether an image configuration is for the platform; one that names no variant is not held to it."""
    offered = Platform.of(config)
    if rank(wanted, offered) is not None:
        return True
    same = offered.normalized().os == wanted.os and offered.normalized().architecture == wanted.architecture
    return not offered.variant and same
