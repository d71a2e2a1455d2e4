"""`pyd version`."""

from __future__ import annotations

import platform
from typing import Any

from client import VERSION
from client.errors import ClientError
from client.options import Command, Parsed
from client.render.listing import to_json, unescape
from client.session import Session, say

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


def client_version(session: Session, api_version: str, newest: str) -> dict[str, Any]:
    machine = platform.machine()
    return {
        "Version": VERSION,
        "ApiVersion": api_version,
        "DefaultAPIVersion": newest,
        "PythonVersion": platform.python_version(),
        "Os": "linux",
        "Arch": _ARCHITECTURES.get(machine, machine),
        "Context": session.context,
    }


def _go_date(text: str) -> str:
    from client.render.units import parse_time

    try:
        moment = parse_time(text)
    except ValueError:
        return text
    return moment.strftime("%a %b %e %H:%M:%S %Y").replace("  ", " " * 2) if moment else text


def engine_lines(server: dict[str, Any]) -> list[str]:
    name = (server.get("Platform") or {}).get("Name") or ""
    lines = ["", f"Server:{' ' + name if name else ''}"]
    for component in server.get("Components") or []:
        details = component.get("Details") or {}
        lines.append(f" {component['Name']}:")
        if component["Name"] != "Engine":
            pairs = [("Version", component["Version"]), *sorted(details.items())]
        else:
            minimum = details.get("MinAPIVersion", "")
            pairs = [("Version", component["Version"]),
                     ("API version", f"{details.get('ApiVersion', '')} (minimum version {minimum})"),
                     ("Go version", details.get("GoVersion", "")), ("Git commit", details.get("GitCommit", "")),
                     ("Built", _go_date(details.get("BuildTime", ""))),
                     ("OS/Arch", f"{details.get('Os', '')}/{details.get('Arch', '')}"),
                     ("Experimental", details.get("Experimental", ""))]  # fmt: skip
        lines += [f"  {key}:".ljust(20) + str(value) for key, value in pairs]
    return lines


def client_lines(about: dict[str, Any]) -> list[str]:
    api = about["ApiVersion"]
    if api != about["DefaultAPIVersion"]:
        api += f" (downgraded from {about['DefaultAPIVersion']})"
    pairs = (("Version", about["Version"]), ("API version", api), ("Python version", about["PythonVersion"]),
             ("OS/Arch", f"{about['Os']}/{about['Arch']}"), ("Context", about["Context"]))  # fmt: skip
    return ["Client:", *(f" {key}:".ljust(20) + value for key, value in pairs)]


def _with_field(document: dict[str, Any]) -> dict[str, Any]:
    """Go's field is APIVersion, its JSON key ApiVersion: a method is found by name and not shown."""
    return {**document, "APIVersion": lambda: document["ApiVersion"]}


def version(session: Session, parsed: Parsed) -> int:
    from client.http import NEWEST_API

    text = parsed.text("format")
    template = None
    if text and text != "json":
        from client.templates import Template

        template = Template(unescape(text))
    server, problem = None, None
    try:
        server = session.api.json("GET", "/version")
        server.setdefault("Platform", {"Name": ""})
    except ClientError as error:
        problem = error
    about = client_version(session, session.api.version, NEWEST_API)
    if template:
        from client.template_functions import NIL

        named, engine = _with_field(about), _with_field(server) if server else NIL
        try:
            say(template.render({"Client": named, "Server": engine}))
        except ClientError as error:
            if problem is None:
                raise ClientError(f"template parsing error: {error}") from None
    elif text == "json":
        say(to_json({"Client": about, "Server": server}))
    else:
        say("\n".join(client_lines(about) + (engine_lines(server) if server else [])))
    if problem:
        raise problem
    return 0


COMMANDS = (Command(("version",), "", "Show version information of client and daemon", version,
                    "f|format|string||'json' or a Go template", most=0),)  # fmt: skip
