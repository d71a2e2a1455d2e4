"""docker's contexts: `<config>/contexts/meta/<sha256 of the name>/meta.json` names an endpoint, its TLS files are
in `contexts/tls/<same>/docker/`. pyd reads the same store as docker.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.endpoint import DEFAULT_HOST, Endpoint, TlsFiles, host_from_environment, parse_endpoint
from client.errors import ClientError


@dataclass(frozen=True)
class Context:
    name: str
    description: str
    host: str
    directory: Path | None = None
    tls_directory: Path | None = None
    skip_verify: bool = False

    def endpoint(self) -> Endpoint:
        tls = None
        if self.tls_directory is not None and self.tls_directory.is_dir():
            base = self.tls_directory
            tls = TlsFiles(base / "ca.pem", base / "cert.pem", base / "key.pem", not self.skip_verify)
        return parse_endpoint(self.host, tls)

    def document(self) -> dict[str, Any]:
        return {
            "Name": self.name,
            "Metadata": {"Description": self.description} if self.description else {},
            "Endpoints": {"docker": {"Host": self.host, "SkipTLSVerify": self.skip_verify}},
            "TLSMaterial": {},
            "Storage": {
                "MetadataPath": str(self.directory or "<IN MEMORY>"),
                "TLSPath": str(self.tls_directory or "<IN MEMORY>"),
            },
        }


def context_directories(config: Path, name: str) -> tuple[Path, Path]:
    key = hashlib.sha256(name.encode()).hexdigest()
    return config / "contexts/meta" / key, config / "contexts/tls" / key


def default_context() -> Context:
    return Context("default", "Current PYD_HOST or DOCKER_HOST based configuration",
                   host_from_environment() or DEFAULT_HOST)  # fmt: skip


def load_context(config: Path, name: str) -> Context:
    if name == "default":
        return default_context()
    directory, tls = context_directories(config, name)
    try:
        return _from_file(directory / "meta.json", tls / "docker")
    except FileNotFoundError:
        raise ClientError(f'context "{name}": context not found: open {directory / "meta.json"}: '
                          "no such file or directory") from None  # fmt: skip


def _from_file(path: Path, tls: Path) -> Context:
    data = json.loads(path.read_bytes())
    endpoint = (data.get("Endpoints") or {}).get("docker") or {}
    description = (data.get("Metadata") or {}).get("Description", "")
    return Context(data["Name"], description, endpoint.get("Host", DEFAULT_HOST), path.parent, tls,
                   bool(endpoint.get("SkipTLSVerify")))  # fmt: skip


def all_contexts(config: Path) -> list[Context]:
    found = [default_context()]
    for path in sorted((config / "contexts/meta").glob("*/meta.json")):
        found.append(_from_file(path, config / "contexts/tls" / path.parent.name / "docker"))
    return sorted(found, key=lambda context: context.name)


def create_context(config: Path, name: str, description: str, host: str) -> None:
    directory, _ = context_directories(config, name)
    if name == "default" or (directory / "meta.json").exists():
        raise ClientError(f'context "{name}" already exists')
    directory.mkdir(parents=True)
    document = {"Name": name, "Metadata": {"Description": description} if description else {},
                "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}}}  # fmt: skip
    (directory / "meta.json").write_text(json.dumps(document))


def remove_context(config: Path, name: str) -> None:
    import shutil

    if name == "default":
        raise ClientError('context "default" cannot be removed')
    load_context(config, name)
    for directory in context_directories(config, name):
        shutil.rmtree(directory, ignore_errors=True)
