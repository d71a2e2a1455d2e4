"""--change of docker commit and docker import: Dockerfile instructions applied to a Config.

The instructions that dockerd allows there, each in its shell and its JSON form. Source: moby
builder/dockerfile (BuildFromConfig, validCommitCommands) and the Dockerfile reference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

from daemon.images.model import Json
from storage.errors import InvalidArgument

_SHELL = ["/bin/sh", "-c"]
_VARIABLE = re.compile(r"\\\$|\$(?:\{(\w+)\}|(\w+))")
_PORT = re.compile(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?")
_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")


def apply(config: Mapping[str, object], changes: Sequence[str]) -> Json:
    """A new Config; InvalidArgument names the instruction that is wrong."""
    result: Json = dict(config)
    for line in _lines(changes):
        name, _, rest = line.partition(" ")
        handler = _HANDLERS.get(name.upper())
        if handler is None:
            raise InvalidArgument(f"{name} is not a valid change command")
        if not rest.strip():
            raise InvalidArgument(f"{name.upper()} requires at least one argument")
        handler(result, rest.strip())
    return result


def _lines(changes: Sequence[str]) -> list[str]:
    joined = re.sub(r"\\\s*\n", " ", "\n".join(changes))
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


def _expand(text: str, config: Json) -> str:
    known = dict(entry.partition("=")[::2] for entry in config.get("Env") or ())

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return known.get(name, "") if name else "$"

    return _VARIABLE.sub(value, text)


def _json_form(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        parsed = json.loads(text)
    except ValueError:
        return None
    if isinstance(parsed, list) and all(isinstance(each, str) for each in parsed):
        return parsed
    return None


def _command(config: Json, text: str) -> list[str]:
    return _json_form(text) or ([*(config.get("Shell") or _SHELL), text] if text != "[]" else [])


def _cmd(config: Json, text: str) -> None:
    config["Cmd"] = _command(config, text)


def _entrypoint(config: Json, text: str) -> None:
    config["Entrypoint"] = _command(config, text)


def _shell(config: Json, text: str) -> None:
    words = _json_form(text)
    if words is None:
        raise InvalidArgument("SHELL requires the arguments to be in JSON form")
    config["Shell"] = words


def _env(config: Json, text: str) -> None:
    env = list(config.get("Env") or ())
    for name, value in _pairs("ENV", text):
        entry = f"{name}={_expand(value, config)}"
        places = [n for n, old in enumerate(env) if old.partition("=")[0] == name]
        if places:
            env[places[0]] = entry
        else:
            env.append(entry)
    config["Env"] = env


def _label(config: Json, text: str) -> None:
    labels = {name: _expand(value, config) for name, value in _pairs("LABEL", text)}
    config["Labels"] = {**(config.get("Labels") or {}), **labels}


def _expose(config: Json, text: str) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for word in _expand(text, config).split():
        match = _PORT.fullmatch(word)
        if match is None or not 0 < int(match[1]) <= int(match[2] or match[1]) <= 65535:
            raise InvalidArgument(f"invalid containerPort: {word}")
        for port in range(int(match[1]), int(match[2] or match[1]) + 1):
            ports[f"{port}/{match[3] or 'tcp'}"] = {}
    config["ExposedPorts"] = ports


def _user(config: Json, text: str) -> None:
    config["User"] = _expand(text, config)


def _workdir(config: Json, text: str) -> None:
    path = _expand(_unquote(text), config)
    if not path.startswith("/"):
        path = f"{(config.get('WorkingDir') or '').rstrip('/')}/{path}"
    config["WorkingDir"] = path.rstrip("/") or "/"


def _volume(config: Json, text: str) -> None:
    paths = _json_form(text) or _words(text)
    volumes: Json = {_expand(path, config): {} for path in paths}
    config["Volumes"] = {**(config.get("Volumes") or {}), **volumes}


def _stop_signal(config: Json, text: str) -> None:
    config["StopSignal"] = _expand(text, config)


def _on_build(config: Json, text: str) -> None:
    trigger = text.partition(" ")[0].upper()
    if trigger in ("ONBUILD", "FROM", "MAINTAINER"):
        raise InvalidArgument(f"{trigger} isn't allowed as an ONBUILD trigger")
    config["OnBuild"] = [*(config.get("OnBuild") or ()), text]


def _health_check(config: Json, text: str) -> None:
    check: Json = {}
    fields = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod"}
    fields["start-interval"] = "StartInterval"
    while match := re.match(r"--([a-z-]+)=(\S+)\s+", text):
        name, value = match[1], match[2]
        if name == "retries" and value.isdigit():
            check["Retries"] = int(value)
        elif name in fields:
            check[fields[name]] = _duration(value)
        else:
            raise InvalidArgument(f"unknown flag: {name}")
        text = text[match.end() :]
    kind, _, command = text.partition(" ")
    if kind.upper() == "NONE":
        check = {"Test": ["NONE"]}
    elif kind.upper() == "CMD":
        words = _json_form(command.strip())
        check["Test"] = ["CMD", *words] if words else ["CMD-SHELL", command.strip()]
    else:
        raise InvalidArgument(f"unknown type {kind!r} in HEALTHCHECK (try CMD)")
    config["Healthcheck"] = check


def _duration(text: str) -> int:
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidArgument(f'time: invalid duration "{text}"')
    return int(sum(float(number) * _UNITS[unit] for number, unit in parts))


def _pairs(instruction: str, text: str) -> list[tuple[str, str]]:
    """`a=b c="d e"`, or the old `a b c` with one name."""
    words = _words(text)
    if "=" not in words[0]:
        name, _, value = text.partition(" ")
        if not value:
            raise InvalidArgument(f"{instruction} must have two arguments")
        return [(name, value.strip())]
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
        pairs.append((name, value))
    return pairs


def _words(text: str) -> list[str]:
    """Blanks separate, quotes and backslashes keep together."""
    words = re.findall(r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|\\.|[^\s"'\\])+""", text)
    return [_unquote(word) for word in words]


def _unquote(word: str) -> str:
    def plain(match: re.Match[str]) -> str:
        double, single, escaped = match.groups()
        if double is not None:
            return re.sub(r'\\(["\\])', r"\1", double)
        return single if single is not None else escaped if escaped != "$" else "\\$"

    return re.sub(r"""\"((?:\\.|[^"\\])*)\"|'([^']*)'|\\(.)""", plain, word)


_HANDLERS: dict[str, Callable[[Json, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _health_check,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
