"""Where this machine gets its packages from, for the inside of builds.

No file here names a host: apt's mirror is in the base image (debootstrap took it from this machine's apt), pip's and
npm's own settings are handed to the steps that need them as secrets, with the machine's certificates.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
from pathlib import Path

INSIDE = "/etc/ssl/certs/ca-certificates.crt"
"""Where the Dockerfiles mount the certificates."""
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


def secrets(directory: Path) -> dict[str, Path]:
    """`pip` (a pip.conf), `npm` (an .npmrc) and `ca` (a bundle of certificates)."""
    texts = {"pip": _pip(), "npm": _npm()}
    for name, text in texts.items():
        (directory / name).write_text(text)
    return {name: directory / name for name in texts} | {"ca": certificates()}


def arguments() -> dict[str, str]:
    """Predefined build arguments: the proxies this machine goes through, if any."""
    return {name: os.environ[name] for name in PROXIES if os.environ.get(name)}


def certificates() -> Path:
    known = (
        os.environ.get("SSL_CERT_FILE"),
        os.environ.get("PIP_CERT"),
        INSIDE,
        ssl.get_default_verify_paths().cafile,
    )
    return next(Path(path) for path in known if path and Path(path).is_file())


def _pip() -> str:
    lines = ["[global]", f"cert = {INSIDE}"]
    for name in ("index-url", "extra-index-url", "trusted-host"):
        value = os.environ.get("PIP_" + name.upper().replace("-", "_")) or _setting(
            ["pip", "config", "get", f"global.{name}"]
        )
        lines += [f"{name} = {value}"] if value else []
    return "\n".join(lines) + "\n"


def _npm() -> str:
    lines = [f"cafile={INSIDE}"]
    registry = os.environ.get("NPM_CONFIG_REGISTRY")
    if not registry and shutil.which("npm"):
        registry = json.loads(_setting(["npm", "config", "list", "--json"]) or "{}").get("registry")
    return "\n".join(lines + ([f"registry={registry}"] if registry else [])) + "\n"


def _setting(command: list[str]) -> str:
    """What the command says; nothing where it or the setting is missing."""
    if not shutil.which(command[0]):
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
