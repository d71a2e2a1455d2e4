"""What can be asked about a Dockerfile instead of building it: `docker build --check`, `--call=outline|targets`.

Source: BuildKit frontend/subrequests (lint, outline, targets) for the documents and the tables.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from daemon.build.dockerfile import checks
from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.parser import Dockerfile
from daemon.build.dockerfile.source import DockerfileError, Span, nearest, place_of
from daemon.build.dockerfile.words import Lexer
from daemon.build.frontend.options import Options

DESCRIBE, LINT = "frontend.subrequests.describe", "frontend.lint"
OUTLINE, TARGETS = "frontend.outline", "frontend.targets"
KNOWN = (DESCRIBE, LINT, OUTLINE, TARGETS)
_VERSION = b"1.0.0"
Json = dict[str, Any]


def answer(request: str, dockerfile: Dockerfile, options: Options) -> dict[str, bytes]:
    """The result's metadata: result.json, result.txt, version."""
    if request == OUTLINE:
        return _document(*_outline(dockerfile, options))
    if request == TARGETS:
        return _document(*_targets(dockerfile))
    return _document(_described(), _table(("NAME", "VERSION", "DESCRIPTION"), _rows()))


def _document(document: Any, text: str) -> dict[str, bytes]:
    body = json.dumps(document, indent=2, ensure_ascii=False).encode("utf-8", "replace")
    return {"result.json": body, "result.txt": text.encode("utf-8", "replace"), "version": _VERSION}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], gap: int = 3) -> str:
    lines = [head, *rows]
    widths = [max(len(line[n]) for line in lines) + gap for n in range(len(head))]
    shown = []
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)]
        shown.append("".join([*cells, line[-1]]))
    return "\n".join(shown) + "\n"


def _location(span: Span) -> Json:
    return {"ranges": [{"start": {"line": span.first}, "end": {"line": span.last}}]}


def _text(dockerfile: Dockerfile) -> str:
    data = "\n".join(dockerfile.source.lines).encode("utf-8", "surrogateescape")
    return base64.b64encode(data).decode()


# -- lint


def lint(dockerfile: Dockerfile, found: list[checks.Finding], problem: Exception | None) -> dict[str, bytes]:
    """As `answer`, and result.statuscode. `problem`: what a build would fail with."""
    warnings = [
        {
            "ruleName": each.rule,
            "description": checks.DESCRIPTIONS.get(each.rule, ""),
            "url": each.url,
            "detail": each.text,
            "location": _location(each.span),
        }
        for each in found
    ]
    source = {"filename": dockerfile.source.name, "language": "Dockerfile", "data": _text(dockerfile)}
    parts = []
    for each in found:
        excerpt = dockerfile.source.excerpt(each.span)
        parts.append(f"\nWARNING: {each.rule} - {each.url}\n{each.text}\n{excerpt}\n")
    document: Json = {"warnings": warnings, "sources": [source]}
    if problem is not None:
        message = problem.sentence if isinstance(problem, DockerfileError) else str(problem)
        place = place_of(problem)
        spans = place[1] if place else ()
        ranges = [_location(span)["ranges"][0] for span in spans]
        document["buildError"] = {"message": message, "location": {"ranges": ranges} if ranges else {}}
        parts.append(f"\nERROR: {message}\n{dockerfile.source.excerpt(*spans)}\n")
    answered = _document(document, "".join(parts))
    return answered | {"result.statuscode": b"1" if found or problem else b"0"}


# -- outline


def _outline(dockerfile: Dockerfile, options: Options) -> tuple[Json, str]:
    """The arguments, secrets and agents that the target and the stages below it take."""
    stages = _chain(dockerfile, options.target)
    values: dict[str, str] = {}
    arguments: dict[str, Json] = {}
    declared: list[ins.Arg] = list(dockerfile.metaargs)
    declared += [command for stage in stages for command in stage.commands if isinstance(command, ins.Arg)]
    lexer = Lexer(dockerfile.directives.escape)
    for command in declared:
        for pair in command.pairs:
            given = options.arguments.get(pair.key)
            default = None if pair.value is None else _expanded(lexer, pair.value, values)
            value = given if given is not None else default
            if value is not None:
                values[pair.key] = value
            found = {"name": pair.key, "description": _comment(command.comments, pair.key), "value": value}
            arguments.setdefault(
                pair.key, {k: v for k, v in found.items() if v} | {"location": _location(command.span)}
            )
    mounts = list(_mounts(stages))
    secrets = {name: each for kind, name, each in mounts if kind == "secret"}
    agents = {name: each for kind, name, each in mounts if kind == "ssh"}
    target = stages[0]
    document: Json = {"name": target.alias} if target.alias else {}
    if description := _comment(target.comments, target.alias):
        document["description"] = description
    for name, rows in (("args", arguments), ("secrets", secrets), ("ssh", agents)):
        if rows:
            document[name] = list(rows.values())
    document["sources"] = [_text(dockerfile)]
    return document, _outline_text(document)


def _outline_text(document: Json) -> str:
    parts = []
    if document.get("name") or document.get("description"):
        rows = [("TARGET:", document.get("name") or "(default)")]
        rows += [("DESCRIPTION:", document["description"])] if document.get("description") else []
        parts.append(_table(rows[0], rows[1:], 1))
    if args := document.get("args"):
        rows3 = [(a["name"], a.get("value", ""), a.get("description", "")) for a in args]
        parts.append(_table(("BUILD ARG", "VALUE", "DESCRIPTION"), rows3))
    for name, title in (("secrets", "SECRET"), ("ssh", "SSH")):
        if mounts := document.get(name):
            rows = [(m["name"], "true" if m.get("required") else "") for m in mounts]
            parts.append(_table((title, "REQUIRED"), rows))
    return "".join(f"{part}\n" for part in parts)


def _chain(dockerfile: Dockerfile, target: str) -> list[ins.Stage]:
    """The target and the stages that it is built FROM."""
    by_name = {stage.alias: stage for stage in dockerfile.stages if stage.alias}
    stage = dockerfile.stages[-1]
    if target:
        chosen = by_name.get(target.lower())
        if chosen is None:
            hint = nearest(target, tuple(by_name))
            raise DockerfileError(f'target stage "{target}" could not be found{hint}')
        stage = chosen
    found = [stage]
    while (below := by_name.get(stage.base.lower())) is not None and below not in found:
        found.append(below)
        stage = below
    return found


def _mounts(stages: Sequence[ins.Stage]) -> Iterator[tuple[str, str, Json]]:
    for stage in stages:
        for command in stage.commands:
            if not isinstance(command, ins.Run):
                continue
            for mount in command.mounts:
                if mount.kind in ("secret", "ssh"):
                    last = mount.target.rpartition("/")[2]
                    name = mount.id or mount.source or ("default" if mount.kind == "ssh" else last)
                    required = {"required": True} if mount.required else {}
                    yield mount.kind, name, {"name": name, **required, "location": _location(command.span)}


def _expanded(lexer: Lexer, text: str, values: Mapping[str, str]) -> str:
    try:
        return lexer.word(text, values)
    except DockerfileError:
        return text


def _comment(comments: Sequence[str], name: str) -> str:
    """`# NAME what it is` right above."""
    for line in reversed(comments):
        first, _, rest = line.partition(" ")
        if name and first.lower() == name.lower():
            return rest.strip()
    return ""


# -- targets


def _targets(dockerfile: Dockerfile) -> tuple[Json, str]:
    rows: list[Json] = []
    last = len(dockerfile.stages) - 1
    for number, stage in enumerate(dockerfile.stages):
        found: Json = {
            "name": stage.alias,
            "default": number == last,
            "description": _comment(stage.comments, stage.alias),
            "base": stage.base,
            "platform": stage.platform,
        }
        rows.append({k: v for k, v in found.items() if v} | {"location": _location(stage.span)})
    shown = []
    for row in rows:
        name = row.get("name", "")
        if row.get("default"):
            name = f"{name} (default)" if name else "(default)"
        shown.append((name, row.get("description", "")))
    return {"targets": rows, "sources": [_text(dockerfile)]}, _table(("TARGET", "DESCRIPTION"), shown, 1)


# -- describe

_DESCRIPTIONS = {
    OUTLINE: "List all parameters current build target supports",
    TARGETS: "List all targets current build supports",
    LINT: "Lint a Dockerfile",
    DESCRIBE: "List available subrequest types",
}


def _described() -> list[Json]:
    return [
        {
            "name": name,
            "version": _VERSION.decode(),
            "type": "rpc",
            "description": text,
            "opts": [{"name": "target", "description": "Target build stage"}] if name == OUTLINE else [],
            "metadata": [{"name": "result.json"}, {"name": "result.txt"}],
        }
        for name, text in _DESCRIPTIONS.items()
    ]


def _rows() -> list[tuple[str, str, str]]:
    return [(name, _VERSION.decode(), text) for name, text in _DESCRIPTIONS.items()]
