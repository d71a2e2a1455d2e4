"""The nouns of the image service.

reference   what a user types: `busybox`, `localhost:5000/a/b:1`, `x@sha256:..`
image       a configuration (JSON, its SHA-256 is the image's ID) over a stack of layers
layer       one tar of changes; its diff ID is the digest of the uncompressed tar
chain ID    the name of a layer together with all layers under it (OCI image-spec, "Layer ChainID")
manifest    what a registry calls an image: digests of a configuration and of compressed layers
repo digest the name `repository@manifest digest` that a pull or push left behind
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from storage.errors import InvalidArgument

Json = dict[str, Any]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """Chain ID of every prefix of a layer stack; the first layer's equals its diff ID."""
    chains: list[str] = []
    for diff_id in diff_ids:
        chains.append(digest_of(f"{chains[-1]} {diff_id}".encode()) if chains else diff_id)
    return tuple(chains)


BASE_CONFIG: Json = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}
"""The members that Docker always writes into an image's Config."""


@dataclass(frozen=True)
class Image:
    """An image whose configuration and layers are all present."""

    id: str
    """`sha256:` digest of the configuration."""
    config: Json
    """The OCI image configuration, as it was signed by its digest."""
    size: int
    """Bytes of all unpacked layers."""
    references: tuple[str, ...] = ()
    """Familiar tagged names, sorted: `busybox:latest`."""
    digests: tuple[str, ...] = ()
    """Familiar digest names, sorted: `busybox@sha256:..`."""
    parent: str = ""
    """ID of the local image this one was committed or built on; empty for pulled images."""
    last_tagged: str = ""
    """RFC 3339 time of the last tag, or empty."""
    chain_ids: tuple[str, ...] = field(default=(), compare=False)

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return tuple((self.config.get("rootfs") or {}).get("diff_ids") or ())

    @property
    def top(self) -> str | None:
        """Snapshot name of the topmost layer: the parent of a container's own; None for an empty image."""
        return self.chain_ids[-1] if self.chain_ids else None

    @property
    def created(self) -> str:
        return self.config.get("created") or ""

    @property
    def made_from(self) -> Json:
        """The container it was committed from, as `inspect` told until API 1.44."""
        container = {"Container": self.config["container"]} if self.config.get("container") else {}
        return container | {"ContainerConfig": self.config.get("container_config") or BASE_CONFIG}

    @property
    def container_config(self) -> Json:
        """The `Config` that containers inherit (Env, Cmd, Entrypoint, ...)."""
        return self.config.get("config") or {}

    @property
    def names(self) -> tuple[str, ...]:
        return self.references + self.digests

    def named(self, references: Sequence[str], digests: Sequence[str]) -> Image:
        return replace(self, references=tuple(sorted(references)), digests=tuple(sorted(digests)))


@dataclass(frozen=True)
class ImageUse:
    """A container that was created from an image."""

    container_id: str
    running: bool


@dataclass(frozen=True, repr=False)
class AuthConfig:
    """Credentials for one registry as `X-Registry-Auth` carries them. Never logged: repr hides them."""

    username: str = ""
    password: str = ""
    server_address: str = ""
    identity_token: str = ""
    registry_token: str = ""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> AuthConfig:
        """From Docker's JSON; `auth` (base64 of user:password) is understood as well."""
        username, password = str(fields.get("username") or ""), str(fields.get("password") or "")
        if not username and fields.get("auth"):
            try:
                username, _, password = base64.b64decode(str(fields["auth"])).decode().partition(":")
            except ValueError:  # binascii.Error, UnicodeDecodeError, and text that is not even ASCII
                raise InvalidArgument("invalid X-Registry-Auth header: auth is not base64") from None
        for token in ("identitytoken", "registrytoken"):
            if not str(fields.get(token) or "").isascii():  # it becomes a header's value (RFC 9110, 5.5)
                raise InvalidArgument(f"invalid {token}: not ASCII")
        return cls(
            username,
            password.rstrip("\x00"),
            str(fields.get("serveraddress") or ""),
            str(fields.get("identitytoken") or ""),
            str(fields.get("registrytoken") or ""),
        )

    @classmethod
    def decode(cls, header: str | None) -> AuthConfig | None:
        """From the header's URL-safe base64; like dockerd, an empty or absent one means anonymous."""
        if not header:
            return None
        try:
            fields = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)) or b"{}")
        except (binascii.Error, ValueError):
            raise InvalidArgument("invalid X-Registry-Auth header: not base64 of a JSON object") from None
        if not isinstance(fields, dict):
            raise InvalidArgument("invalid X-Registry-Auth header: not base64 of a JSON object")
        return cls.of(fields)

    def fields(self) -> dict[str, str]:
        return {
            "username": self.username,
            "password": self.password,
            "serveraddress": self.server_address,
            "identitytoken": self.identity_token,
            "registrytoken": self.registry_token,
        }
