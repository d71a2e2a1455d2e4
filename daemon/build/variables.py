"""What variables there are in a Dockerfile beyond its own: platforms and proxies, and build arguments.

(Dockerfile reference, "Predefined ARGs" and "Automatic platform ARGs in the global scope".)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PROXIES = (
    "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy",
    "ALL_PROXY", "all_proxy",
)  # fmt: skip
PREDEFINED = ("SOURCE_DATE_EPOCH",)


@dataclass(frozen=True)
class PlatformName:
    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def platform_arguments(build: PlatformName, target: PlatformName, stage: str = "default") -> dict[str, str]:
    found: dict[str, str] = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        found |= {
            f"{prefix}PLATFORM": str(platform),
            f"{prefix}OS": platform.os,
            f"{prefix}ARCH": platform.architecture,
            f"{prefix}VARIANT": platform.variant,
            f"{prefix}OSVERSION": "",
        }
    return found | {"TARGETSTAGE": stage or "default"}


@dataclass
class Scope:
    """A stage's variables. ARG and ENV share one space; only ENV reaches the image."""

    env: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    """Names declared by ARG in this stage, with their values; in order."""

    def values(self) -> Mapping[str, str]:
        return self.env
