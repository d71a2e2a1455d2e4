"""Where and how a container logs: HostConfig.LogConfig as the keeper's LogSpec."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.config import DaemonConfig
from daemon.containers.logs import drivers
from daemon.containers.logs.journald import journal_behind
from daemon.containers.model import Container
from daemon.runtime.client import LogSpec
from storage.errors import Internal

if TYPE_CHECKING:
    import ssl

_FAILURE = "failed to create task for container: failed to initialize logging driver: "
_LOCAL_SYSLOG = ("/dev/log", "/var/run/syslog", "/var/run/log")
DIAL_SECONDS = 10.0


def log_path(container: Container, config: DaemonConfig) -> str:
    """`LogPath` of inspect: the file of the drivers that write one of their own."""
    directory = config.container_dir(container.id)
    match driver_of(container):
        case "json-file":
            return str(directory / f"{container.id}-json.log")
        case "local":
            return str(directory / "local-logs" / "container.log")
        case _:
            return ""


def readable_path(container: Container, config: DaemonConfig) -> str:
    """The file that `logs` reads, if any: for drivers that send logs away, the copy kept beside, unless they can be
    read back where they went. (A copy that is there was kept when they could not.)"""
    if driver_of(container) in drivers.REMOTE and not drivers.cache_disabled(_given(container)):
        copy = str(config.container_dir(container.id) / "container-cached.log")
        read_back = driver_of(container) == "journald" and journal_behind(config.journald_socket) is not None
        return "" if read_back and not os.path.exists(copy) else copy
    return log_path(container, config)


def driver_of(container: Container) -> str:
    return (container.host.get("LogConfig") or {}).get("Type") or "json-file"


def _given(container: Container) -> dict[str, str]:
    return dict((container.host.get("LogConfig") or {}).get("Config") or {})


async def log_spec(container: Container, config: DaemonConfig) -> LogSpec:
    """Raises Internal in Docker's words for what only making the logger finds out."""
    driver, options = driver_of(container), _given(container)
    try:
        drivers.check_start(driver, options)
        for name, value in attributes(container, options).items():
            options[f"attrs:{name}"] = value
        if "max-buffer-size" in options:
            options["max-buffer-bytes"] = str(drivers.ram_bytes(options["max-buffer-size"]))
        if driver == "syslog":
            options |= await _syslog(container, options)
        elif driver == "journald":
            options |= await _journald(container, options, config.journald_socket)
    except (ValueError, OSError) as error:
        raise Internal(_FAILURE + str(error)) from None
    path = readable_path(container, config)
    if driver == "local":
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return LogSpec(driver, path, options)


# -- attributes and tags -------------------------------------------------------------------------------------


def attributes(container: Container, options: dict[str, str]) -> dict[str, str]:
    """Extra attributes of each line: log-opts labels, labels-regex, env, env-regex, tag. Raises ValueError."""
    chosen = _extra(container, options)
    if options.get("tag"):
        chosen["tag"] = _tag(container, options)
    return chosen


def _extra(container: Container, options: dict[str, str]) -> dict[str, str]:
    environment = dict(entry.split("=", 1) for entry in container.config.get("Env") or [] if "=" in entry)
    return _chosen(container.labels, options, "labels") | _chosen(environment, options, "env")


def _chosen(values: dict[str, str], options: dict[str, str], name: str) -> dict[str, str]:
    wanted = set((options.get(name) or "").split(","))
    pattern = options.get(f"{name}-regex")
    return {k: v for k, v in values.items() if k in wanted or (pattern and re.search(pattern, k))}


def _tag(container: Container, options: dict[str, str]) -> str:
    known = {
        "ID": container.short_id,
        "FullID": container.id,
        "Name": container.name,
        "Command": " ".join((container.path, *container.args)),
        "ImageID": container.image_id.removeprefix("sha256:")[:12],
        "ImageFullID": container.image_id,
        "ImageName": container.image,
        "Hostname": os.uname().nodename,
        "DaemonName": "pyd",
    }
    template = options.get("tag") or drivers.DEFAULT_TAG
    return drivers.tag(template, known, _extra(container, options))


# -- drivers that send logs away -------------------------------------------------------------------------------


async def _syslog(container: Container, options: dict[str, str]) -> dict[str, str]:
    to = drivers.syslog_address(options.get("syslog-address", "")) or _own_syslog()
    if to["kind"] == drivers.SECURE:
        to |= {"name": to["host"], **drivers.tls_files(options)}
        to |= await asyncio.to_thread(_dialled_securely, to)
    else:
        to |= await _dialled(to)
    counted = to["kind"] == drivers.SECURE and options.get("syslog-format", "").startswith("rfc5424")
    fields = {
        "facility": str(drivers.facility(options.get("syslog-facility", ""))),
        "format": options.get("syslog-format", ""),
        "tag": _tag(container, options),
        "hostname": os.uname().nodename,
        "framing": "length" if counted else "",
    }
    return _prefixed("to:", to) | _prefixed("field:", fields)


def _own_syslog() -> dict[str, str]:
    for path in _LOCAL_SYSLOG:
        for kind, number in (("unixgram", socket.SOCK_DGRAM), ("unix", socket.SOCK_STREAM)):
            with socket.socket(socket.AF_UNIX, number) as probe:
                if probe.connect_ex(path) == 0:
                    return {"kind": kind, "address": path}
    raise ValueError("Unix syslog delivery error")


async def _dialled(to: dict[str, str]) -> dict[str, str]:
    """One connection for a try, as Docker's: the keeper must neither resolve names nor wait. Raises ValueError."""
    kind = to["kind"]
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(DIAL_SECONDS):
            if kind in ("unix", "unixgram"):
                number = socket.SOCK_DGRAM if kind == "unixgram" else socket.SOCK_STREAM
                with socket.socket(socket.AF_UNIX, number) as probe:
                    probe.setblocking(False)
                    await loop.sock_connect(probe, to["address"])
                return {}
            how: int = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
            family, _, _, _, address = (await loop.getaddrinfo(to["host"], int(to["port"]), type=how))[0]
            with socket.socket(family, how) as probe:
                probe.setblocking(False)
                await loop.sock_connect(probe, address)
            return {"host": str(address[0])}
    except (OSError, TimeoutError) as error:
        where = to.get("address") or f"{to['host']}:{to['port']}"
        code = getattr(error, "errno", None)  # asyncio's own text for it is another
        why = os.strerror(code).lower() if code else "i/o timeout"
        raise ValueError(f"dial {kind} {where}: connect: {why}") from None


def _dialled_securely(to: dict[str, str]) -> dict[str, str]:
    """The same with TLS: certificates are read and those of the server verified. Raises ValueError."""
    import ssl

    from daemon.runtime.logtls import context

    secured = context(to)
    try:
        with socket.create_connection((to["host"], int(to["port"])), DIAL_SECONDS) as plain:
            address = str(plain.getpeername()[0])
            with secured.wrap_socket(plain, server_hostname=to["name"]):
                return {"host": address}
    except ssl.SSLCertVerificationError as error:
        raise ValueError(f"tls: failed to verify certificate: x509: {_why_invalid(error, to)}") from None
    except ssl.SSLError as error:
        raise ValueError(f"tls: {error.reason or error}") from None
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else "i/o timeout"
        raise ValueError(f"dial tcp {to['host']}:{to['port']}: connect: {why}") from None


def _why_invalid(error: ssl.SSLCertVerificationError, to: dict[str, str]) -> str:
    """OpenSSL's reason (openssl-verify(1)) as Go would give it, for the most common."""
    match error.verify_code:
        case 9 | 10:
            return "certificate has expired or is not yet valid"
        case 62 | 64:
            return f"certificate is not valid for {to['name']}"
        case 18 | 19 | 20 | 21:
            return "certificate signed by unknown authority"
        case _:
            return error.verify_message


async def _journald(container: Container, options: dict[str, str], path: Path) -> dict[str, str]:
    to = {"kind": "unixgram", "address": str(path)}
    try:
        await _dialled(to)
    except ValueError:
        raise ValueError("journald is not enabled on this host") from None
    name = _tag(container, options)
    fields = {
        "CONTAINER_ID": container.short_id,
        "CONTAINER_ID_FULL": container.id,
        "CONTAINER_NAME": container.name,
        "CONTAINER_TAG": name,
        "IMAGE_NAME": container.image,
        "SYSLOG_IDENTIFIER": name,
    }
    extra = {_journal_name(key): value for key, value in _extra(container, options).items()}
    return _prefixed("to:", to) | _prefixed("field:", fields | {k: v for k, v in extra.items() if k})


def _journal_name(name: str) -> str:
    """Upper case letters, digits and underscores, the first no underscore (moby sanitizeKeyMod)."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper() if name.isascii() else name).lstrip("_")


def _prefixed(prefix: str, values: dict[str, str]) -> dict[str, str]:
    return {prefix + name: value for name, value in values.items()}
