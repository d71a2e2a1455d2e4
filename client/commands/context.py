"""`pyd context`: the addresses that docker and pyd share by name."""

from __future__ import annotations

import os

from client.contexts import Context, all_contexts, create_context, load_context, remove_context
from client.endpoint import host_from_environment, parse_endpoint
from client.errors import ClientError
from client.options import Command, Parsed
from client.render.listing import Fields, show, to_json, unescape
from client.session import Session, each, say, warn

CREATE_FLAGS = """
 |description|string||Description of the context
 |docker|string||Address of the daemon ("host=unix:///run/pyd.sock")
"""
COLUMNS = {
    "Name": "NAME",
    "Description": "DESCRIPTION",
    "DockerEndpoint": "DOCKER ENDPOINT",
    "Error": "ERROR",
}


def _overridden() -> None:
    if host_from_environment():
        name = "PYD_HOST" if os.environ.get("PYD_HOST") else "DOCKER_HOST"
        warn(f"Warning: {name} environment variable overrides the active context. To use a context, either set the "
             f"global --context flag, or unset {name} environment variable.")  # fmt: skip


def list_contexts(session: Session, parsed: Parsed) -> int:
    contexts = all_contexts(session.config_directory)
    if parsed.on("quiet"):
        for context in contexts:
            say(context.name)
        return 0
    plain = parsed.text("format") in ("", "table")
    rows = []
    for context in contexts:
        current = context.name == session.context
        rows.append({"Name": f"{context.name} *" if current and plain else context.name, "Error": "",
                     "Description": context.description, "DockerEndpoint": context.host})  # fmt: skip
    show(rows, COLUMNS, tuple(COLUMNS), parsed.text("format"), kind="*formatter.clientContextContext")
    _overridden()
    return 0


def show_context(session: Session, parsed: Parsed) -> int:
    say(session.context)
    return 0


def use(session: Session, parsed: Parsed) -> int:
    name = parsed.arguments[0]
    load_context(session.config_directory, name)
    if name == "default":
        session.config.data.pop("currentContext", None)
    else:
        session.config.data["currentContext"] = name
    session.config.save()
    say(name)
    warn(f'Current context is now "{name}"')
    _overridden()
    return 0


def inspect(session: Session, parsed: Parsed) -> int:
    names = parsed.arguments or [session.context]
    documents = [load_context(session.config_directory, name).document() for name in names]
    text = parsed.text("format")
    if text and text != "json":
        from client.templates import Template

        for document in documents:
            say(Template(unescape(text)).render(Fields(document, "context")))
        return 0
    say(to_json(documents, indent=4))
    return 0


def create(session: Session, parsed: Parsed) -> int:
    settings = dict(part.partition("=")[::2] for part in parsed.text("docker").split(",") if part)
    unknown = settings.keys() - {"host"}
    if unknown:
        raise ClientError(f"unsupported endpoint settings: {', '.join(sorted(unknown))}")
    host = settings.get("host") or Context("", "", session.endpoint.url).host
    parse_endpoint(host)
    create_context(session.config_directory, parsed.arguments[0], parsed.text("description"), host)
    say(parsed.arguments[0])
    warn(f'Successfully created context "{parsed.arguments[0]}"')
    return 0


def remove(session: Session, parsed: Parsed) -> int:
    def one(name: str) -> None:
        if name == session.config.text("currentContext") and not parsed.on("force"):
            raise ClientError(f'context "{name}" is in use, set -f flag to force remove')
        remove_context(session.config_directory, name)

    return each(parsed.arguments, one)


COMMANDS = (
    Command(("context ls", "context list"), "", "List contexts", list_contexts,
            " |format|string||'table', 'table TEMPLATE', 'json' or a Go template\nq|quiet|bool||Show names only",
            most=0),
    Command(("context show",), "", "Print the name of the current context", show_context, most=0),
    Command(("context use",), "CONTEXT", "Set the current context", use, least=1, most=1),
    Command(("context inspect",), "[CONTEXT] [CONTEXT...]", "Show all about one or more contexts", inspect,
            "f|format|string||'json' or a Go template"),
    Command(("context create",), "CONTEXT", "Create a context", create, CREATE_FLAGS, least=1, most=1),
    Command(("context rm", "context remove"), "CONTEXT [CONTEXT...]", "Remove one or more contexts", remove,
            "f|force|bool||Remove a context even if it is in use", least=1),
)  # fmt: skip
