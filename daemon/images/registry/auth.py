"""Authorization: what a registry's challenge asks for, and the tokens got for it.

Sources: RFC 9110 section 11 (challenges), distribution docs/content/spec/auth/{token,oauth}.md.
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemon.images.model import AuthConfig
from daemon.images.registry.errors import NO_CREDENTIALS, RegistryError, refusal

if TYPE_CHECKING:
    import httpx

CLIENT_ID = "docker"
SHORTEST_LIFE = 60.0
"""Seconds a token is good for when its server does not say (token.md, expires_in)."""
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True)
class Challenge:
    scheme: str
    parameters: dict[str, str]

    @property
    def realm(self) -> str:
        return self.parameters.get("realm", "")


def challenges(headers: list[str]) -> list[Challenge]:
    """From the values of WWW-Authenticate; each value holds one challenge, as registries send them."""
    found = []
    for value in headers:
        scheme, _, rest = value.strip().partition(" ")
        parameters = {
            match[1].lower(): re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
            for match in _PARAMETER.finditer(rest)
        }
        found.append(Challenge(scheme.lower(), parameters))
    return found


class Tokens:
    """Bearer tokens by (realm, service, scope, account); shared by all transfers of the worker."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, ...], tuple[str, float]] = {}

    def get(self, key: tuple[str, ...]) -> str | None:
        token, expires = self._held.get(key, ("", 0.0))
        return token if time.monotonic() < expires else None

    def put(self, key: tuple[str, ...], token: str, life: float) -> None:
        now = time.monotonic()
        self._held = {k: held for k, held in self._held.items() if held[1] > now}
        self._held[key] = (token, now + max(life, SHORTEST_LIFE) * 0.9)

    def forget(self, key: tuple[str, ...]) -> None:
        self._held.pop(key, None)


class Authorizer:
    """Makes the Authorization header for one repository of one registry."""

    def __init__(self, http: httpx.AsyncClient, auth: AuthConfig, scope: str, tokens: Tokens):
        self._http, self._auth, self._scope, self._tokens = http, auth, scope, tokens
        self._challenge: Challenge | None = None
        self._wanted: set[str] = {scope} if scope else set()

    def learn(self, offered: list[Challenge]) -> None:
        """Remembers which scheme the registry wants; bearer before basic."""
        for scheme in ("bearer", "basic"):
            for challenge in offered:
                if challenge.scheme == scheme:
                    self._challenge = challenge
                    return

    def also(self, scope: str) -> None:
        """Asks for a further scope from now on (cross-repository mounts)."""
        self._wanted.add(scope)

    async def header(self) -> str | None:
        """None: anonymous. Raises RegistryError when the registry wants what we do not have."""
        if self._auth.registry_token:
            return f"Bearer {self._auth.registry_token}"
        if self._challenge is None:
            return None
        if self._challenge.scheme == "basic":
            return self._basic()
        return f"Bearer {await self._token()}"

    @property
    def realm(self) -> str:
        return self._challenge.realm if self._challenge else ""

    def reject(self) -> None:
        """The registry refused the current token: get a new one next time."""
        self._tokens.forget(self._key())

    def _basic(self) -> str:
        if not self._auth.username:
            raise RegistryError("credentials", NO_CREDENTIALS)
        pair = f"{self._auth.username}:{self._auth.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()

    def _key(self) -> tuple[str, ...]:
        parameters = self._challenge.parameters if self._challenge else {}
        account = (self._auth.username, self._auth.password, self._auth.identity_token)
        return (parameters.get("realm", ""), parameters.get("service", ""), *sorted(self._wanted), *account)

    async def _token(self) -> str:
        key = self._key()
        if held := self._tokens.get(key):
            return held
        token, life = await self._fetch()
        self._tokens.put(key, token, life)
        return token

    async def _fetch(self) -> tuple[str, float]:
        assert self._challenge is not None
        realm, service = self._challenge.realm, self._challenge.parameters.get("service", "")
        scopes = sorted(self._wanted)
        if self._auth.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": self._auth.identity_token,
                "service": service,
                "client_id": CLIENT_ID,
                "scope": " ".join(scopes),
            }
            answer = await self._http.post(realm, data=form)
        else:
            query: list[tuple[str, str | int | float | bool | None]] = []
            query += [("service", service)] if service else []
            query += [("scope", scope) for scope in scopes]
            query += [("account", self._auth.username)] if self._auth.username else []
            headers = {"Authorization": self._basic()} if self._auth.username else {}
            answer = await self._http.get(realm, params=query, headers=headers)
        if answer.status_code != 200:
            raise refusal(answer.status_code, answer.content)
        document = answer.json()
        token = document.get("token") or document.get("access_token")
        if not token:
            raise RegistryError("credentials", "authorization server did not include a token in the response")
        return str(token), float(document.get("expires_in") or SHORTEST_LIFE)
