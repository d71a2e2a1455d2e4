"""annotation[-LEVEL][[PLATFORM]].KEY=VALUE: what is to stand in manifests, indexes and descriptors of them.

LEVEL is manifest (the default), manifest-descriptor, index or index-descriptor. Source: BuildKit
exporter/containerimage/annotations.go and exptypes/annotations.go.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from daemon.images import platforms
from storage.errors import InvalidArgument

_KEY = re.compile(r"annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/-]+)\])?\.(\S+)", re.ASCII)
MANIFEST, MANIFEST_DESCRIPTOR = "manifest", "manifest-descriptor"
INDEX, INDEX_DESCRIPTOR = "index", "index-descriptor"
_LEVELS = frozenset((MANIFEST, MANIFEST_DESCRIPTOR, INDEX, INDEX_DESCRIPTOR))


@dataclass(frozen=True)
class _Annotation:
    level: str
    platform: str
    """Empty: every platform's."""
    key: str
    value: str


@dataclass(frozen=True)
class Annotations:
    all: tuple[_Annotation, ...] = ()

    @classmethod
    def of(cls, attrs: Mapping[str, str]) -> Annotations:
        """Out of all attributes. InvalidArgument for a level or a platform that there is not."""
        found = []
        for name, value in attrs.items():
            match = _KEY.fullmatch(name)
            if match is None:
                continue
            level, platform, key = match[1] or MANIFEST, match[2] or "", match[3]
            if level not in _LEVELS:
                raise InvalidArgument(f"unrecognized annotation type {level}")
            found.append(_Annotation(level, str(platforms.parse(platform)) if platform else "", key, value))
        return cls(tuple(found))

    def merged(self, other: Annotations) -> Annotations:
        """The other's go before."""
        return Annotations((*self.all, *other.all))

    def check(self, made: Collection[str]) -> None:
        """`made`: the platforms that there are. InvalidArgument for another."""
        for each in self.all:
            if each.platform and each.platform not in made:
                raise InvalidArgument(f"invalid annotation: no platform {each.platform} found in source")

    @property
    def need_oci(self) -> bool:
        """Docker's media types have no place for some."""
        return any(each.level != MANIFEST for each in self.all)

    def at(self, level: str, platform: str = "") -> dict[str, str]:
        """Those of an index are taken whatever platform they name."""
        wanted = ("", platform)
        general = level in (INDEX, INDEX_DESCRIPTOR)
        chosen = [each for each in self.all if each.level == level and (general or each.platform in wanted)]
        return {each.key: each.value for each in sorted(chosen, key=lambda each: each.platform != "")}
