"""RUN --mount=type=bind|cache|tmpfs|secret|ssh,key=value,... (instructions/commands_runmount.go)."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass

from daemon.build.dockerfile.source import SyntaxProblem, nearest

KINDS = ("bind", "cache", "tmpfs", "secret", "ssh")
SHARING = ("shared", "private", "locked")
_KEYS = (
    "type", "from", "source", "src", "target", "dst", "destination", "readonly", "ro", "readwrite", "rw",
    "required", "size", "id", "sharing", "mode", "uid", "gid", "env",
)  # fmt: skip
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
        _field(field, kind, found)
    return _checked(Mount(**found), found)  # type: ignore[arg-type]


def _field(field: str, kind: str, found: dict[str, object]) -> None:
    key, equals, value = field.partition("=")
    key = key.strip().lower()
    if key not in _KEYS:
        raise SyntaxProblem(f"unexpected key '{key}' in '{field}'{nearest(key, _KEYS)}")
    if key in ("readonly", "ro", "readwrite", "rw"):
        on = _boolean(key, value) if equals else True
        if kind in ("secret", "ssh", "tmpfs") and key in ("readwrite", "rw"):
            raise SyntaxProblem(f"unexpected key '{key}' for mount type '{kind}'")
        found["readonly"] = on if key in ("readonly", "ro") else not on
    elif key == "required":
        if kind not in ("secret", "ssh"):
            raise SyntaxProblem(f"unexpected key '{key}' for mount type '{kind}'")
        found["required"] = _boolean(key, value) if equals else True
    elif not equals:
        raise SyntaxProblem(f"invalid field '{field}' must be a key=value pair")
    elif key in ("mode", "uid", "gid"):
        found[key] = _number(key, value, kind)
    elif key == "size":
        found["size"] = _bytes(value, kind)
    else:
        _text(key, value, kind, found)


def _text(key: str, value: str, kind: str, found: dict[str, object]) -> None:
    if key == "sharing":
        if value.lower() not in SHARING:
            raise SyntaxProblem(f'unsupported sharing value "{value}"{nearest(value, SHARING)}')
        found["sharing"] = value.lower()
    elif key in ("source", "src"):
        found["source"] = value
    elif key in ("target", "dst", "destination"):
        found["target"] = value
    elif key == "from":
        found["origin"] = value
    elif key == "env":
        if kind != "secret":
            raise SyntaxProblem(f"unexpected key 'env' for mount type '{kind}'")
        found["env"] = value
    elif key == "id":
        found["id"] = value


def _boolean(key: str, value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0"):
        raise SyntaxProblem(f"invalid value for {key}: {value}")
    return value.lower() in ("true", "1")


def _number(key: str, value: str, kind: str) -> int:
    if kind not in ("cache", "secret", "ssh", "tmpfs"):
        raise SyntaxProblem(f"unexpected key '{key}' for mount type '{kind}'")
    base = 8 if key == "mode" else 10
    digits = "01234567" if base == 8 else "0123456789"
    if not value or set(value) - set(digits) or len(value) > 10:
        raise SyntaxProblem(f"invalid value {value} for {key}")
    return int(value, base)


def _bytes(value: str, kind: str) -> int:
    match = _SIZE.fullmatch(value)
    if kind != "tmpfs":
        raise SyntaxProblem(f"unexpected key 'size' for mount type '{kind}'")
    if match is None:
        raise SyntaxProblem(f"invalid value for size: {value}")
    return int(float(match[1]) * _FACTORS[match[2].lower()])


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
