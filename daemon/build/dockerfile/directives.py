"""Parser directives: `# name=value` lines at the very top (frontend/dockerfile/parser/directives.go)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from daemon.build.dockerfile.source import DockerfileError, Source, Span

_DIRECTIVE = re.compile(r"#[ \t]*([a-zA-Z][a-zA-Z0-9]*)[ \t]*=[ \t]*(.+?)[ \t]*")
KNOWN = ("escape", "syntax", "check")


@dataclass(frozen=True, slots=True)
class Directives:
    escape: str = "\\"
    syntax: str = ""
    check: str = ""
    """`skip=RuleA,RuleB;error=true`."""
    seen: int = 0
    """How many lines they took."""


def read(source: Source) -> Directives:
    """Those at the top; the first line that is none ends them."""
    found: dict[str, str] = {}
    count = 0
    for number, line in enumerate(source.lines, 1):
        match = _DIRECTIVE.fullmatch(line.strip(" \t\r"))
        name = match[1].lower() if match else ""
        if match is None or name not in KNOWN:
            break
        if name in found:
            raise DockerfileError(
                f"only one {name} parser directive can be used", source, [Span(max(number - 1, 1), number)]
            )
        if name == "escape" and match[2] not in ("\\", "`"):
            raise DockerfileError(
                f"invalid escape token '{match[2]}' does not match ` or \\", source, [Span(number, number)]
            )
        found[name] = match[2]
        count = number
    return Directives(seen=count, **found)


# -- which front end a file is for, Dockerfile or not

_COMMENTS = ("#", "//")
_ANY_DIRECTIVE = r"{}\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*"


@dataclass(frozen=True, slots=True)
class Syntax:
    """`image` is the command line's first word."""

    image: str
    command_line: str
    line: int


def syntax(data: bytes) -> Syntax | None:
    """What `# syntax=`, `// syntax=` or the member `syntax` of JSON says, behind a line `#!` if there is one."""
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    skipped = 0
    if text.startswith("#!"):
        text, skipped = text.partition("\n")[2], 1
    for comment in _COMMENTS:
        if (found := _directive(text, comment)) is not None:
            line, value = found
            return Syntax(value.partition(" ")[0], value, line + skipped)
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text).get("syntax")
        except (ValueError, RecursionError):
            return None
        if isinstance(value, str):
            return Syntax(value, value, skipped)
    return None


def _directive(text: str, comment: str) -> tuple[int, str] | None:
    """The line and the value of the directive `syntax` among those at the top."""
    pattern = re.compile(_ANY_DIRECTIVE.format(comment))
    seen = set()
    for number, line in enumerate(text.split("\n"), 1):
        match = pattern.fullmatch(line.removesuffix("\r"))
        name = match[1].lower() if match else ""
        if match is None or name not in KNOWN or name in seen:
            return None
        seen.add(name)
        if name == "syntax":
            return number, match[2]
    return None
