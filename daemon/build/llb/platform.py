"""Platforms of operations: empty here for what this machine is."""

from __future__ import annotations

from daemon.build.proto import ops_pb2 as pb
from daemon.images import platforms
from daemon.images.platforms import Platform


def text_of(platform: pb.Platform) -> str:
    if not platform.os or not platform.architecture:
        return ""
    found = Platform(platform.os, platform.architecture, platform.variant).normalized()
    return "" if found == platforms.local() else str(found)


def message_of(text: str) -> pb.Platform:
    found = platforms.parse(text) if text else platforms.local()
    return pb.Platform(os=found.os, architecture=found.architecture, variant=found.variant)
