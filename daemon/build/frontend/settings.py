"""Instructions that only change the image's configuration, or the stage's variables."""

from __future__ import annotations

import re
from typing import Any

from daemon.build import imageconfig
from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.source import DockerfileError
from daemon.build.frontend import places
from daemon.build.frontend.site import Site
from daemon.containers import signals
from storage.errors import InvalidArgument

_PORT = re.compile(r"(\d+)(?:-(\d+))?(?:/([A-Za-z]*))?")


def env(site: Site, command: ins.Env) -> None:
    # all values see the variables as they were before the instruction
    pairs = [(site.word(pair.key), site.word(pair.value or "")) for pair in command.pairs]
    for name, value in pairs:
        if not name:
            raise DockerfileError("ENV names can not be blank")
        site.state.image_env[name] = value
        site.state.set(name, value)
    site.history("ENV " + " ".join(f"{name}={value}" for name, value in pairs))


def arg(site: Site, command: ins.Arg) -> None:
    shown = []
    for pair in command.pairs:
        name = site.word(pair.key)
        value = _argument(site, name, pair)
        if value is not None:
            site.state.set(name, value)
        site.state.arguments[name] = value or ""
        shown.append(name if value is None else f"{name}={value}")
    site.history("ARG " + " ".join(shown))


def _argument(site: Site, name: str, pair: ins.Pair) -> str | None:
    """What was asked for, else the default, else what the whole file knows."""
    around = site.around
    if name in around.arguments:
        around.used.add(name)
        given = around.arguments[name]
        if given is not None:
            return given
    return around.globals.get(name) if pair.value is None else site.word(pair.value)


def label(site: Site, command: ins.Label) -> None:
    pairs = [(site.word(pair.key), site.word(pair.value or "")) for pair in command.pairs]
    _add(site, "Labels", dict(pairs))
    site.history("LABEL " + " ".join(f"{key}={value}" for key, value in pairs))


def _add(site: Site, member: str, more: dict[str, Any]) -> None:
    config = site.state.config
    config[member] = {**(config.get(member) or {}), **more}


def maintainer(site: Site, command: ins.Maintainer) -> None:
    site.state.document["author"] = command.who
    site.history(f"MAINTAINER {command.who}")


def cmd(site: Site, command: ins.Cmd) -> None:
    words = _command_line(site, command)
    # BuildKit always says ArgsEscaped; it means something on Windows only
    site.state.config.update(Cmd=words, ArgsEscaped=True)
    site.state.cmd_set = True
    site.history(f"CMD {imageconfig.quoted_list(words)}")


def entrypoint(site: Site, command: ins.Entrypoint) -> None:
    """The base's CMD is no argument of another program."""
    words = _command_line(site, command)
    site.state.config["Entrypoint"] = words
    if not site.state.cmd_set:
        site.state.config.pop("Cmd", None)
    site.history(f"ENTRYPOINT {imageconfig.quoted_list(words)}")


def _command_line(site: Site, command: ins.CommandLine) -> list[str]:
    if not command.shell:
        return list(command.words)
    return [*site.state.shell, " ".join(command.words)]


def shell(site: Site, command: ins.Shell) -> None:
    site.state.config["Shell"] = list(command.words)
    site.history(f"SHELL {imageconfig.plain_list(command.words)}")


def expose(site: Site, command: ins.Expose) -> None:
    words = [word for text in command.ports for word in site.around.lexer.words(text, site.state.env)]
    ports = sorted({port for word in words for port in _ports(word)})
    _add(site, "ExposedPorts", {port: {} for port in ports})
    site.history(f"EXPOSE {imageconfig.plain_list(ports)}")


def _ports(word: str) -> list[str]:
    """`80`, `80/udp`, `80-82`; an address or a host's port in front is dropped (go-connections nat.ParsePortSpec)."""
    front, _, port = word.rpartition(":")
    host = front.rpartition(":")[2]
    if host and not re.fullmatch(r"\d{1,5}(-\d{1,5})?", host):
        raise DockerfileError(f"invalid hostPort: {host}")
    match = _PORT.fullmatch(port)
    if match is None or len(match[1]) > 5 or len(match[2] or "") > 5:
        raise DockerfileError(f"invalid containerPort: {word}")
    first, last, kind = int(match[1]), int(match[2] or match[1]), (match[3] or "tcp").lower()
    if not first <= last <= 65535:
        raise DockerfileError(f"invalid containerPort: {word}")
    if kind not in ("tcp", "udp", "sctp"):
        raise DockerfileError(f'invalid port: "{word}": invalid proto: {match[3]}')
    return [f"{port}/{kind}" for port in range(first, last + 1)]


def volume(site: Site, command: ins.Volume) -> None:
    paths = [site.word(path) for path in command.paths]
    if not all(paths):
        raise DockerfileError("VOLUME specified can not be an empty string")
    _add(site, "Volumes", {path: {} for path in paths})
    site.history(f"VOLUME {imageconfig.plain_list(paths)}")


def user(site: Site, command: ins.User) -> None:
    site.state.config["User"] = name = site.word(command.user)
    site.history(f"USER {name}")


def stop_signal(site: Site, command: ins.StopSignal) -> None:
    signal = site.word(command.signal)
    try:
        if not re.fullmatch(r"0*[1-9]\d{0,8}", signal):  # any number but 0 is taken for one
            signals.parse(signal[:20])
    except InvalidArgument:
        raise DockerfileError(f"invalid signal: {signal}") from None
    site.state.config["StopSignal"] = signal
    site.history(f"STOPSIGNAL {signal}")


def on_build(site: Site, command: ins.OnBuild) -> None:
    config = site.state.config
    config["OnBuild"] = [*(config.get("OnBuild") or ()), command.trigger]


def health_check(site: Site, command: ins.HealthCheck) -> None:
    times = {
        "Interval": command.interval,
        "Timeout": command.timeout,
        "StartPeriod": command.start_period,
        "StartInterval": command.start_interval,
    }
    given = {name: value for name, value in {**times, "Retries": command.retries}.items() if value}
    site.state.config["Healthcheck"] = {"Test": list(command.test), **given}
    spans = " ".join(f'"{imageconfig.duration(each)}"' for each in times.values())
    retries = places.rune(command.retries)
    site.history(f"HEALTHCHECK &{{{imageconfig.quoted_list(command.test)} {spans} {retries}}}")
