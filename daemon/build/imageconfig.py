"""The configuration of the image that a stage is becoming: OCI's document with Docker's members.

History entries are worded as BuildKit words them (frontend/dockerfile/dockerfile2llb), Go's formats included.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

Json = dict[str, Any]
COMMENT = "buildkit.dockerfile.v0"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def empty(architecture: str, variant: str = "") -> Json:
    """FROM scratch."""
    document: Json = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": [f"PATH={DEFAULT_PATH}"], "WorkingDir": "/"},
        "history": [],
    }
    return document | ({"variant": variant} if variant else {})


def inherited(base: Mapping[str, Any]) -> Json:
    """A base image's document, to be changed: its layers and history stay, its ONBUILD triggers are taken."""
    document = copy.deepcopy(dict(base))
    for name in ("created", "id", "parent", "container", "container_config", "docker_version", "comment"):
        document.pop(name, None)
    config = document["config"] = dict(document.get("config") or {})
    for name in ("Hostname", "Domainname", "Image", "OnBuild"):
        config.pop(name, None)
    env = list(config.get("Env") or ())
    if not any(entry.partition("=")[0] == "PATH" for entry in env):
        env.append(f"PATH={DEFAULT_PATH}")
    config["Env"] = env
    document["history"] = list(document.get("history") or ())
    document["rootfs"] = document.get("rootfs") or {}
    return document


def add_history(document: Json, text: str, *, layer: bool, files: bool = False) -> None:
    """`files`: an instruction that BuildKit marks as its own."""
    entry: Json = {"created_by": text + (" # buildkit" if files else ""), "comment": COMMENT}
    document["history"].append(entry if layer else entry | {"empty_layer": True})


def environment(env: Iterable[str]) -> dict[str, str]:
    return {entry.partition("=")[0]: entry.partition("=")[2] for entry in env}


def finish(document: Json, diff_ids: Sequence[str], created: str) -> Json:
    """The document as it is stored: with the layers, and the times of what this build added."""
    config = {
        name: value for name, value in document["config"].items() if value not in (None, [], {}, "", False)
    }
    history = [
        {"created": created, **entry} if entry.get("comment") == COMMENT and "created" not in entry else entry
        for entry in document["history"]
    ]
    finished = {
        **document,
        "config": config,
        "created": created,
        "history": history,
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }
    return cast(Json, _readable(finished))


def readable(text: str) -> str:
    """Bytes of a Dockerfile that are no UTF-8 are kept as surrogates; JSON has U+FFFD for them, as Go writes it."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _readable(value: Any) -> Any:
    match value:
        case str():
            return readable(value)
        case dict():
            return {readable(key): _readable(each) for key, each in value.items()}
        case list():
            return [_readable(each) for each in value]
    return value


# -- Go's formats


def quoted(text: str) -> str:
    """Go's %q of a string."""
    out = ['"']
    for character in text:
        out.append(_ESCAPES.get(character) or (character if character.isprintable() else _escape(character)))
    return "".join([*out, '"'])


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a", "\b": "\\b", "\f": "\\f",
            "\v": "\\v"}  # fmt: skip


def _escape(character: str) -> str:
    number = ord(character)
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def quoted_list(words: Iterable[str]) -> str:
    """%q of a slice."""
    return "[" + " ".join(quoted(word) for word in words) + "]"


def plain_list(words: Iterable[str]) -> str:
    """%v of a slice."""
    return "[" + " ".join(words) + "]"


def duration(nanoseconds: int) -> str:
    """time.Duration.String()."""
    if nanoseconds == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if nanoseconds < size * 1000:
            return _decimal(nanoseconds, size) + unit
    hours, rest = divmod(nanoseconds, 3600 * 10**9)
    minutes, rest = divmod(rest, 60 * 10**9)
    seconds = _decimal(rest, 10**9) + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _decimal(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    digits = len(str(size)) - 1
    fraction = f"{rest:0{digits}d}".rstrip("0") if digits else ""
    return f"{whole}.{fraction}" if fraction else str(whole)
