"""What variables there are in a Dockerfile beyond its own: platforms and proxies, and build arguments.

(Dockerfile reference, "Predefined ARGs" and "Automatic platform ARGs in the global scope".)
"""

from __future__ import annotations

from dataclasses import dataclass

PROXIES = (
    "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy",
    "ALL_PROXY", "all_proxy",
)  # fmt: skip
PREDEFINED = ("SOURCE_DATE_EPOCH",)
SCAN_CONTEXT, SCAN_STAGE = "BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"
NOT_IN_PROCESSES = frozenset((SCAN_CONTEXT, SCAN_STAGE))
"""Build arguments that are for the builder alone."""


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
