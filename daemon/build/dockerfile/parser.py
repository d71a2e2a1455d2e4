"""Statements to stages of typed instructions (BuildKit frontend/dockerfile/instructions/parse.go)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from daemon.build.dockerfile import directives, flags, lexer, mounts
from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.directives import Directives
from daemon.build.dockerfile.flags import STRING, STRINGS, SWITCH
from daemon.build.dockerfile.lexer import Lexed, Statement
from daemon.build.dockerfile.source import (
    MAX_SIZE,
    DockerfileError,
    Source,
    Span,
    SyntaxProblem,
    nearest,
)

MAX_STAGES = 2_000
MAX_INSTRUCTIONS = 20_000
"""Far beyond what anybody writes; what comes after costs by the square of some of them."""
_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}

FLAGS: dict[str, dict[str, str]] = {
    "FROM": {"platform": STRING},
    "RUN": {"mount": STRINGS, "network": STRING, "security": STRING, "device": STRINGS},
    "COPY": {
        "from": STRING, "chown": STRING, "chmod": STRING, "link": SWITCH, "parents": SWITCH, "exclude": STRINGS,
    },
    "ADD": {
        "chown": STRING, "chmod": STRING, "link": SWITCH, "keep-git-dir": SWITCH, "checksum": STRING,
        "unpack": SWITCH, "exclude": STRINGS,
    },
    "HEALTHCHECK": {
        "interval": STRING, "timeout": STRING, "start-period": STRING, "start-interval": STRING, "retries": STRING,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Dockerfile:
    source: Source
    directives: Directives
    metaargs: tuple[ins.Arg, ...]
    stages: tuple[ins.Stage, ...]
    empty_continuations: tuple[Span, ...] = ()


def parse(data: bytes | str, name: str = "Dockerfile") -> Dockerfile:
    """The whole language. DockerfileError points at what is wrong."""
    if len(data) > MAX_SIZE:
        raise DockerfileError(f"the Dockerfile is larger than {MAX_SIZE >> 20} MiB")
    text = data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
    written = text.removeprefix("\ufeff").split("\n")
    lines = tuple(line.removesuffix("\r") for line in written) if "\r" in text else tuple(written)
    returns = frozenset(number for number, line in enumerate(written, 1) if line.endswith("\r"))
    source = Source(name, lines, returns)
    if "\0" in text:
        raise DockerfileError("the Dockerfile holds a NUL character", source)
    found = directives.read(source)
    lexed = lexer.lex(source, found)
    if not lexed.statements:
        raise DockerfileError("file with no instructions", source, [Span(1, 1)])
    return _Parsing(source, found, lexed).run()


def parse_trigger(text: str, escape: str, source: Source, span: Span) -> ins.Command:
    """One instruction of an ONBUILD, on its own."""
    statement = lexer.lex(Source(source.name, tuple(text.split("\n"))), Directives(escape=escape)).statements
    if len(statement) != 1:
        raise DockerfileError(f"invalid ONBUILD trigger: {text[:200]}", source, [span])
    parsing = _Parsing(source, Directives(escape=escape), Lexed())
    found = parsing.instruction(replace(statement[0], span=span))
    if isinstance(found, ins.Stage):
        raise DockerfileError("FROM isn't allowed as an ONBUILD trigger", source, [span])
    return found


class _Parsing:
    def __init__(self, source: Source, found: Directives, lexed: Lexed) -> None:
        self._source, self._directives, self._lexed = source, found, lexed
        self._escape = found.escape

    def run(self) -> Dockerfile:
        metaargs: list[ins.Arg] = []
        stages: list[ins.Stage] = []
        commands: list[list[ins.Command]] = []
        if len(self._lexed.statements) > MAX_INSTRUCTIONS:
            raise DockerfileError(f"more than {MAX_INSTRUCTIONS} instructions", self._source)
        for statement in self._lexed.statements:
            parsed = self.instruction(statement)
            if isinstance(parsed, ins.Stage):
                if len(stages) >= MAX_STAGES:
                    raise DockerfileError(f"more than {MAX_STAGES} stages", self._source, [parsed.span])
                stages.append(parsed)
                commands.append([])
            elif stages:
                commands[-1].append(parsed)
            elif isinstance(parsed, ins.Arg):
                metaargs.append(parsed)
            else:
                raise DockerfileError("no build stage in current context", self._source, [parsed.span])
        if not stages:
            raise DockerfileError("dockerfile contains no stages to build", self._source)
        filled = tuple(
            replace(stage, commands=tuple(own)) for stage, own in zip(stages, commands, strict=True)
        )
        empty = tuple(self._lexed.empty_continuations)
        return Dockerfile(self._source, self._directives, tuple(metaargs), filled, empty)

    def instruction(self, statement: Statement) -> ins.Command | ins.Stage:
        try:
            return self._instruction(statement)
        except DockerfileError as error:
            if error.source is not None:
                raise
            sentence = error.sentence
            if not isinstance(error, SyntaxProblem):
                sentence = f"dockerfile parse error on line {statement.span.first}: {sentence}"
            raise DockerfileError(sentence, self._source, [statement.span]) from None

    def _instruction(self, statement: Statement) -> ins.Command | ins.Stage:
        verb = statement.name.upper()
        reader = _READERS.get(verb)
        if reader is None:
            raise DockerfileError(f"unknown instruction: {statement.name}{nearest(verb, tuple(_READERS))}")
        words, rest = flags.cut(statement.rest, self._escape)
        if verb not in ("ONBUILD",):
            given = flags.read(words, FLAGS.get(verb, {}))
        else:
            given, rest = flags.read([], {}), statement.rest
        if not rest and verb not in ("CMD", "ENTRYPOINT", "RUN"):
            raise DockerfileError(_TOO_FEW.get(verb, f"{verb} requires at least one argument"))
        base = {
            "span": statement.span,
            "original": statement.original,
            "name": statement.name,
            "comments": statement.comments,
        }
        return reader(_Read(verb, rest, given, statement, self._escape, base))


_NO_TARGET = "requires at least two arguments, but only one was provided. Destination could not be determined"
_TOO_FEW = {
    "ADD": f"ADD {_NO_TARGET}",
    "COPY": f"COPY {_NO_TARGET}",
    "FROM": "FROM requires either one or three arguments",
    "USER": "USER requires exactly one argument",
    "WORKDIR": "WORKDIR requires exactly one argument",
    "STOPSIGNAL": "STOPSIGNAL requires exactly one argument",
    "MAINTAINER": "MAINTAINER requires exactly one argument",
}


@dataclass(frozen=True)
class _Read:
    """One instruction being read: the text behind its flags, and what every record takes over."""

    verb: str
    rest: str
    flags: flags.Flags
    statement: Statement
    escape: str
    base: dict[str, Any]

    def words(self) -> list[str]:
        return self.rest.split()

    def json(self) -> list[str] | None:
        """The JSON form; None when it is not: such a text then is the shell's."""
        if not self.rest.startswith("["):
            return None
        try:
            found = json.loads(self.rest)
        except (ValueError, RecursionError):
            return None
        if isinstance(found, list) and all(isinstance(word, str) for word in found):
            return found
        return None

    def words_or_json(self) -> list[str]:
        found = self.json()
        return self.words() if found is None else found


# -- one reader an instruction


def _from(read: _Read) -> ins.Stage:
    words = read.words()
    if len(words) not in (1, 3):
        raise DockerfileError("FROM requires either one or three arguments")
    alias = ""
    if len(words) == 3:
        if words[1].upper() != "AS":
            raise DockerfileError("FROM requires either one or three arguments")
        alias = words[2].lower()
        if not _STAGE_NAME.fullmatch(alias):
            raise DockerfileError(
                f'invalid name for build stage: "{words[2]}", name can\'t start with a number or contain symbols'
            )
    return ins.Stage(base=words[0], alias=alias, platform=read.flags.text("platform"), **read.base)


def _command_line(read: _Read) -> dict[str, Any]:
    found = read.json()
    if found is not None:
        return {"words": tuple(found), "shell": False}
    return {"words": (read.rest,), "shell": True}


def _run(read: _Read) -> ins.Run:
    network = read.flags.text("network") or "default"
    if network not in ("default", "none", "host"):
        raise DockerfileError(
            f'invalid network mode "{network}"{nearest(network, ("default", "none", "host"))}'
        )
    security = read.flags.text("security") or "sandbox"
    if security not in ("sandbox", "insecure"):
        raise DockerfileError(
            f'unsupported security mode "{security}"{nearest(security, ("sandbox", "insecure"))}'
        )
    return ins.Run(
        **_command_line(read),
        heredocs=read.statement.heredocs,
        mounts=tuple(mounts.parse(text) for text in read.flags.all("mount")),
        network=network,
        security=security,
        devices=read.flags.all("device"),
        **read.base,
    )


def _cmd(read: _Read) -> ins.Cmd:
    return ins.Cmd(**_command_line(read), **read.base)


def _entrypoint(read: _Read) -> ins.Entrypoint:
    return ins.Entrypoint(**_command_line(read), **read.base)


def _files(read: _Read) -> dict[str, Any]:
    words = read.words_or_json()
    if len(words) < 2:
        raise DockerfileError(_TOO_FEW[read.verb])
    inline = {head.name: head for head in read.statement.heredocs}
    sources: list[str] = []
    heredocs: list[lexer.Heredoc] = []
    for word in words[:-1]:
        head = lexer.heredoc_head(word) if "<<" in word else None
        if head is not None and head.name in inline:
            heredocs.append(inline[head.name])
        else:
            sources.append(word)
    return {
        "sources": tuple(sources),
        "heredocs": tuple(heredocs),
        "target": words[-1],
        "chown": read.flags.text("chown"),
        "chmod": read.flags.text("chmod"),
        "link": read.flags.on("link"),
        "excludes": read.flags.all("exclude"),
    }


def _copy(read: _Read) -> ins.Copy:
    origin, parents = read.flags.text("from"), read.flags.on("parents")
    return ins.Copy(**_files(read), origin=origin, parents=parents, **read.base)


def _add(read: _Read) -> ins.Add:
    unpack = read.flags.switches.get("unpack")
    return ins.Add(
        **_files(read),
        checksum=read.flags.text("checksum"),
        keep_git_dir=read.flags.on("keep-git-dir"),
        unpack=unpack,
        **read.base,
    )


def _pairs(read: _Read) -> tuple[ins.Pair, ...]:
    """`a=b c="d e"`, or the old `a b c`; quotes stay for the expansion to take off."""
    words = _quoted_words(read.rest, read.escape)
    if "=" not in words[0]:
        parts = read.rest.split(None, 1)
        if len(parts) < 2:
            raise SyntaxProblem(f"{read.verb} must have two arguments")
        return (ins.Pair(parts[0], parts[1], bare=True),)
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise SyntaxProblem(f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value')
        if not key:
            raise DockerfileError(f"{read.verb} names can not be blank")
        found.append(ins.Pair(key, value))
    return tuple(found)


def _quoted_words(text: str, escape: str) -> list[str]:
    """Split at blanks outside quotes; quotes and escapes stay in the words (parser.parseWords)."""
    words: list[str] = []
    begin = -1
    quote = ""
    at = 0
    while at < len(text):
        character = text[at]
        if begin < 0:
            if character.isspace():
                at += 1
                continue
            begin = at
        if character == escape and quote != "'":
            at += 2
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character.isspace():
            words.append(text[begin:at])
            begin = -1
        at += 1
    if begin >= 0:
        words.append(text[begin:])
    return words


def _env(read: _Read) -> ins.Env:
    return ins.Env(pairs=_pairs(read), **read.base)


def _label(read: _Read) -> ins.Label:
    return ins.Label(pairs=_pairs(read), **read.base)


def _arg(read: _Read) -> ins.Arg:
    pairs = []
    for word in _quoted_words(read.rest, read.escape):
        key, equals, value = word.partition("=")
        if not key:
            raise DockerfileError("ARG names can not be blank")
        pairs.append(ins.Pair(key, value if equals else None))
    return ins.Arg(pairs=tuple(pairs), **read.base)


def _maintainer(read: _Read) -> ins.Maintainer:
    return ins.Maintainer(who=read.rest, **read.base)


def _expose(read: _Read) -> ins.Expose:
    return ins.Expose(ports=tuple(read.words()), **read.base)


def _volume(read: _Read) -> ins.Volume:
    paths = read.words_or_json()
    if not paths:
        raise DockerfileError("VOLUME requires at least one argument")
    if any(not path.strip() for path in paths):
        raise DockerfileError("VOLUME specified can not be an empty string")
    return ins.Volume(paths=tuple(paths), **read.base)


def _user(read: _Read) -> ins.User:
    return ins.User(user=read.rest, **read.base)


def _workdir(read: _Read) -> ins.Workdir:
    return ins.Workdir(path=read.rest, **read.base)


def _stop_signal(read: _Read) -> ins.StopSignal:
    return ins.StopSignal(signal=read.rest, **read.base)


def _shell(read: _Read) -> ins.Shell:
    words = read.json()
    if words is None:
        raise DockerfileError("SHELL requires the arguments to be in JSON form")
    if not words:
        raise DockerfileError("SHELL requires at least one argument")
    return ins.Shell(words=tuple(words), **read.base)


def _on_build(read: _Read) -> ins.OnBuild:
    verb = read.rest.split(None, 1)[0].upper()
    if verb == "ONBUILD":
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if verb in ("MAINTAINER", "FROM"):
        raise DockerfileError(f"{verb} isn't allowed as an ONBUILD trigger")
    trigger = re.sub(r"(?i)^\s*ONBUILD\s+", "", read.statement.original).strip()
    for head in read.statement.heredocs:
        trigger += f"\n{head.content}{head.name}"
    return ins.OnBuild(trigger=trigger, **read.base)


def _health_check(read: _Read) -> ins.HealthCheck:
    parts = read.rest.split(None, 1)
    kind, rest = parts[0].upper(), parts[1] if len(parts) > 1 else ""
    if kind == "NONE":
        if rest:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        return ins.HealthCheck(test=("NONE",), **read.base)
    if kind != "CMD":
        raise DockerfileError(f'Unknown type "{kind}" in HEALTHCHECK (try CMD)')
    if not rest:
        raise DockerfileError("Missing command after HEALTHCHECK CMD")
    words = replace(read, rest=rest).json()
    if words is not None and not words:
        raise DockerfileError("Missing command after HEALTHCHECK CMD")
    retries = read.flags.text("retries")
    if re.fullmatch(r"-\d+", retries):
        raise DockerfileError(f"--retries cannot be negative ({retries[:20]})")
    if retries and (not retries.isdigit() or len(retries) > 9):
        raise DockerfileError(f'strconv.ParseInt: parsing "{retries}": invalid syntax')
    return ins.HealthCheck(
        test=("CMD-SHELL", rest) if words is None else ("CMD", *words),
        shell=words is None,
        interval=_duration(read.flags.text("interval"), "interval"),
        timeout=_duration(read.flags.text("timeout"), "timeout"),
        start_period=_duration(read.flags.text("start-period"), "start-period"),
        start_interval=_duration(read.flags.text("start-interval"), "start-interval"),
        retries=int(retries or 0),
        **read.base,
    )


def _duration(text: str, name: str) -> int:
    if not text or text == "0":
        return 0
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text or len(text) > 64:
        raise DockerfileError(f'time: invalid duration "{text}"')
    found = int(sum(float(number) * _UNITS[unit] for number, unit in parts))
    if 0 < found < 10**6:
        raise DockerfileError(f'Interval "{name}" cannot be less than 1ms')
    return found


_READERS: dict[str, Callable[[_Read], ins.Command | ins.Stage]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _health_check,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _on_build,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
