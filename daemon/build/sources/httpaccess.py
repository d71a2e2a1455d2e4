"""What a URL is asked for with: a client's secrets for its host, and the few headers that a source may name.

    HTTP_AUTH_HEADER_HOST   a secret, the Authorization header's value
    HTTP_AUTH_TOKEN_HOST    a secret, a bearer token, which goes before it
    http.authheadersecret   an attribute, names the secret that must be there instead
    http.header.NAME        attributes, for Accept and User-Agent

Source: BuildKit source/http (newHTTPRequest, supportedUserDefinedHeaders).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from daemon.build.session import asking
from storage.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from daemon.build.session.sessions import Session

HEADER, TOKEN = "HTTP_AUTH_HEADER_", "HTTP_AUTH_TOKEN_"
AUTHORIZATION = "Authorization"
_NAMED = "http.header."
_ALLOWED = {"accept": "Accept", "user-agent": "User-Agent"}


async def headers(sessions: Sequence[Session], url: str, attributes: Mapping[str, str]) -> dict[str, str]:
    """NotFound for a secret that the source insists on; InvalidArgument for what is no header's value."""
    found = {}
    for name, value in attributes.items():
        shown = _ALLOWED.get(name.removeprefix(_NAMED).lower()) if name.startswith(_NAMED) else None
        if shown is not None:
            found[shown] = value
    if wanted := attributes.get("http.authheadersecret", ""):
        if (text := await _secret(sessions, wanted)) is None:
            raise NotFound(f"failed to retrieve HTTP auth secret {wanted}: secret {wanted}: not found")
        found[AUTHORIZATION] = text
    elif host := urlsplit(url).hostname:
        for kind, begin in ((HEADER, ""), (TOKEN, "Bearer ")):
            if (text := await _secret(sessions, f"{kind}{host}")) is not None:
                found[AUTHORIZATION] = f"{begin}{text}"
    for name, value in found.items():
        if not value.isprintable():
            raise InvalidArgument(f"invalid header field value for {name!r}")
    return found


async def _secret(sessions: Sequence[Session], id: str) -> str | None:
    data = await asking.secret(sessions, id)
    return None if data is None else data.decode("utf-8", "replace")
