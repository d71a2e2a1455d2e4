"""What a front end may ask of a source before it builds: what it would be, and an image's configuration.

Only of images there is something to tell; repositories, URLs and directories come back as they were named, or as
a policy wants them, as with the BuildKit of dockerd 28.5 (source/manager.go, worker.ResolveSourceMetadata).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from storage.errors import Forbidden, InvalidArgument, NotFound

if TYPE_CHECKING:
    from daemon.build.sources.policy import SourcePolicies

IMAGE = "docker-image"
_SCHEMES = (IMAGE, "git", "http", "https", "local", "oci-layout")


def allowed(
    policy: SourcePolicies | None, identifier: str, attributes: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """The source that would be read. Forbidden by a policy; InvalidArgument, NotFound for what is no source."""
    named, attrs = identifier, dict(attributes)
    if policy is not None:
        try:
            named, attrs = policy.evaluate(identifier, attrs)
        except Forbidden as error:
            raise Forbidden(f"could not resolve image due to policy: {error}") from None
    scheme, found, _ = named.partition("://")
    if not found:
        raise InvalidArgument(f"failed to parse {named}: invalid")
    if scheme not in _SCHEMES:
        raise NotFound(f"unknown scheme {scheme}: not found")
    return named, attrs
