"""Parser directives: `# name=value` lines at the very top (frontend/dockerfile/parser/directives.go)."""

from __future__ import annotations

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
