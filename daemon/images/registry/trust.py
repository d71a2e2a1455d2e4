"""Whom an HTTPS endpoint is believed to be: the system's authorities, and those of certs.d.

/etc/docker/certs.d/HOST:PORT/{*.crt authorities, NAME.cert with NAME.key for ourselves}, as dockerd reads
them; /etc/pyd/certs.d has the same form. Source: docs.docker.com/engine/security/certificates.
"""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

from daemon.images.registry.endpoints import Endpoint

CERTIFICATES = (Path("/etc/pyd/certs.d"), Path("/etc/docker/certs.d"))


def context(endpoint: Endpoint) -> ssl.SSLContext | bool:
    """What httpx takes as `verify`; nothing is loaded for plain HTTP."""
    if endpoint.plain:
        return False
    made = ssl.create_default_context()
    if not endpoint.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    for directory in (base / endpoint.host for base in CERTIFICATES):
        if directory.is_dir():
            _load(made, directory)
    return made


def _load(made: ssl.SSLContext, directory: Path) -> None:
    for authority in sorted(directory.glob("*.crt")):
        made.load_verify_locations(authority)
    for own in sorted(directory.glob("*.cert")):
        made.load_cert_chain(own, own.with_suffix(".key"))


def is_loopback(endpoint: Endpoint) -> bool:
    """Proxies of the environment are not for this machine itself, as Go has it."""
    host = endpoint.host
    host = host[1 : host.index("]")] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
