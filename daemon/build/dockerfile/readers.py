"""One reader an instruction: from its statement to its record (BuildKit frontend/dockerfile/instructions/parse.go)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from daemon.build.dockerfile import flags, lexer, mounts
from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.flags import STRING, STRINGS, SWITCH
from daemon.build.dockerfile.lexer import Statement
from daemon.build.dockerfile.source import DockerfileError, SyntaxProblem, nearest

_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_AT_LEAST_ONE = "{verb} requires at least one argument"
_EXACTLY_ONE = "{verb} requires exactly one argument"
_ONE_OR_THREE = "{verb} requires either one or three arguments"
_NO_TARGET = (
    "{verb} requires at least two arguments, but only one was provided. Destination could not be determined"
)


def read(statement: Statement, escape: str) -> ins.Command | ins.Stage:
    """DockerfileError without a place, SyntaxProblem where BuildKit's own parser says so."""
    verb = statement.name.upper()
    form = FORMS.get(verb)
    if form is None:
        raise DockerfileError(f"unknown instruction: {statement.name}{nearest(verb, tuple(FORMS))}")
    words, rest = flags.cut(statement.rest, escape)
    if form.wraps:
        words, rest = [], statement.rest
    given = flags.read(words, form.options)
    if not rest and form.missing:
        raise DockerfileError(form.missing.format(verb=verb))
    base = {
        "span": statement.span,
        "original": statement.original,
        "name": statement.name,
        "comments": statement.comments,
    }
    return form.reader(Reading(verb, rest, given, statement, escape, base))


@dataclass(frozen=True)
class Reading:
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


def _from(read: Reading) -> ins.Stage:
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


def _command_line(read: Reading) -> dict[str, Any]:
    found = read.json()
    if found is not None:
        return {"words": tuple(found), "shell": False}
    return {"words": (read.rest,), "shell": True}


def _run(read: Reading) -> ins.Run:
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


def _cmd(read: Reading) -> ins.Cmd:
    return ins.Cmd(**_command_line(read), **read.base)


def _entrypoint(read: Reading) -> ins.Entrypoint:
    return ins.Entrypoint(**_command_line(read), **read.base)


def _files(read: Reading) -> dict[str, Any]:
    words = read.words_or_json()
    if len(words) < 2:
        raise DockerfileError(_NO_TARGET.format(verb=read.verb))
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


def _copy(read: Reading) -> ins.Copy:
    origin, parents = read.flags.text("from"), read.flags.on("parents")
    return ins.Copy(**_files(read), origin=origin, parents=parents, **read.base)


def _add(read: Reading) -> ins.Add:
    unpack = read.flags.switches.get("unpack")
    return ins.Add(
        **_files(read),
        checksum=read.flags.text("checksum"),
        keep_git_dir=read.flags.on("keep-git-dir"),
        unpack=unpack,
        **read.base,
    )


def _pairs(read: Reading) -> tuple[ins.Pair, ...]:
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


def _env(read: Reading) -> ins.Env:
    return ins.Env(pairs=_pairs(read), **read.base)


def _label(read: Reading) -> ins.Label:
    return ins.Label(pairs=_pairs(read), **read.base)


def _arg(read: Reading) -> ins.Arg:
    pairs = []
    for word in _quoted_words(read.rest, read.escape):
        key, equals, value = word.partition("=")
        if not key:
            raise DockerfileError("ARG names can not be blank")
        pairs.append(ins.Pair(key, value if equals else None))
    return ins.Arg(pairs=tuple(pairs), **read.base)


def _maintainer(read: Reading) -> ins.Maintainer:
    return ins.Maintainer(who=read.rest, **read.base)


def _expose(read: Reading) -> ins.Expose:
    return ins.Expose(ports=tuple(read.words()), **read.base)


def _volume(read: Reading) -> ins.Volume:
    paths = read.words_or_json()
    if not paths:
        raise DockerfileError("VOLUME requires at least one argument")
    if any(not path.strip() for path in paths):
        raise DockerfileError("VOLUME specified can not be an empty string")
    return ins.Volume(paths=tuple(paths), **read.base)


def _user(read: Reading) -> ins.User:
    return ins.User(user=read.rest, **read.base)


def _workdir(read: Reading) -> ins.Workdir:
    return ins.Workdir(path=read.rest, **read.base)


def _stop_signal(read: Reading) -> ins.StopSignal:
    return ins.StopSignal(signal=read.rest, **read.base)


def _shell(read: Reading) -> ins.Shell:
    words = read.json()
    if words is None:
        raise DockerfileError("SHELL requires the arguments to be in JSON form")
    if not words:
        raise DockerfileError("SHELL requires at least one argument")
    return ins.Shell(words=tuple(words), **read.base)


def _on_build(read: Reading) -> ins.OnBuild:
    verb = read.rest.split(None, 1)[0].upper()
    if verb == "ONBUILD":
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if verb in ("MAINTAINER", "FROM"):
        raise DockerfileError(f"{verb} isn't allowed as an ONBUILD trigger")
    trigger = re.sub(r"(?i)^\s*ONBUILD\s+", "", read.statement.original).strip()
    for head in read.statement.heredocs:
        trigger += f"\n{head.content}{head.name}"
    return ins.OnBuild(trigger=trigger, **read.base)


def _health_check(read: Reading) -> ins.HealthCheck:
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


# -- what may stand in front of the arguments, and what is said when there are none


@dataclass(frozen=True)
class Form:
    """How an instruction is written."""

    reader: Callable[[Reading], ins.Command | ins.Stage]
    options: Mapping[str, str] = field(default_factory=dict)
    missing: str = _AT_LEAST_ONE
    """The error when nothing follows; empty: nothing needs to."""
    wraps: bool = False
    """What follows is an instruction, and so are the options."""


_FILES = {"chown": STRING, "chmod": STRING, "link": SWITCH, "exclude": STRINGS}
FORMS: Mapping[str, Form] = {
    "ADD": Form(
        _add, {**_FILES, "keep-git-dir": SWITCH, "checksum": STRING, "unpack": SWITCH}, missing=_NO_TARGET
    ),
    "ARG": Form(_arg),
    "CMD": Form(_cmd, missing=""),
    "COPY": Form(_copy, {**_FILES, "from": STRING, "parents": SWITCH}, missing=_NO_TARGET),
    "ENTRYPOINT": Form(_entrypoint, missing=""),
    "ENV": Form(_env),
    "EXPOSE": Form(_expose),
    "FROM": Form(_from, {"platform": STRING}, missing=_ONE_OR_THREE),
    "HEALTHCHECK": Form(
        _health_check,
        {
            "interval": STRING,
            "timeout": STRING,
            "start-period": STRING,
            "start-interval": STRING,
            "retries": STRING,
        },
    ),
    "LABEL": Form(_label),
    "MAINTAINER": Form(_maintainer, missing=_EXACTLY_ONE),
    "ONBUILD": Form(_on_build, wraps=True),
    "RUN": Form(
        _run, {"mount": STRINGS, "network": STRING, "security": STRING, "device": STRINGS}, missing=""
    ),
    "SHELL": Form(_shell),
    "STOPSIGNAL": Form(_stop_signal, missing=_EXACTLY_ONE),
    "USER": Form(_user, missing=_EXACTLY_ONE),
    "VOLUME": Form(_volume),
    "WORKDIR": Form(_workdir, missing=_EXACTLY_ONE),
}
