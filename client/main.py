"""`pyd`: read the global options, find the command, run it, turn its end into an exit code."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from client import PROGRAM, VERSION
from client.errors import ClientError, Exit
from client.options import Command, HelpWanted, flag_lines, help_text, parse, parse_table
from client.registry import COMMON, GROUPS, HIDDEN, NAMES, command
from client.session import Globals, Session

GLOBAL_FLAGS = """
 |config|string||Directory of the configuration files
c|context|string||Context to take the daemon's address from
D|debug|bool||Show a traceback when something goes wrong
H|host|list||Daemon's address (unix:///path or tcp://host:port)
l|log-level|string|info|Accepted for docker's sake
 |tls|bool||Use TLS
 |tlscacert|string||Trust certificates signed by this CA only
 |tlscert|string||TLS certificate file
 |tlskey|string||TLS key file
 |tlsverify|bool||Use TLS and verify the daemon
v|version|bool||Print the version and quit
"""


def main(arguments: list[str] | None = None) -> int:
    """The entry point; the return value is the process's exit code."""
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except Exit as end:
        return end.code
    except ClientError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    finally:
        _flush_quietly()


def _flush_quietly() -> None:
    try:
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(arguments: list[str]) -> int:
    options, rest = _read_globals(arguments)
    if not rest:
        print(_overview())
        return 0
    name, rest = _find(rest)
    if name in GROUPS:
        print(_group_help(name), file=sys.stdout if rest else sys.stderr)
        return 0
    entry = command(name)
    try:
        parsed = parse(entry, name, rest)
    except HelpWanted as wanted:
        print(help_text(wanted.command, wanted.name, _width()))
        return 0
    return entry.run(Session(options), parsed) or 0


def _read_globals(arguments: list[str]) -> tuple[Globals, list[str]]:
    table = Command(("",), "COMMAND", "", lambda session, parsed: 0, flags=GLOBAL_FLAGS, interspersed=False)
    try:
        parsed = parse(table, "", arguments)
    except HelpWanted:
        print(_overview())
        raise Exit(0) from None
    if parsed.on("version"):
        print(f"{PROGRAM} version {VERSION}")
        raise Exit(0)
    return (
        Globals(
            hosts=tuple(parsed.items("host")),
            config=parsed.text("config"),
            context=parsed.text("context"),
            debug=parsed.on("debug"),
            tls=parsed.on("tls"),
            tls_verify=parsed.on("tlsverify"),
            tls_ca=parsed.text("tlscacert"),
            tls_cert=parsed.text("tlscert"),
            tls_key=parsed.text("tlskey"),
        ),
        parsed.arguments,
    )


def _find(arguments: list[str]) -> tuple[str, list[str]]:
    first, *rest = arguments
    if first == "help":
        return _find([*rest, "--help"]) if rest else _leave_with(_overview())
    if first in GROUPS:
        if not rest or rest[0] in ("--help", "-h"):
            return first, rest
        full = f"{first} {rest[0]}"
        if full in NAMES:
            return full, rest[1:]
        _unknown(full, first)
    if first not in NAMES:
        _unknown(first, "")
    return first, rest


def _leave_with(text: str) -> NoReturn:
    print(text)
    raise Exit(0)


def _unknown(name: str, group: str) -> NoReturn:
    import difflib

    near = difflib.get_close_matches(name, NAMES, 3, 0.75)
    suggestion = f"\n\nDid you mean: {', '.join(near)}?" if near else ""
    usage = f"\n\nUsage:  {PROGRAM} {group}" if group else ""
    hint = f"{PROGRAM} {group} --help" if group else f"{PROGRAM} --help"
    raise ClientError(f"{PROGRAM}: unknown command: {PROGRAM} {name}{suggestion}{usage}"
                      f"\n\nRun '{hint}' for more information")  # fmt: skip


def _width() -> int:
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 80


def _listing(names: list[str]) -> list[str]:
    return [f"  {name.split()[-1]:<12}{command(name).summary}" for name in names]


def _overview() -> str:
    plain = sorted(name for name in NAMES if " " not in name and name not in COMMON and name not in HIDDEN)
    lines = [f"Usage:  {PROGRAM} [OPTIONS] COMMAND", "", "A container engine for Linux behind Docker's API", "",
             "Common Commands:", *_listing(list(COMMON)), "", "Management Commands:",
             *(f"  {name:<12}{summary}" for name, summary in GROUPS.items()), "",
             "Commands:", *_listing(plain), "", "Global Options:",
             *flag_lines(parse_table(GLOBAL_FLAGS), _width()), "",
             f"Run '{PROGRAM} COMMAND --help' for more information on a command."]  # fmt: skip
    return "\n".join(lines)


def _group_help(group: str) -> str:
    names = sorted(name for name in NAMES if name.startswith(f"{group} ") and name not in HIDDEN)
    return "\n".join([f"Usage:  {PROGRAM} {group} COMMAND", "", GROUPS[group], "", "Commands:", *_listing(names), "",
                      f"Run '{PROGRAM} {group} COMMAND --help' for more information on a command."])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
