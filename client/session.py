"""What one invocation of `pyd` knows: where the daemon is, the configuration, and the way to ask.

Everything is made on first use, so that a command pays only for what it touches.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.endpoint import DEFAULT_HOST, Endpoint, TlsFiles, host_from_environment, parse_endpoint

if TYPE_CHECKING:
    from client.config import ConfigFile
    from client.http import Api


@dataclass(frozen=True)
class Globals:
    """The options before the command."""

    hosts: tuple[str, ...] = ()
    config: str = ""
    context: str = ""
    debug: bool = False
    tls: bool = False
    tls_verify: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""


class Session:
    def __init__(self, options: Globals) -> None:
        self.options = options

    @cached_property
    def config_directory(self) -> Path:
        chosen = self.options.config or os.environ.get("DOCKER_CONFIG")
        return Path(chosen) if chosen else Path.home() / ".docker"

    @cached_property
    def config(self) -> ConfigFile:
        from client.config import ConfigFile

        return ConfigFile(self.config_directory)

    @cached_property
    def context(self) -> str:
        """The context's name: `default` unless one is chosen and no host overrides it."""
        if self.options.hosts:
            return "default"
        if self.options.context:
            return self.options.context
        if host_from_environment():
            return "default"
        return os.environ.get("DOCKER_CONTEXT") or self._configured_context() or "default"

    def _configured_context(self) -> str:
        """docker's current context counts only when it is not docker's own socket."""
        if not (self.config_directory / "config.json").exists():
            return ""
        return self.config.text("currentContext")

    @cached_property
    def endpoint(self) -> Endpoint:
        if len(self.options.hosts) > 1:
            from client.errors import ClientError

            raise ClientError("specify only one -H")
        tls = self._tls_files()
        if self.options.hosts:
            return parse_endpoint(self.options.hosts[0], tls)
        if self.context != "default":
            from client.contexts import load_context

            return load_context(self.config_directory, self.context).endpoint()
        return parse_endpoint(host_from_environment() or DEFAULT_HOST, tls)

    def _tls_files(self) -> TlsFiles | None:
        options = self.options
        verify = options.tls_verify or bool(os.environ.get("DOCKER_TLS_VERIFY"))
        if not (verify or options.tls or os.environ.get("DOCKER_TLS")):
            return None
        base = Path(os.environ.get("DOCKER_CERT_PATH") or self.config_directory)
        return TlsFiles(
            Path(options.tls_ca or base / "ca.pem"),
            Path(options.tls_cert or base / "cert.pem"),
            Path(options.tls_key or base / "key.pem"),
            verify,
        )

    @cached_property
    def api(self) -> Api:
        from client.http import Api

        headers = self.config.headers() if (self.config_directory / "config.json").exists() else {}
        return Api(self.endpoint, headers)

    def registry_auth(self, server: str) -> dict[str, str]:
        """The header that hands a registry's credentials to the daemon."""
        return {"X-Registry-Auth": self.config.find(server).header()}


def filters_json(pairs: list[tuple[str, str]]) -> str | None:
    """--filter values in the API's form, `{"name": {"value": true}}`; None when there are none."""
    if not pairs:
        return None
    grouped: dict[str, dict[str, bool]] = {}
    for key, value in pairs:
        grouped.setdefault(key, {})[value] = True
    return json.dumps(grouped)


def say(*values: Any) -> None:
    """A line on stdout, written at once."""
    sys.stdout.write(" ".join(map(str, values)) + "\n")
    sys.stdout.flush()


def warn(*values: Any) -> None:
    """A line on stderr."""
    sys.stdout.flush()
    sys.stderr.write(" ".join(map(str, values)) + "\n")
    sys.stderr.flush()


def each(names: list[str], action: Any, *, report: bool = True) -> int:
    """Do it for every name, print the name when done and the error when not; 1 if anything failed."""
    from client.errors import ClientError

    failed = 0
    for name in names:
        try:
            action(name)
        except ClientError as error:
            warn(error)
            failed = 1
        else:
            if report:
                say(name)
    return failed


def confirm(question: str) -> bool:
    """Ask on the terminal; anything but y or yes, and the end of input, mean no."""
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
