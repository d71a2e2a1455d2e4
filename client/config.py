"""docker's configuration file and the credentials in it.

`~/.docker/config.json` (or `$DOCKER_CONFIG`, or `--config`) is shared with docker: fields that pyd does not know
are kept when it is written. Credentials are in `auths` as base64 of `user:password`, or with a helper program
named by `credsStore`/`credHelpers` (protocol: docker-credential-helpers, JSON on stdin and stdout).
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.errors import ClientError

HUB = "https://index.docker.io/v1/"


@dataclass(frozen=True, slots=True)
class Credentials:
    server: str
    username: str = ""
    password: str = ""
    identity_token: str = ""

    def header(self) -> str:
        """The value of X-Registry-Auth: URL-safe base64 of the API's AuthConfig."""
        document = {"username": self.username, "password": self.password, "serveraddress": self.server}
        if self.identity_token:
            document = {"identitytoken": self.identity_token, "serveraddress": self.server}
        if not self.username and not self.identity_token:
            document = {}
        return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


class ConfigFile:
    """The file's document, read once; `save` writes it aside and renames."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "config.json"
        self.data: dict[str, Any] = {}
        try:
            self.data = json.loads(self.path.read_bytes() or b"{}")
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise ClientError(f"error loading config file: {self.path}: {error}") from None
        if not isinstance(self.data, dict):
            raise ClientError(f"error loading config file: {self.path}: not an object")

    def text(self, name: str) -> str:
        value = self.data.get(name)
        return value if isinstance(value, str) else ""

    def headers(self) -> dict[str, str]:
        return {str(k): str(v) for k, v in (self.data.get("HttpHeaders") or {}).items()}

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = self.path.resolve()
        descriptor, aside = tempfile.mkstemp(prefix="config.json.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(self.data, file, indent="\t")
            os.chmod(aside, target.stat().st_mode & 0o777 if target.exists() else 0o600)
            os.replace(aside, target)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise

    # credentials

    def _helper(self, server: str) -> str:
        helpers = self.data.get("credHelpers") or {}
        return helpers.get(server) or self.text("credsStore")

    def find(self, server: str) -> Credentials:
        """What is stored for a registry; empty credentials when nothing is."""
        if helper := self._helper(server):
            return _ask_helper(helper, server)
        entries: dict[str, Any] = self.data.get("auths") or {}
        entry = entries.get(server)
        if entry is None:
            entry = next((value for key, value in entries.items() if bare_host(key) == server), None)
        return _from_entry(server, entry or {})

    def store(self, found: Credentials) -> bool:
        """Keep credentials; true when they had to be written unencrypted."""
        if helper := self._helper(found.server):
            secret = found.identity_token or found.password
            user = "<token>" if found.identity_token else found.username
            _run_helper(
                helper, "store", json.dumps({"ServerURL": found.server, "Username": user, "Secret": secret})
            )
            return False
        entry = {"auth": base64.b64encode(f"{found.username}:{found.password}".encode()).decode()}
        if found.identity_token:
            entry = {"auth": base64.b64encode(f"{found.username}:".encode()).decode(),
                     "identitytoken": found.identity_token}  # fmt: skip
        self.data.setdefault("auths", {})[found.server] = entry
        self.save()
        return True

    def forget(self, server: str) -> None:
        if helper := self._helper(server):
            _run_helper(helper, "erase", server)
        entries: dict[str, Any] = self.data.get("auths") or {}
        gone = [key for key in entries if key == server or bare_host(key) == server]
        for key in gone:
            del entries[key]
        if gone:
            self.save()


def bare_host(url: str) -> str:
    """`https://host/v1/` to `host`."""
    return url.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _from_entry(server: str, entry: dict[str, Any]) -> Credentials:
    user, password = entry.get("username", ""), entry.get("password", "")
    if entry.get("auth"):
        try:
            user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        except ValueError:
            raise ClientError(
                f"invalid auth configuration file: the entry of {server} is no base64"
            ) from None
    return Credentials(server, user, password.strip("\0"), entry.get("identitytoken", ""))


def _run_helper(helper: str, action: str, text: str) -> str:
    name = f"docker-credential-{helper}"
    try:
        done = subprocess.run([name, action], input=text, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ClientError(f"error getting credentials - err: exec: {name!r}: {error.strerror}") from None
    output = done.stdout.strip()
    if done.returncode and "credentials not found" not in output:
        raise ClientError(f"error getting credentials - err: exit status {done.returncode}, out: `{output}`")
    return "" if done.returncode else output


def _ask_helper(helper: str, server: str) -> Credentials:
    output = _run_helper(helper, "get", server)
    if not output:
        return Credentials(server)
    answer = json.loads(output)
    if answer.get("Username") == "<token>":
        return Credentials(server, identity_token=answer.get("Secret", ""))
    return Credentials(server, answer.get("Username", ""), answer.get("Secret", ""))
