"""Checks of single flag values that docker makes before it asks the daemon."""

from __future__ import annotations

import ipaddress
import os
import re

from client.errors import ClientError

_SYSCTLS = frozenset(("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
                      "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"))  # fmt: skip
_LABEL = r"[a-zA-Z0-9_](?:[a-zA-Z0-9_-]*[a-zA-Z0-9_])?"
_DOMAIN = re.compile(rf"({_LABEL}(?:\.{_LABEL})*)\.?")


def attach(text: str) -> str:
    if text.lower() not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def environment(text: str) -> str:
    """`NAME=value`, or `NAME` to take the value from this environment where it has one."""
    name, equals, _ = text.partition("=")
    if not name:
        raise ValueError(f"invalid environment variable: {text}")
    return text if equals or name not in os.environ else f"{name}={os.environ[name]}"


def label(text: str) -> str:
    name = text.partition("=")[0].lstrip(" \t")
    if not name:
        raise ValueError(f"invalid label '{text}': empty name")
    if any(space in name for space in " \t"):
        raise ValueError(f"label '{name}' contains whitespaces")
    return text


def address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise ValueError(f"IP address is not correctly formatted: {text}") from None


def search_domain(text: str) -> str:
    text = text.strip(" ")
    if text == ".":
        return text
    match = _DOMAIN.fullmatch(text)
    if match is None or not re.search("[a-zA-Z]", text) or len(match[1]) >= 255:
        raise ValueError(f"{text} is not a valid domain")
    return match[1]


def extra_host(text: str) -> str:
    """`name:ip`, `name=ip`, `name:[ip]` or `name:host-gateway`, to the API's `name:ip`."""
    name, separator, target = text.partition("=")
    if not separator:
        name, separator, target = text.partition(":")
    if not separator or not name or ":" in name:
        raise ValueError(f'bad format for add-host: "{text}"')
    if target != "host-gateway":
        if len(target) > 2 and target[0] == "[" and target[-1] == "]":
            target = target[1:-1]
        try:
            ipaddress.ip_address(target)
        except ValueError:
            raise ValueError(f'invalid IP address in add-host: "{target}"') from None
    return f"{name}:{target}"


def link(text: str) -> str:
    parts = text.split(":")
    if not text:
        raise ValueError("empty string specified for links")
    if len(parts) > 2:
        raise ValueError(f"bad format for links: {text}")
    return text


def sysctl(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    known = name in _SYSCTLS or name.startswith(("net.", "fs.mqueue."))
    if not equals or not known:
        raise ValueError(f"sysctl '{text}' is not allowed")
    return name, value


def read_pairs(path: str, *, from_environment: bool) -> list[str]:
    """Lines of an --env-file or --label-file: comments and empty lines are left out, values are kept as they are.

    A name without `=` is left out, unless it may take its value from the environment and that has one.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except UnicodeDecodeError:
        raise ClientError(f"invalid utf8 bytes in {path}") from None
    except OSError as error:
        raise ClientError(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    pairs = []
    for number, raw in enumerate(lines, 1):
        line = raw.lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, _ = line.partition("=")
        if not name:
            raise ClientError(f"no variable name on line {line!r} of {path}:{number}".replace("'", '"'))
        if any(space in name for space in " \t"):
            raise ClientError(f"variable '{name}' contains whitespaces")
        if equals:
            pairs.append(line)
        elif from_environment and name in os.environ:
            pairs.append(f"{name}={os.environ[name]}")
    return pairs


def to_map(pairs: list[str]) -> dict[str, str]:
    """`key=value` texts to a dictionary; no `=` means an empty value."""
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
