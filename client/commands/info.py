"""`pyd info`: what the daemon says of itself and its machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from client import VERSION
from client.errors import ClientError, ConnectionFailed
from client.options import Command, Parsed
from client.render.listing import to_json, unescape
from client.render.units import binary_size
from client.session import Session, say, warn

Lines = Iterator[str]


def _given(label: str, value: Any) -> Lines:
    if value:
        yield f"{label} {value}"


def _counts(info: dict[str, Any]) -> Lines:
    yield f" Containers: {info.get('Containers', 0)}"
    for state in ("Running", "Paused", "Stopped"):
        yield f"  {state}: {info.get(f'Containers{state}', 0)}"
    yield f" Images: {info.get('Images', 0)}"
    yield from _given(" Server Version:", info.get("ServerVersion"))
    yield from _given(" Storage Driver:", info.get("Driver"))
    for key, value in info.get("DriverStatus") or []:
        yield f"  {key}: {value}"
    yield from _given(" Logging Driver:", info.get("LoggingDriver"))
    yield from _given(" Cgroup Driver:", info.get("CgroupDriver"))
    yield from _given(" Cgroup Version:", info.get("CgroupVersion"))


def _plugins(info: dict[str, Any]) -> Lines:
    plugins = info.get("Plugins") or {}
    yield " Plugins:"
    for kind in ("Volume", "Network", "Authorization", "Log"):
        names = plugins.get(kind) or []
        if names or kind != "Authorization":
            yield f"  {kind}: {' '.join(names)}"
    if directories := info.get("CDISpecDirs"):
        yield " CDI spec directories:"
        yield from (f"  {directory}" for directory in directories)
    if devices := info.get("DiscoveredDevices"):
        yield " Discovered Devices:"
        yield from (f"  {device['Source']}: {device['ID']}" for device in devices)


def _runtimes(info: dict[str, Any]) -> Lines:
    yield f" Swarm: {(info.get('Swarm') or {}).get('LocalNodeState', 'inactive')}"
    if runtimes := info.get("Runtimes"):
        yield f" Runtimes: {' '.join(sorted(runtimes))}"
        yield f" Default Runtime: {info.get('DefaultRuntime', '')}"
    yield f" Init Binary: {info.get('InitBinary', '')}"
    for label, key in (("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit")):
        yield f" {label} version: {(info.get(key) or {}).get('ID', '')}"
    if options := info.get("SecurityOptions"):
        yield " Security Options:"
        for option in options:
            pairs = [pair.partition("=") for pair in option.split(",")]
            yield from (f"  {value or key}" for key, sign, value in pairs if key == "name" or not sign)
            yield from (f"   Profile: {value}" for key, _, value in pairs if key == "profile")


def _machine(info: dict[str, Any]) -> Lines:
    for label, key in (("Kernel Version", "KernelVersion"), ("Operating System", "OperatingSystem"),
                       ("OSType", "OSType"), ("Architecture", "Architecture")):  # fmt: skip
        yield from _given(f" {label}:", info.get(key))
    yield f" CPUs: {info.get('NCPU', 0)}"
    yield f" Total Memory: {binary_size(info.get('MemTotal', 0))}"
    yield from _given(" Name:", info.get("Name"))
    yield from _given(" ID:", info.get("ID"))
    yield f" Docker Root Dir: {info.get('DockerRootDir', '')}"
    yield f" Debug Mode: {str(bool(info.get('Debug'))).lower()}"
    if info.get("Debug"):
        for label, key in (("File Descriptors", "NFd"), ("Goroutines", "NGoroutines"),
                           ("System Time", "SystemTime"), ("EventsListeners", "NEventsListener")):  # fmt: skip
            yield f"  {label}: {info.get(key, '')}"
    for label, key in (("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy")):
        yield from _given(f" {label}:", info.get(key))
    if labels := info.get("Labels"):
        yield " Labels:"
        yield from (f"  {label}" for label in labels)
    yield f" Experimental: {str(bool(info.get('ExperimentalBuild'))).lower()}"


def _registries(info: dict[str, Any]) -> Lines:
    registries = info.get("RegistryConfig") or {}
    indexes, ranges = registries.get("IndexConfigs") or {}, registries.get("InsecureRegistryCIDRs") or []
    if indexes or ranges:
        yield " Insecure Registries:"
        yield from (f"  {index['Name']}" for index in indexes.values() if not index.get("Secure"))
        yield from (f"  {ipaddress.ip_network(block, strict=False)}" for block in ranges)
    if mirrors := registries.get("Mirrors"):
        yield " Registry Mirrors:"
        yield from (f"  {mirror}" for mirror in mirrors)
    yield f" Live Restore Enabled: {str(bool(info.get('LiveRestoreEnabled'))).lower()}"
    yield from _given(" Product License:", info.get("ProductLicense"))
    if pools := info.get("DefaultAddressPools"):
        yield " Default Address Pools:"
        yield from (f"   Base: {pool['Base']}, Size: {pool['Size']}" for pool in pools)
    yield ""


def info(session: Session, parsed: Parsed) -> int:
    text = parsed.text("format")
    about = {"Debug": session.options.debug, "Version": VERSION, "Context": session.context, "Plugins": [],
             "Warnings": None}  # fmt: skip
    server: dict[str, Any] = {}
    problem: ClientError | None = None
    try:
        server = session.api.json("GET", "/info")
    except ConnectionFailed as error:
        problem = error
    if text:
        _formatted(text, {**server, "ClientInfo": about})
    else:
        say(f"Client:\n Version:    {VERSION}\n Context:    {session.context}\n"
            f" Debug Mode: {str(session.options.debug).lower()}\n\nServer:")  # fmt: skip
        if server:
            for part in (_counts, _plugins, _runtimes, _machine, _registries):
                say("\n".join(part(server)))
            for warning in server.get("Warnings") or []:
                warn(warning)
    if problem:
        raise problem
    return 0


def _formatted(text: str, document: dict[str, Any]) -> None:
    if text == "json":
        say(to_json(document))
        return
    from client.commands.inspect import for_template
    from client.templates import Template

    say(Template(unescape(text)).render(for_template(document)))


COMMANDS = (Command(("info", "system info"), "", "Show information on the daemon and its machine", info,
                    "f|format|string||'json' or a Go template", most=0),)  # fmt: skip
