"""Image references as people write them: `[host[:port]/]path[:tag][@digest]`.

`busybox` means `docker.io/library/busybox`; the familiar form leaves out what is implied
(github.com/distribution/reference documents the grammar).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from client.config import HUB
from client.errors import ClientError

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?:\[[0-9a-fA-F:.]+\]|{_LABEL}(?:\.{_LABEL})*)(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"^(?P<name>(?:{_DOMAIN}/)?{_PART}(?:/{_PART})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?$"
)


@dataclass(frozen=True, slots=True)
class Reference:
    domain: str
    path: str
    tag: str
    digest: str

    @property
    def familiar_name(self) -> str:
        if self.domain == "docker.io":
            return self.path.removeprefix("library/")
        return f"{self.domain}/{self.path}"

    @property
    def full_name(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def familiar(self) -> str:
        """Name with tag and digest where there are any."""
        return (self.familiar_name + (f":{self.tag}" if self.tag else "")
                + (f"@{self.digest}" if self.digest else ""))  # fmt: skip

    @property
    def canonical(self) -> str:
        return f"{self.domain}/{self.path}" + (
            f"@{self.digest}" if self.digest else f":{self.tag or 'latest'}"
        )

    def tagged(self) -> Reference:
        """The same with `latest` where neither tag nor digest stands."""
        if self.tag or self.digest:
            return self
        return Reference(self.domain, self.path, "latest", "")

    @property
    def registry(self) -> str:
        """The key of its credentials in the configuration file."""
        return HUB if self.domain == "docker.io" else self.domain


def parse_reference(text: str) -> Reference:
    if re.fullmatch(r"[0-9a-f]{64}", text):
        raise ClientError(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    first, slash, rest = text.partition("/")
    if slash and (first == "localhost" or any(c in first for c in ".:") or first.lower() != first):
        domain, remainder = first, rest
    else:
        domain, remainder = "docker.io", text
    if domain == "index.docker.io":
        domain = "docker.io"
    if domain == "docker.io" and "/" not in remainder:
        remainder = f"library/{remainder}"
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None:
        name = remainder.partition("@")[0].rpartition(":")[0] or remainder
        if name.lower() != name and _REFERENCE.fullmatch(f"{domain}/{remainder.lower()}"):
            raise ClientError(f"invalid reference format: repository name ({name}) must be lowercase")
        raise ClientError("invalid reference format")
    path = match["name"].removeprefix(f"{domain}/")
    return Reference(domain, path, match["tag"] or "", match["digest"] or "")
