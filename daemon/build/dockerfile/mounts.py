"""RUN --mount=type=bind|cache|tmpfs|secret|ssh,key=value,... (instructions/commands_runmount.go)."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass

from daemon.build.dockerfile.source import SyntaxProblem, nearest

KINDS = ("bind", "cache", "tmpfs", "secret", "ssh")
SHARING = ("shared", "private", "locked")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kmgtp]?)(i?b?)", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


@dataclass(frozen=True)
class Mount:
    """One --mount. Texts may hold variables: type, from, source, target, id."""

    kind: str = "bind"
    origin: str = ""
    source: str = ""
    target: str = ""
    readonly: bool = False
    required: bool = False
    size: int = 0
    id: str = ""
    sharing: str = "shared"
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str = ""


def parse(text: str) -> Mount:
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise SyntaxProblem(f"failed to parse mount {text!r}: {error}") from None
    kind = "bind"
    for field in fields:
        key, _, value = field.partition("=")
        if key.strip().lower() == "type":
            kind = value.lower()
    if kind not in KINDS and "$" not in kind:
        raise SyntaxProblem(f'unsupported mount type "{kind}"{nearest(kind, KINDS)}')
    found: dict[str, object] = {"kind": kind, "readonly": kind in ("bind", "secret", "ssh")}
    for field in fields:
        name, read = _field(field, kind)
        found[name] = read
    return _checked(Mount(**found), found)  # type: ignore[arg-type]


def _field(field: str, kind: str) -> tuple[str, object]:
    """Which of Mount's fields `key=value` sets, and to what."""
    name, equals, value = field.partition("=")
    name = name.strip().lower()
    key = _KEYS.get(name)
    if key is None:
        raise SyntaxProblem(f"unexpected key '{name}' in '{field}'{nearest(name, tuple(_KEYS))}")
    if not equals and key.bare is None:
        raise SyntaxProblem(f"invalid field '{field}' must be a key=value pair")
    if key.only and kind not in key.only:
        raise SyntaxProblem(f"unexpected key '{name}' for mount type '{kind}'")
    return key.field, key.read(name, value) if equals else key.bare


# -- values


def _text(key: str, value: str) -> str:
    return value


def _word(key: str, value: str) -> str:
    return value.lower()


def _boolean(key: str, value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0"):
        raise SyntaxProblem(f"invalid value for {key}: {value}")
    return value.lower() in ("true", "1")


def _opposite(key: str, value: str) -> bool:
    return not _boolean(key, value)


def _decimal(key: str, value: str) -> int:
    return _number(key, value, "0123456789")


def _octal(key: str, value: str) -> int:
    return _number(key, value, "01234567")


def _number(key: str, value: str, digits: str) -> int:
    if not value or set(value) - set(digits) or len(value) > 10:
        raise SyntaxProblem(f"invalid value {value} for {key}")
    return int(value, len(digits))


def _bytes(key: str, value: str) -> int:
    match = _SIZE.fullmatch(value)
    if match is None:
        raise SyntaxProblem(f"invalid value for {key}: {value}")
    return int(float(match[1]) * _FACTORS[match[2].lower()])


def _sharing(key: str, value: str) -> str:
    if value.lower() not in SHARING:
        raise SyntaxProblem(f'unsupported sharing value "{value}"{nearest(value, SHARING)}')
    return value.lower()


@dataclass(frozen=True)
class _Key:
    """What a key sets, and how its value is read."""

    field: str
    read: Callable[[str, str], object] = _text
    bare: bool | None = None
    """What it means without a value; None: it needs one."""
    only: tuple[str, ...] = ()
    """Kinds of mounts that know it; empty: all."""


_OWNED = ("cache", "tmpfs", "secret", "ssh")
_WRITABLE = ("bind", "cache", "tmpfs")
_KEYS = {
    "type": _Key("kind", _word),
    "from": _Key("origin"),
    "source": _Key("source"),
    "src": _Key("source"),
    "target": _Key("target"),
    "dst": _Key("target"),
    "destination": _Key("target"),
    "readonly": _Key("readonly", _boolean, bare=True),
    "ro": _Key("readonly", _boolean, bare=True),
    "readwrite": _Key("readonly", _opposite, bare=False, only=_WRITABLE),
    "rw": _Key("readonly", _opposite, bare=False, only=_WRITABLE),
    "required": _Key("required", _boolean, bare=True, only=("secret", "ssh")),
    "size": _Key("size", _bytes, only=("tmpfs",)),
    "id": _Key("id"),
    "sharing": _Key("sharing", _sharing),
    "mode": _Key("mode", _octal, only=_OWNED),
    "uid": _Key("uid", _decimal, only=_OWNED),
    "gid": _Key("gid", _decimal, only=_OWNED),
    "env": _Key("env", only=("secret",)),
}
"""`from` and `sharing` are looked at in the end: which kinds know them, other errors come before."""


def _checked(mount: Mount, given: dict[str, object]) -> Mount:
    if mount.origin and mount.kind not in ("bind", "cache"):
        raise SyntaxProblem(f"unexpected key 'from' for mount type '{mount.kind}'")
    if "sharing" in given and mount.kind != "cache":
        raise SyntaxProblem(f"unexpected key 'sharing' for mount type '{mount.kind}'")
    if mount.kind in ("bind", "cache", "tmpfs") and not mount.target:
        raise SyntaxProblem(
            'invalid mount target "/"' if mount.kind == "cache" else 'invalid mount target ""'
        )
    if mount.kind == "secret" and not (mount.id or mount.source or mount.target):
        raise SyntaxProblem("invalid secret mount. one of source, target required")
    return mount
